package cli

import (
	"context"

	"github.com/spf13/cobra"

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
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runUndeploy(cmd.Context(), o) },
	}
	o.add(cmd)
	return cmd
}

func (a *app) runUndeploy(ctx context.Context, o *hostOptions) error {
	display, err := a.display(o.progress)
	if err != nil {
		return err
	}
	defer display.Close()
	d, end, err := a.deployment(o, display)
	if err != nil {
		return err
	}
	defer end()
	d.Runner.(*nodeRunner).grouped = true
	report, err := d.Undeploy(ctx, func() (*tosca.Topology, error) {
		top, _, err := a.topology(ctx, o, d.Folder)
		return top, err
	})
	display.Close()
	return a.deliverReport(o, display, report, err)
}
