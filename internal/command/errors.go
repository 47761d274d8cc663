package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imagebuilder/internal/fault"
)

// WriteError prints an error for people: its message, its problems one on each line, and what to do.
func WriteError(w io.Writer, f *fault.Error) {
	var b strings.Builder
	fmt.Fprintf(&b, "error: %s\n", strings.TrimRight(f.Message, "\n"))
	for _, p := range f.Problems {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	if f.Hint != "" {
		fmt.Fprintf(&b, "hint: %s\n", f.Hint)
	}
	_, _ = io.WriteString(w, b.String()) // there is nobody left to tell
}

// errorLine is the last line of standard error with --progress json.
type errorLine struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Kind     fault.Kind      `json:"kind"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint,omitempty"`
	Problems []fault.Problem `json:"problems,omitempty"`
}

func writeErrorJSON(w io.Writer, f *fault.Error) {
	_ = json.NewEncoder(w).Encode(errorLine{errorBody{f.Kind, f.Message, f.Hint, f.Problems}})
}

// panicked is the error for a panic: where it was, in one line, and no stack.
func panicked(p any) error {
	return fault.New(fault.Internal, "internal error: %s%v", panicPlace(), p)
}

// panicPlace is the innermost place in our own code below a panic, as "plan.go:12: ".
func panicPlace() string {
	frames := runtime.CallersFrames(callers())
	below := false
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			below = true
		case below && strings.HasPrefix(frame.Function, "imagebuilder/"):
			return fmt.Sprintf("%s:%d: ", filepath.Base(frame.File), frame.Line)
		}
		if !more {
			return ""
		}
	}
}

// callers are the program counters of the stack; 64 frames reach from the deepest verb to the panic.
func callers() []uintptr {
	pc := make([]uintptr, 64)
	return pc[:runtime.Callers(2, pc)]
}

// usageError makes a fault of what cobra finds wrong with a command line.
func usageError(root *cobra.Command, args []string, err error) error {
	if isFault(err) {
		return err
	}
	cmd, _, findErr := root.Find(args)
	if findErr != nil {
		cmd = root
	}
	return fault.New(fault.Invalid, "%s", FirstLine(err.Error())).WithHint("%s", seeHelp(cmd))
}

func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("see '%s --help'", cmd.CommandPath()) }

func FirstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// NoSuchCommand accepts no arguments: on the root, an argument is a verb that does not exist.
func (a *App) NoSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	f := fault.New(fault.Invalid, "unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2 // as cobra's own default, which is set only where cobra asks
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return f.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return f.WithHint("%s", seeHelp(cmd))
}

// flagError adds to an error about flags what may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	f := fault.New(fault.Invalid, "%w", err)
	if unknown := new(pflag.NotExistError); errors.As(err, &unknown) {
		if near := nearestFlag(cmd.Flags(), unknown.GetSpecifiedName()); near != "" {
			return f.WithHint("did you mean --%s?", near)
		}
	}
	return f.WithHint("%s", seeHelp(cmd))
}

// maxTypos is how many letters may be wrong for a flag to be suggested.
const maxTypos = 3

func nearestFlag(flags *pflag.FlagSet, name string) string {
	best, distance := "", maxTypos+1
	flags.VisitAll(func(f *pflag.Flag) {
		d := levenshtein.Distance(name, f.Name, nil)
		if strings.HasPrefix(f.Name, name) {
			d = 0
		}
		if d < distance && d < len(name) && !f.Hidden {
			best, distance = f.Name, d
		}
	})
	return best
}

// Arguments says how many arguments a verb takes, and what they are.
func Arguments(minimum, maximum int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < minimum:
			return fault.New(fault.Invalid, "%s needs %s", cmd.CommandPath(), what).WithHint("%s", seeHelp(cmd))
		case maximum >= 0 && len(args) > maximum:
			return fault.New(fault.Invalid, "%s takes %s, and nothing after it: %q", cmd.CommandPath(), what, args[maximum]).
				WithHint("%s", seeHelp(cmd))
		}
		return nil
	}
}
