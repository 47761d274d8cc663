// Package apicli is the command line of the service: image-builder-api and its verbs, one file for each. It reads flags,
// variables and files, and hands over to internal/service.
package apicli

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

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "image-builder-api",
		Short: "A service that builds container images from documents and pushes them",
		Long: `image-builder-api takes build_params documents over HTTP, queues them, builds them with image-builder's plugin and pushes
the images. It has a REST API, a web page and live logs.

Without any configuration everything runs in one process, with a database in a folder. With PostgreSQL, any number of
processes share the work.

Exit codes: 0 done, 1 something was not found, 2 the configuration is wrong, 3 cancelled, 4 denied, 75 something did
not answer (try again).`,
		Example: `  image-builder-api serve                            # everything, here, with a key that is printed once
  image-builder-api keygen -o identities.txt         # for PostgreSQL and several processes
  image-builder-api migrate up
  image-builder-api serve --role api --seal-to age1…
  image-builder-api serve --role worker --identities identities.txt`,
	}
	root.AddCommand(a.serveCommand(), a.migrateCommand(), a.keygenCommand(), a.keyCommand(), a.healthCommand(), a.versionCommand())
	return root
}
