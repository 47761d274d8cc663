package cli

import (
	"context"
	"encoding/json"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imagebuilder/internal/cli/onlooker"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/internal/remote"
	"imagebuilder/plugin"
)

// remoteOptions say on which other machine an operation is carried out.
type remoteOptions struct {
	ssh  string
	sudo bool
}

func (o *remoteOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.ssh, "on", "", `another machine that does it: ssh with its options and the destination, as a JSON `+"`ARRAY`"+` of strings`)
	flags.BoolVar(&o.sudo, "on-sudo", false, "as root there, by sudo that asks for no password")
}

// server is the machine that --on says; nil without it. The operation's inputs are as for this machine, but for what names places on
// the server; how to build is the server's own affair.
func (a *app) server(op *imagenode.Operation, o *lifecycleOptions) (*remote.Server, error) {
	if o.remote.ssh == "" {
		return nil, nil
	}
	s := &remote.Server{Sudo: o.remote.sudo, Version: a.Version, Flags: remote.Flags(a.LookupEnv)}
	if json.Unmarshal([]byte(o.remote.ssh), &s.SSH) != nil || len(s.SSH) < 2 {
		return nil, fault.New(fault.Invalid, "--on is not a JSON array of ssh, its options and a destination").
			WithHint(`for example '["ssh", "-i", "key", "me@server.example.com"]'`)
	}
	if err := remote.WorkFolderProblem(op.Inputs); err != nil {
		return nil, err
	}
	op.Settings = nil
	var err error
	s.Programs, err = a.programs(o.settings.Plugin)
	return s, err
}

// programs are the executables that may be brought to another machine: ours.
func (a *app) programs(explicit string) (remote.Programs, error) {
	dir, err := a.PluginDir()
	if err != nil {
		return remote.Programs{}, err
	}
	own, err := a.Executable()
	if err != nil {
		return remote.Programs{}, fault.New(fault.Internal, "find image-builder's own executable: %w", err)
	}
	if real, err := filepath.EvalSymlinks(own); err == nil {
		own = real
	}
	p := remote.Programs{Own: own, Plugin: filepath.Join(dir, plugin.MainName)}
	if paths, err := a.FindPlugins(explicit); err == nil {
		p.Plugin = paths[0]
	}
	p.Folder, _ = a.LookupEnv(remote.ProgramsVariable)
	engine, _ := a.LookupEnv("IMAGE_BUILDER_REMOTE_ENGINE")
	p.Managed = engine == "managed"
	return p, nil
}

// operateOn has another machine do it. It ends with opera: what is left of Ansible then would never hear of it.
func operateOn(ctx context.Context, server *remote.Server, request plugin.Request, j *journal) (json.RawMessage, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-onlooker.Gone():
			cancel()
		case <-ctx.Done():
		}
	}()
	return server.Execute(ctx, request, j.display.Emit)
}

// performCommand is what --on runs on the other machine.
func (a *app) performCommand() *cobra.Command {
	var settings command.SettingsFlags
	cmd := &cobra.Command{
		Use:    remote.Command,
		Short:  "Perform a request of an image-builder on another machine",
		Long:   "What image-builder lifecycle --on runs on the other machine: one order on standard input, answers on standard output, both for it alone.",
		Hidden: true,
		Args:   command.Arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			own, err := settings.Settings()
			if err != nil {
				return err
			}
			signal.Ignore(syscall.SIGPIPE) // when nobody listens any more, the operation is cancelled and cleans up
			return remote.Serve(cmd.Context(), a.In, a.Out, a.Version, own,
				func(ctx context.Context, request plugin.Request, emit plugin.Sink) (json.RawMessage, error) {
					client, err := a.startPlugin(ctx, settings.Plugin, request.NodeType, request.Operation)
					if err != nil {
						return nil, err
					}
					defer a.closePlugin(client)
					return client.Execute(ctx, request, emit)
				})
		},
	}
	settings.Add(cmd)
	return cmd
}
