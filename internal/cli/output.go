package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
)

// format is how a result is printed.
type format string

// The formats.
const (
	formatAuto  format = "auto" // a table on a terminal, JSON elsewhere
	formatJSON  format = "json"
	formatYAML  format = "yaml"
	formatTable format = "table"
)

// outputFlag adds --output to a command.
func outputFlag(cmd *cobra.Command, f *format) {
	*f = formatAuto
	command.ChoiceFlag(cmd, command.NewChoice(f, formatAuto, formatJSON, formatYAML, formatTable), "output", "o",
		"how the result is printed; auto is a table on a terminal and JSON elsewhere")
}

// resolve decides what auto means for out.
func (f format) resolve(out io.Writer) format {
	switch {
	case f != formatAuto:
		return f
	case progress.IsTerminal(out):
		return formatTable
	default:
		return formatJSON
	}
}

// print prints a result, which is JSON, to standard output. The table is what table writes, and JSON
// where a result cannot be shown as one.
func (a *app) print(f format, raw json.RawMessage, table func(io.Writer, json.RawMessage) error) error {
	var b bytes.Buffer
	var err error
	switch f.resolve(a.Out) {
	case formatYAML:
		err = writeYAML(&b, raw)
	case formatTable:
		if err = table(&b, raw); err != nil {
			b.Reset()
			err = writeJSON(&b, raw)
		}
	default:
		err = writeJSON(&b, raw)
	}
	if err != nil {
		return fault.New(fault.Internal, "print the result: %w", err)
	}
	return a.write(b.Bytes())
}

// write writes to standard output.
func (a *app) write(data []byte) error {
	if _, err := a.Out.Write(data); err != nil {
		return fault.New(fault.Unavailable, "write to standard output: %w", err)
	}
	return nil
}

func writeJSON(b *bytes.Buffer, raw json.RawMessage) error {
	if err := json.Indent(b, raw, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	return nil
}

func writeYAML(b *bytes.Buffer, raw json.RawMessage) error {
	out, err := yaml.JSONToYAML(raw)
	if err != nil {
		return err
	}
	b.Write(out)
	return nil
}

// marshal is the JSON of a value of our own.
func marshal(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the result: %w", err)
	}
	return raw, nil
}

// resultFileMode lets everyone read a result: it holds nothing secret.
const resultFileMode = 0o644

// writeFile writes a file so that a reader sees all of it or what was there before.
func writeFile(path string, data []byte, mode os.FileMode) error {
	fail := func(err error) error { return fault.New(fault.Invalid, "write %s: %w", path, command.Cause(err)) }
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name()) // which fails once it has been renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// plural is a count and what is counted.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
