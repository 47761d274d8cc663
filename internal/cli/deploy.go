package cli

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/tosca"
)

// hostOptions are the options of commands that deploy and undeploy templates.
type hostOptions struct {
	template string
	inputs   string
	workers  int
	output   format
	progress progress.Mode
	settings command.SettingsFlags
}

// add adds the flags to a command.
func (o *hostOptions) add(cmd *cobra.Command) {
	inputsFlag(cmd, &o.inputs)
	cmd.Flags().IntVarP(&o.workers, "workers", "w", tosca.DefaultWorkers, "nodes that are worked on at once")
	outputFlag(cmd, &o.output)
	progressFlag(cmd, &o.progress)
	o.settings.Add(cmd)
}

func inputsFlag(cmd *cobra.Command, inputs *string) {
	cmd.Flags().StringVarP(inputs, "inputs", "i", "", "YAML or JSON `FILE` with values for the template's inputs; - is standard input")
}

func (a *app) deployCommand() *cobra.Command {
	o := &hostOptions{}
	cmd := &cobra.Command{
		Use:   "deploy [TEMPLATE]",
		Short: "Deploy a TOSCA template of images, without opera",
		Long: `Deploy a TOSCA template of image nodes: those that others stand on first, the others side by side, each from the very
digest of what it stands on. It takes the templates and inputs that opera takes, as far as image nodes go; whatever needs
a playbook or another machine is refused, for opera to do.

What is known of the deployment is kept in .image-builder, in the current folder: no secrets. A deployment that failed or was
interrupted goes on with what is missing when it is started again; one that was complete is done again, which builds
only what has changed. Without TEMPLATE it is the one that was deployed here before, and without -i its inputs.

When a node fails, the others go on, except for those that stand on it; the exit code tells why the first one failed.`,
		Example: `  image-builder deploy -i inputs.yaml docker_image_definition.yaml
  image-builder deploy -w 3 -i inputs_graph.yaml image_graph.yaml
  image-builder outputs
  image-builder undeploy`,
		Args:              command.Arguments(0, 1, "one template"),
		ValidArgsFunction: documents,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.template = args[0]
			}
			return a.runDeploy(cmd.Context(), o)
		},
	}
	o.add(cmd)
	return cmd
}

func (a *app) runDeploy(ctx context.Context, o *hostOptions) error {
	return a.onHost(o, func(d *tosca.Deployment, runner *nodeRunner) (*tosca.Report, error) {
		wait, abandon := a.pluginAhead(ctx, o.settings.Plugin, imagenode.NodeType, imagenode.Create)
		defer abandon()
		runner.ahead = wait
		top, inputs, err := a.topology(ctx, o, d.Folder)
		if err != nil {
			return nil, err
		}
		runner.grouped = len(top.Nodes()) > 2 // a machine and one image need no names
		return d.Deploy(ctx, top, inputs)
	})
}

// onHost does something with the deployment of the current folder, shows what goes on, and delivers the report.
func (a *app) onHost(o *hostOptions, work func(*tosca.Deployment, *nodeRunner) (*tosca.Report, error)) error {
	display, err := a.display(o.progress)
	if err != nil {
		return err
	}
	defer display.Close()
	if o.workers < 1 {
		return fault.New(fault.Invalid, "--workers %d is not a positive number", o.workers)
	}
	folder, err := currentFolder()
	if err != nil {
		return err
	}
	settings, err := o.settings.Marshal()
	if err != nil {
		return err
	}
	runner := &nodeRunner{app: a, explicit: o.settings.Plugin, settings: settings, folder: folder, display: display}
	defer runner.close()
	report, err := work(&tosca.Deployment{
		Folder: folder, Runner: runner, Workers: o.workers,
		Note: func(s string) { display.Emit(event.Event{Note: &event.Note{Level: event.Info, Text: s}}) },
	}, runner)
	display.Close()
	return a.deliverReport(o, display, report, err)
}

func currentFolder() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fault.New(fault.Invalid, "find the current folder: %w", err)
	}
	return folder, nil
}

// topology reads the template and its inputs, or those of the deployment that is there. It gives the path from which the
// inputs can be read again, if they can.
func (a *app) topology(ctx context.Context, o *hostOptions, folder string) (*tosca.Topology, string, error) {
	file, from := o.template, o.inputs
	if file == "" {
		info, err := tosca.LoadInfo(folder)
		if err != nil {
			return nil, "", err
		}
		if info.Template == "" {
			return nil, "", fault.New(fault.Invalid, "nothing has been deployed in %s: deploy needs a template", folder).
				WithHint("see 'image-builder deploy --help'")
		}
		file = relativeTo(folder, info.Template)
		if from == "" && info.InputsFile != "" {
			from = relativeTo(folder, info.InputsFile)
		}
	}
	template, err := tosca.Read(file)
	if err != nil {
		return nil, "", err
	}
	inputs, err := a.readInputs(ctx, from)
	if err != nil {
		return nil, "", err
	}
	top, err := template.Bind(inputs)
	if err != nil || from == "" || from == command.StandardInput {
		return top, "", err
	}
	again, err := filepath.Abs(from)
	if err != nil {
		return nil, "", fault.New(fault.Invalid, "%s: %w", from, err)
	}
	return top, again, nil
}

// relativeTo is a path as errors should show it: short, where it is below the folder.
func relativeTo(folder, path string) string {
	if short, err := filepath.Rel(folder, path); err == nil && filepath.IsLocal(short) {
		return short
	}
	return path
}

func (a *app) readInputs(ctx context.Context, file string) (*tosca.Inputs, error) {
	if file == "" {
		return tosca.NoInputs(), nil
	}
	data, err := a.Read(ctx, file)
	if err != nil {
		return nil, err
	}
	return tosca.ReadInputs(data, command.ShownName(file))
}
