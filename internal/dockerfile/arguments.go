package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

// maxValue bounds an argument's value in bytes: forty lines of ARG A=$A$A would fill any memory. It
// is far above what a name of an image needs and what a command line can take.
const maxValue = 1 << 20

// Query says what is built.
type Query struct {
	Args          map[string]string // build arguments
	Stage         string            // target stage; "" is the last
	Platform      ocispecs.Platform // target platform
	BuildPlatform ocispecs.Platform // platform of the builder, for --platform=$BUILDPLATFORM
}

// normalized is the query with its platforms as BuildKit writes them; without a build platform the
// target's is taken.
func (q Query) normalized() (Query, error) {
	if q.Platform.OS == "" || q.Platform.Architecture == "" {
		return q, fault.New(fault.Internal, "read a Dockerfile's bases: no target platform is given")
	}
	if q.BuildPlatform.OS == "" || q.BuildPlatform.Architecture == "" {
		q.BuildPlatform = q.Platform
	}
	q.Platform = platforms.Normalize(q.Platform)
	q.BuildPlatform = platforms.Normalize(q.BuildPlatform)
	return q, nil
}

// arguments are the names that a FROM can use. It is an environment for BuildKit's lexer.
type arguments map[string]string

// Get implements shell.EnvGetter.
func (a arguments) Get(key string) (string, bool) { v, ok := a[key]; return v, ok }

// Keys implements shell.EnvGetter.
func (a arguments) Keys() []string { return slices.Sorted(maps.Keys(a)) }

// globals are the automatic arguments and those that stand before the first FROM.
func (f *File) globals(q Query) (arguments, error) {
	target := q.Stage
	if target == "" {
		target = f.stages[len(f.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	b, t := q.BuildPlatform, q.Platform
	env := arguments{
		"BUILDPLATFORM": platforms.Format(b), "BUILDOS": b.OS, "BUILDOSVERSION": b.OSVersion,
		"BUILDARCH": b.Architecture, "BUILDVARIANT": b.Variant,
		"TARGETPLATFORM": platforms.FormatAll(t), "TARGETOS": t.OS, "TARGETOSVERSION": t.OSVersion,
		"TARGETARCH": t.Architecture, "TARGETVARIANT": t.Variant,
		"TARGETSTAGE": target,
	}
	for k := range env {
		if v, ok := q.Args[k]; ok {
			env[k] = v
		}
	}
	for _, cmd := range f.args {
		for _, arg := range cmd.Args {
			if v, ok := q.Args[arg.Key]; ok {
				env[arg.Key] = v
			} else if arg.Value != nil {
				value, err := f.expand(*arg.Value, env)
				if err != nil {
					return nil, f.errorAt(firstLine(cmd.Location()), "ARG %s: %w", arg.Key, err)
				}
				env[arg.Key] = value.text
			}
		}
	}
	return env, nil
}

// expanded is a word with its arguments replaced, and the arguments that left nothing behind.
type expanded struct {
	text  string
	empty []string
}

// because says which arguments are empty, as the end of a message.
func (e expanded) because() string {
	if len(e.empty) == 0 {
		return ""
	}
	return ": ARG " + strings.Join(e.empty, ", ") + " is empty"
}

func (f *File) expand(word string, env arguments) (expanded, error) {
	lex := shell.NewLex(f.escape) // one must not be shared by goroutines
	res, err := lex.ProcessWordWithMatches(word, env)
	if err != nil {
		return expanded{}, errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("failed to process %q: ", word)))
	}
	if len(res.Result) > maxValue {
		return expanded{}, fmt.Errorf("its value is longer than %d bytes", maxValue)
	}
	names := map[string]bool{}
	for k := range res.Unmatched {
		names[k] = true
	}
	for k := range res.Matched {
		names[k] = env[k] == ""
	}
	maps.DeleteFunc(names, func(_ string, empty bool) bool { return !empty })
	return expanded{text: res.Result, empty: slices.Sorted(maps.Keys(names))}, nil
}

// blame says which arguments are empty and what to do about them.
func (f *File) blame(err *fault.Error, empty []string) *fault.Error {
	if len(empty) == 0 {
		return err
	}
	var known, unknown []string
	for _, name := range empty {
		if f.declares(name) {
			known = append(known, name)
		} else {
			unknown = append(unknown, name)
		}
	}
	var hints []string
	if len(known) > 0 {
		hints = append(hints, "give build_args a value for "+strings.Join(known, ", ")+", or its ARG a default")
	}
	if len(unknown) > 0 {
		hints = append(hints, "FROM sees only what an ARG before the first FROM declares: add ARG "+strings.Join(unknown, " there, and ARG "))
	}
	return err.WithHint("%s", strings.Join(hints, "; "))
}

func (f *File) declares(name string) bool {
	for _, cmd := range f.args {
		for _, arg := range cmd.Args {
			if arg.Key == name {
				return true
			}
		}
	}
	return false
}
