package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imagebuilder/internal/fault"
)

// environmentKey is the annotation of a flag that names its environment variable.
const environmentKey = "imagebuilder_environment"

// Environment lets a flag take its value from an environment variable, and says so in its help. Aliases are other names of the
// variable, looked at in their order where it is not set.
func Environment(flags *pflag.FlagSet, flag, variable string, aliases ...string) {
	f := flags.Lookup(flag)
	f.Usage += " (environment: " + variable + ")"
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[environmentKey] = append([]string{variable}, aliases...)
}

// fromEnvironment gives flags that stand not on the command line the values of their environment variables.
// An empty variable is as good as none.
func (a *App) fromEnvironment(flags *pflag.FlagSet) error {
	var wrong error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || wrong != nil {
			return
		}
		for _, variable := range f.Annotations[environmentKey] {
			value, _ := a.LookupEnv(variable)
			if value == "" {
				continue
			}
			if err := f.Value.Set(value); err != nil {
				wrong = fault.New(fault.Invalid, "environment variable %s: invalid value %q: %w", variable, value, err)
			}
			return
		}
	})
	return wrong
}

// choice is a flag that takes one of a few words.
type choice[T ~string] struct {
	value   *T
	allowed []T
}

// NewChoice makes a choice that is stored in value and starts with what stands there.
func NewChoice[T ~string](value *T, allowed ...T) *choice[T] { return &choice[T]{value, allowed} }

// Set takes one of the allowed words.
func (c *choice[T]) Set(s string) error {
	if !slices.Contains(c.allowed, T(s)) {
		return fmt.Errorf("it is one of %s", c.list(", "))
	}
	*c.value = T(s)
	return nil
}

// String is the chosen word.
func (c *choice[T]) String() string { return string(*c.value) }

// Type is what help shows as the flag's value.
func (c *choice[T]) Type() string { return c.list("|") }

func (c *choice[T]) list(separator string) string {
	words := make([]string, len(c.allowed))
	for i, w := range c.allowed {
		words[i] = string(w)
	}
	return strings.Join(words, separator)
}

// ChoiceFlag adds a choice to a command, with completion of its words.
func ChoiceFlag[T ~string](cmd *cobra.Command, c *choice[T], name, short, usage string) {
	cmd.Flags().VarP(c, name, short, usage)
	words := strings.Split(c.list("|"), "|")
	// the only error is a flag that does not exist or completes already
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// Size is a flag for bytes: 500MB, 20GB (powers of ten), 20GiB (powers of two) or a number of bytes.
type Size int64

// Set reads a size.
func (s *Size) Set(text string) error {
	parse := units.FromHumanSize
	if strings.ContainsAny(text, "iI") {
		parse = units.RAMInBytes // which takes every unit for a power of two
	}
	n, err := parse(text)
	if err != nil || n <= 0 {
		return fmt.Errorf("it is a size, as 500MB or 20GiB")
	}
	*s = Size(n)
	return nil
}

// String is the size for people.
func (s *Size) String() string { return units.BytesSize(float64(*s)) }

// Type is what help shows as the flag's value.
func (s *Size) Type() string { return "size" }
