//go:build unix

package progress_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/event"
	"imagebuilder/internal/testbed"
)

func TestAutoOnATerminal(t *testing.T) {
	t.Parallel()
	tty, screen := testbed.NewTerminal(t, 80, 24)

	require.True(t, progress.IsTerminal(tty))
	dumb, err := progress.New(tty, progress.Auto, "dumb")
	require.NoError(t, err)
	require.Equal(t, progress.Plain, dumb.Mode())
	d, err := progress.New(tty, progress.Auto, "xterm")
	require.NoError(t, err)
	require.Equal(t, progress.TTY, d.Mode())
	d.Emit(step("a", "[1/2] FROM alpine", ptr(at(0)), ptr(at(100))))
	d.Emit(event.Event{Note: &event.Note{Level: event.Warning, Text: "the disk is nearly full"}})
	failed := step("b", "[2/2] RUN false", ptr(at(100)), ptr(at(300)))
	failed.Step.Error = "exit code: 1"
	d.Emit(step("b", "[2/2] RUN false", ptr(at(100)), nil))
	d.Emit(log("b", "oh no\n", 200))
	d.Emit(failed)
	d.Close()
	require.NoError(t, tty.Close())

	shown := screen()
	require.Contains(t, shown, "[+] Building")
	require.Contains(t, shown, "=> [1/2] FROM alpine")
	require.Contains(t, shown, "=> ERROR [2/2] RUN false")
	require.NotContains(t, shown, "------", "the output of failed steps is the error's to show")
	require.True(t, strings.HasSuffix(strings.TrimSpace(shown), "warning: the disk is nearly full"), shown)
}
