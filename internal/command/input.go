package command

import (
	"context"
	"errors"
	"io"
	"os"

	"imagebuilder/internal/fault"
)

// StandardInput is the file name that means standard input.
const StandardInput = "-"

// maxRead is the most that is read of a document. It is more than any document may have, so that one
// that is too large is told so by the package that knows the limit, and a device or a log is not read whole.
const maxRead = 4 << 20

// ShownName is how errors name a document.
func ShownName(file string) string {
	if file == StandardInput {
		return "standard input"
	}
	return file
}

// Read reads a document from a file or standard input. It returns early when ctx ends: what blocks, as a
// terminal or a pipe that nobody writes to, is left to itself then.
func (a *App) Read(ctx context.Context, file string) ([]byte, error) {
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
			return nil, fault.New(fault.Invalid, "read %s: %w", ShownName(file), Cause(got.err))
		}
		return got.data, nil
	}
}

// readAll reads up to maxRead bytes.
func (a *App) readAll(file string) ([]byte, error) {
	if file == StandardInput {
		return io.ReadAll(io.LimitReader(a.In, maxRead))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// Cause is what went wrong with a path, without the path: our own errors name it.
func Cause(err error) error {
	var path *os.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
