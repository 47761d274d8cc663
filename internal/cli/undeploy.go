package cli

import (
	"context"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/tosca"
)

func (a *app) undeployCommand() *cobra.Command {
	o := &hostOptions{}
	cmd := &cobra.Command{
		Use:   "undeploy",
		Short: "Take back what deploy made in this folder",
		Long: `Take back what deploy made in this folder, what stands on others first: the tags that its nodes have pushed and that still
name what was pushed. A tag that is gone, or that somebody else has moved, stays as it is, and a line says so. Nodes
with removal: keep keep their tags. Without anything deployed it does nothing.

Passwords are kept nowhere: those that stood in the inputs themselves are read from there again, so the inputs must
still be where they were, or be given with -i. References (env:NAME, file:PATH) need nothing.`,
		Example: `  image-builder undeploy
  image-builder undeploy -i inputs.yaml`,
		Args: command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runUndeploy(cmd.Context(), o) },
	}
	o.add(cmd)
	return cmd
}

func (a *app) runUndeploy(ctx context.Context, o *hostOptions) error {
	return a.onHost(o, func(d *tosca.Deployment, runner *nodeRunner) (*tosca.Report, error) {
		runner.grouped = true
		return d.Undeploy(ctx, func() (*tosca.Topology, error) {
			top, _, err := a.topology(ctx, o, d.Folder)
			return top, err
		})
	})
}
