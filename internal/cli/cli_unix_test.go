//go:build unix

package cli_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/cli"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestCancelledWhileOpening has a pipe that nobody writes to.
func TestCancelledWhileOpening(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "build.yaml")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	h, _, stderr := host(nil)
	require.Equal(t, fault.ExitCancelled, cli.Main(ctx, h, []string{"validate", pipe}, "v1"))
	require.Equal(t, "error: cancelled\n", stderr.String())
	unblock, err := os.OpenFile(pipe, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unblock.Close())
}

// TestTerminal has a terminal for both outputs: the display, then the result as a table.
func TestTerminal(t *testing.T) {
	t.Parallel()
	scripted, err := exec.LookPath("scripted-plugin")
	require.NoError(t, err)
	run := func(args ...string) (int, string) {
		tty, screen := testbed.NewTerminal(t, 120, 30)
		h, _, _ := host(map[string]string{"TERM": "xterm", "IMAGE_BUILDER_PLUGIN": scripted})
		h.In, h.Out, h.Err = strings.NewReader(okDocument), tty, tty
		code := cli.Main(t.Context(), h, args, "v1")
		require.NoError(t, tty.Close())
		return code, strings.ReplaceAll(screen(), "\r\n", "\n")
	}

	code, screen := run("build", "-")
	require.Equal(t, fault.ExitOK, code, screen)
	require.Contains(t, screen, "[+] Building")
	require.Contains(t, screen, "=> [app:v1] RUN make")
	require.Contains(t, screen, "warning: the disk is nearly full\nIMAGE  ")
	require.NotContains(t, screen, "pushed localhost:5000", "the table says it already")

	code, screen = run("build", "-", "--set", "options.build_args.DO=partial")
	require.Equal(t, fault.ExitFailed, code)
	require.True(t, strings.HasSuffix(screen, "RUN make: exit code 2\nhint: read what make says\n"), screen)

	code, screen = run("build", "-", "--progress", "plain", "--output", "json")
	require.Equal(t, fault.ExitOK, code)
	require.Contains(t, screen, "#1 DONE 1.5s\n")
	require.Contains(t, screen, `"engine": "managed"`)
	require.Contains(t, screen, "pushed localhost:5000/app:v1")

	code, screen = run("doctor")
	require.Equal(t, fault.ExitOK, code)
	require.Contains(t, screen, "ok  engine managed v0.33.1\n")
}
