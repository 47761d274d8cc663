// Package command is the frame of a command line: the process it runs in, signals, usage errors, exit codes, and flags that
// take their values from the environment and the configuration file. What commands there are is their packages' affair.
package command

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

// App is one run of the command line.
type App struct {
	Host
	Version    string
	JSONErrors bool // standard error carries one JSON object per line
	running    bool // a verb has begun: errors before that are about usage
}

// Main runs a command line and returns its exit code, one of fault's. makeRoot gives the root command with all of its
// verbs; Main adds what every command line has: help, completion, flags from environment and configuration. The first SIGINT or
// SIGTERM cancels what goes on, the second one ends the process at once.
func Main(ctx context.Context, host Host, args []string, version string, makeRoot func(*App) *cobra.Command) (code int) {
	a := &App{Host: host, Version: version}
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

	root := makeRoot(a)
	a.frame(root)
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

// frame gives a root command what every command line has.
func (a *App) frame(root *cobra.Command) {
	root.Version, root.Args = a.Version, a.NoSuchCommand
	root.SilenceErrors, root.SilenceUsage = true, true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.Begin(cmd) }
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SetVersionTemplate(root.Name() + " {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(a.helpCommand())
	a.completionCommand(root)
}

// completionCommand adds cobra's completion, except that a shell that it does not know is an error.
func (a *App) completionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args = a.NoSuchCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// Begin runs before every verb: flags that were not given take their value from the environment, and from the
// configuration file where that says nothing.
func (a *App) Begin(cmd *cobra.Command) error {
	if err := a.fromConfig(cmd.Flags()); err != nil {
		return err
	}
	return a.BeginWithoutConfiguration(cmd)
}

// BeginWithoutConfiguration is Begin for a verb that does not read the configuration file.
func (a *App) BeginWithoutConfiguration(cmd *cobra.Command) error {
	a.running = true
	return a.fromEnvironment(cmd.Flags())
}

// helpCommand is cobra's, except that a topic that does not exist is an error.
func (a *App) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return a.NoSuchCommand(cmd.Root(), args)
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

// report prints an error and returns its exit code.
func (a *App) report(err error) int {
	f := fault.As(err)
	if f.Kind == fault.Internal && f.Hint == "" {
		f = &fault.Error{Kind: f.Kind, Message: f.Message, Problems: f.Problems, Err: f.Err}
		f = f.WithHint("this looks like a defect of image-builder; please report it, with the command that led to it")
	}
	if a.JSONErrors {
		writeErrorJSON(a.Err, f)
	} else {
		WriteError(a.Err, f)
	}
	return f.Kind.ExitCode()
}

// isFault tells whether err carries a fault, and so knows its kind.
func isFault(err error) bool {
	var f *fault.Error
	return errors.As(err, &f)
}
