package cli

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"imagebuilder/internal/command"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/plugin"
)

// doctorOptions are the options of doctor.
type doctorOptions struct {
	fix      bool
	output   format
	settings command.SettingsFlags
}

func (a *app) doctorCommand() *cobra.Command {
	o := &doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine can build, and what mends what is missing",
		Long: `Say what this machine can do: which engines there are, in which version, for which platforms (natively or by
emulation), what is missing and the command that mends it. Nothing is changed.

With --fix it sets emulation up first, so that a RUN can be carried out for foreign platforms: it mounts binfmt_misc
where that is missing and registers the emulators of the package qemu-user-static that are not registered. Only root
may. It installs no package and removes nothing.

The exit code is 0 when images can be built here, and 1 otherwise.`,
		Example: `  image-builder doctor
  sudo image-builder doctor --fix
  image-builder doctor --buildkit-host tcp://builder:1234 --output json`,
		Args:              command.Arguments(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.runDoctor(cmd.Context(), o) },
	}
	outputFlag(cmd, &o.output)
	cmd.Flags().BoolVar(&o.fix, "fix", false, "set emulation of foreign platforms up on this machine first; only root may")
	o.settings.Add(cmd)
	return cmd
}

func (a *app) runDoctor(ctx context.Context, o *doctorOptions) error {
	settings, err := o.settings.Marshal()
	if err != nil {
		return err
	}
	client, err := a.startPlugin(ctx, o.settings.Plugin, engineNode, doctor)
	if err != nil {
		return err
	}
	defer a.closePlugin(client)
	inputs := json.RawMessage(`{}`)
	if o.fix {
		inputs = json.RawMessage(`{"fix":true}`)
	}
	raw, err := client.Execute(ctx, plugin.Request{NodeType: engineNode, Operation: doctor, Inputs: inputs, Settings: settings}, event.Discard)
	if err != nil {
		return err
	}
	if err := a.print(o.output, raw, doctorTable); err != nil {
		return err
	}
	return diagnosis(raw)
}

// diagnosis is an error when no engine is available.
func diagnosis(raw json.RawMessage) error {
	var d result.Doctor
	if err := json.Unmarshal(raw, &d); err != nil {
		return fault.New(fault.Internal, "read the plugin's report: %w", err)
	}
	for _, e := range d.Engines {
		if e.Available {
			return nil
		}
	}
	f := fault.New(fault.NotFound, "no engine is available here")
	for _, e := range d.Engines {
		if e.Fix != "" {
			return f.WithHint("for %s: %s", e.Name, e.Fix)
		}
	}
	return f.WithHint("start a BuildKit daemon and name it with --buildkit-host")
}
