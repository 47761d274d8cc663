package command

import (
	"bytes"
	"context"
	"os"

	"imagebuilder/internal/fault"
)

// environmentFile is the variable that names a file, or a named pipe, with more of the environment.
const environmentFile = "IMAGE_BUILDER_ENVIRONMENT"

// takeEnvironment adds to the process's environment what is in the file that IMAGE_BUILDER_ENVIRONMENT names, if it is set: entries
// NAME=VALUE, each ended by a NUL byte. What a container is given as its environment is written to the disk of its engine,
// and shown to everybody who asks that engine; a pipe is read once. Plugins are started with all of it.
func (a *App) takeEnvironment(ctx context.Context) error {
	path, _ := a.LookupEnv(environmentFile)
	if path == "" {
		return nil
	}
	data, err := a.Read(ctx, path)
	if err != nil {
		return err
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		name, value, ok := bytes.Cut(entry, []byte("="))
		if !ok {
			continue
		}
		if err := os.Setenv(string(name), string(value)); err != nil {
			return fault.New(fault.Invalid, "read %s: an entry is no variable of an environment", path)
		}
	}
	return os.Unsetenv(environmentFile) // for the plugin there is nothing left to read
}
