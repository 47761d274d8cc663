// Package cli is the command line: image-builder and its verbs. It reads documents and flags, hands the work to
// a plugin and shows what comes back. It fetches, builds and pushes nothing itself.
//
// Results go to standard output, everything for people to standard error. There is one file for each verb.
package cli

import (
	"context"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
)

// app is one run of the command line.
type app struct{ *command.App }

// Main runs the command line and returns its exit code, one of fault's. See command.Main.
func Main(ctx context.Context, host command.Host, args []string, version string) int {
	return command.Main(ctx, host, args, version, func(a *command.App) *cobra.Command { return (&app{a}).root() })
}

// root is the command image-builder with all its verbs.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "image-builder",
		Short: "Build container images from one document and push them",
		Long: `image-builder turns one document, build_params, into container images that stand in a registry:
a git repository or a Dockerfile, built as any number of variants on any number of platforms.

Results go to standard output, everything else to standard error.

Exit codes: 0 done, 1 the build failed or something was not found, 2 the document or the command line is
wrong, 3 cancelled, 4 denied, 75 something did not answer (try again).`,
		Example: `  image-builder example git -o build.yaml    # a document to start from
  image-builder validate build.yaml
  image-builder plan build.yaml              # what would be built, from what, and where it would go
  image-builder build build.yaml
  image-builder doctor                       # what this machine can do`,
	}
	root.AddCommand(
		a.buildCommand(), a.planCommand(), a.validateCommand(), a.convertCommand(),
		a.exampleCommand(), a.cacheCommand(), a.doctorCommand(), a.deployCommand(), a.outputsCommand(), a.undeployCommand(), a.infoCommand(), a.lifecycleCommand(), a.performCommand(), a.needsCommand(), a.versionCommand(),
	)
	return root
}
