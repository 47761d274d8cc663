// Package cli is the command line: image-builder and its verbs. It reads documents and flags, hands the work to
// a plugin and shows what comes back. It fetches, builds and pushes nothing itself.
//
// Results go to standard output, everything for people to standard error. There is one file for each verb.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/fault"
)

// Host is what the commands know of the process they run in.
type Host struct {
	In         io.Reader
	Out        io.Writer                        // results
	Err        io.Writer                        // for people
	LookupEnv  func(name string) (string, bool) // environment
	Executable func() (string, error)           // path of the running executable
	Now        func() time.Time
}

// Process is the host of a real process.
func Process() Host {
	return Host{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		LookupEnv: os.LookupEnv, Executable: os.Executable, Now: time.Now,
	}
}

// app is one run of the command line.
type app struct {
	Host
	version    string
	running    bool // a verb has begun: errors before that are about usage
	jsonErrors bool // standard error carries one JSON object per line
}

// Main runs the command line and returns its exit code, one of fault's. The first SIGINT or SIGTERM cancels
// what goes on, the second one ends the process at once.
func Main(ctx context.Context, host Host, args []string, version string) (code int) {
	a := &app{Host: host, version: version}
	defer func() {
		if p := recover(); p != nil {
			code = a.report(panicked(p))
		}
	}()
	ctx, stop := interruptible(ctx)
	defer stop()
	if err := a.takeEnvironment(ctx); err != nil {
		return a.report(err)
	}

	root := a.root()
	root.SetArgs(args)
	root.SetIn(host.In)
	root.SetOut(host.Out)
	root.SetErr(host.Err)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return fault.ExitOK
	case ctx.Err() != nil:
		err = fault.New(fault.Cancelled, "cancelled")
	case !a.running:
		err = usageError(root, args, err)
	}
	return a.report(err)
}

// interruptible gives a context that ends with the first SIGINT or SIGTERM. The second one ends the process.
// A signal that the process was started to ignore, as by nohup, stays ignored.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2) // both may come before anyone looks
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	over := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case s := <-signals:
				if !first {
					die(s)
				}
				cancel()
			case <-over:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		cancel()
	}
}

// die ends the process by a signal, so that a shell sees what it died of.
func die(s os.Signal) {
	signal.Reset(s)
	self, err := os.FindProcess(os.Getpid())
	if err != nil || self.Signal(s) != nil {
		os.Exit(fault.ExitCancelled)
	}
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
		Version:           a.version,
		Args:              a.noSuchCommand,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.begin,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("image-builder {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(a.helpCommand())
	root.AddCommand(
		a.buildCommand(), a.planCommand(), a.validateCommand(), a.convertCommand(),
		a.exampleCommand(), a.cacheCommand(), a.doctorCommand(), a.deployCommand(), a.outputsCommand(), a.undeployCommand(), a.infoCommand(), a.lifecycleCommand(), a.needsCommand(), a.versionCommand(),
	)
	a.completionCommand(root)
	return root
}

// completionCommand adds cobra's completion, except that a shell that it does not know is an error.
func (a *app) completionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args = a.noSuchCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// begin runs before every verb: flags that were not given take their value from the environment, and from the
// configuration file where that says nothing.
func (a *app) begin(cmd *cobra.Command, _ []string) error {
	if err := a.fromConfig(cmd.Flags()); err != nil {
		return err
	}
	if err := a.fromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	a.running = true
	return nil
}

// helpCommand is cobra's, except that a topic that does not exist is an error.
func (a *app) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return a.noSuchCommand(cmd.Root(), args)
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// report prints an error and returns its exit code.
func (a *app) report(err error) int {
	f := fault.As(err)
	if f.Kind == fault.Internal && f.Hint == "" {
		f = &fault.Error{Kind: f.Kind, Message: f.Message, Problems: f.Problems, Err: f.Err}
		f = f.WithHint("this looks like a defect of image-builder; please report it, with the command that led to it")
	}
	if a.jsonErrors {
		writeErrorJSON(a.Err, f)
	} else {
		writeError(a.Err, f)
	}
	return f.Kind.ExitCode()
}

// isFault tells whether err carries a fault, and so knows its kind.
func isFault(err error) bool {
	var f *fault.Error
	return errors.As(err, &f)
}
