package cli_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/cli"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
)

// host is a host with an environment of its own; out and err are what it writes.
func host(environment map[string]string) (h command.Host, out, stderr *bytes.Buffer) {
	out, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return command.Host{
		In: strings.NewReader(""), Out: out, Err: stderr,
		LookupEnv:  func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
		Executable: func() (string, error) { return "/nowhere/image-builder", nil },
		Now:        time.Now,
	}, out, stderr
}

const okDocument = `
source: {git_repo: {url: "https://git.example.com/app.git"}}
target: {registry: {url: "localhost:5000"}, images: [{image: app, tag: v1}]}
options: {build_args: {DO: ok}}
`

func TestNoPluginSaysWhereItWasLookedFor(t *testing.T) {
	t.Parallel()
	h, _, stderr := host(map[string]string{"PATH": "/nowhere/else"})
	h.In = strings.NewReader(okDocument)
	require.Equal(t, fault.ExitFailed, cli.Main(t.Context(), h, []string{"build", "-"}, "v1"))
	require.Contains(t, stderr.String(), "error: no plugin image-builder-plugin in /nowhere, /nowhere/else\nhint: ")
	h, out, stderr := host(nil)
	require.Equal(t, fault.ExitOK, cli.Main(t.Context(), h, []string{"version"}, "v1"))
	require.Contains(t, out.String(), "no plugin found")
	require.Empty(t, stderr.String())
}

func TestPluginBesideALinkedExecutable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	scripted, err := exec.LookPath("scripted-plugin")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "opt"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "opt", "image-builder"), nil, 0o755))
	wrapper := "#!/bin/sh\nexec " + scripted + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "opt", "image-builder-plugin"), []byte(wrapper), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(dir, "opt", "image-builder"), filepath.Join(dir, "bin", "image-builder")))
	h, out, stderr := host(nil)
	h.Executable = func() (string, error) { return filepath.Join(dir, "bin", "image-builder"), nil }
	require.Equal(t, fault.ExitOK, cli.Main(t.Context(), h, []string{"version"}, "v1"), stderr.String())
	require.Contains(t, out.String(), "scripted-plugin v9 ("+filepath.Join(dir, "opt", "image-builder-plugin")+")")
}

func TestPanicIsOneLine(t *testing.T) {
	t.Parallel()
	h, _, stderr := host(nil)
	h.Out = nil // whatever is printed breaks
	require.Equal(t, fault.ExitFailed, cli.Main(t.Context(), h, []string{"example"}, "v1"))
	require.Regexp(t, `^error: internal error: output\.go:\d+: .*nil pointer dereference\nhint: .*please report it.*\n$`, stderr.String())
}

// TestCancelledWhileReading has a standard input on which nothing ever comes.
func TestCancelledWhileReading(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"build", "plan", "validate", "convert"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			h, _, stderr := host(nil)
			in, writer := io.Pipe()
			defer writer.Close()
			ctx, cancel := context.WithCancel(t.Context())
			h.In = readFunc(func(p []byte) (int, error) {
				cancel()
				return in.Read(p)
			})
			require.Equal(t, fault.ExitCancelled, cli.Main(ctx, h, []string{verb, "-"}, "v1"))
			require.Equal(t, "error: cancelled\n", stderr.String())
		})
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestUnreadableInput(t *testing.T) {
	t.Parallel()
	h, _, stderr := host(nil)
	h.In = readFunc(func([]byte) (int, error) { return 0, errors.New("the tape is torn") })
	require.Equal(t, fault.ExitInvalid, cli.Main(t.Context(), h, []string{"validate", "-"}, "v1"))
	require.Equal(t, "error: read standard input: the tape is torn\n", stderr.String())
}
