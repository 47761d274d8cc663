package cli

import (
	"context"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
)

func (a *app) planCommand() *cobra.Command {
	o := &requestOptions{}
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what build would do, and do nothing",
		Long: `Show what build would do with a document: from which commit and Dockerfile, on which bases (resolved to
digests), for which platforms, and where the images would go. Credentials for the push are checked first.
Nothing is built and nothing is pushed.

FILE is JSON or YAML; - is standard input.`,
		Example: `  image-builder plan build.yaml
  image-builder plan build.yaml --output json --set source.git_repo.version=main`,
		Args:              command.Arguments(1, 1, "one document"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return a.runPlan(cmd.Context(), o)
		},
	}
	o.add(cmd)
	return cmd
}

func (a *app) runPlan(ctx context.Context, o *requestOptions) error {
	if _, err := a.display(o.progress); err != nil { // a plan has no events, but its errors may be wanted as JSON
		return err
	}
	request, err := a.request(ctx, o)
	if err != nil {
		return err
	}
	client, err := a.startPlugin(ctx, o.settings.Plugin, imageNode, create)
	if err != nil {
		return err
	}
	defer a.closePlugin(client)
	raw, err := client.Plan(ctx, request)
	if err != nil {
		return err
	}
	return a.print(o.output, raw, planTable)
}
