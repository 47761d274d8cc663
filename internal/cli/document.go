package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"imagebuilder/internal/fault"
)

// standardInput is the file name that means standard input.
const standardInput = "-"

// maxRead is the most that is read of a document. It is more than any document may have, so that one
// that is too large is told so by the package that knows the limit, and a device or a log is not read whole.
const maxRead = 4 << 20

// shownName is how errors name a document.
func shownName(file string) string {
	if file == standardInput {
		return "standard input"
	}
	return file
}

// read reads a document from a file or standard input. It returns early when ctx ends: what blocks, as a
// terminal or a pipe that nobody writes to, is left to itself then.
func (a *app) read(ctx context.Context, file string) ([]byte, error) {
	type answer struct {
		data []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		data, err := a.readAll(file)
		answers <- answer{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fault.New(fault.Cancelled, "cancelled")
	case got := <-answers:
		if got.err != nil {
			return nil, fault.New(fault.Invalid, "read %s: %w", shownName(file), cause(got.err))
		}
		return got.data, nil
	}
}

// readAll reads up to maxRead bytes.
func (a *app) readAll(file string) ([]byte, error) {
	if file == standardInput {
		return io.ReadAll(io.LimitReader(a.In, maxRead))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// folderOf is the folder that relative paths in a document are relative to: the document's own, and the current
// one for standard input.
func folderOf(file string) (string, error) {
	folder := "."
	if file != standardInput {
		folder = filepath.Dir(file)
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return "", fault.New(fault.Invalid, "folder of %s: %w", shownName(file), err)
	}
	return absolute, nil
}

// documents completes the names of documents.
func documents(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
}

// setFlag adds --set to a command.
func setFlag(cmd *cobra.Command, sets *[]string) {
	cmd.Flags().StringArrayVar(sets, "set", nil,
		"override a field with `PATH=VALUE`, as target.images[0].tag=v2; may be given more than once. "+
			"A secret is better given as env:NAME or file:PATH: others on this machine can see command lines")
}
