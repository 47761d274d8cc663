package plugin_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/plugin"
)

// environOf is the environment that a process was started with, by name.
func environOf(t *testing.T, pid int) []string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	var names []string
	for entry := range strings.SplitSeq(strings.TrimRight(string(data), "\x00"), "\x00") {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestPluginGetsNoMoreThanItsBaseEnvironment: a host with secrets in its environment can keep them from its plugins.
func TestPluginGetsNoMoreThanItsBaseEnvironment(t *testing.T) {
	t.Parallel()
	own := environOf(t, os.Getpid())
	require.NotEmpty(t, own)
	c := start(t, plugin.Options{Base: []string{"LANG=C"}, Env: []string{"MORE=1"}})
	got := environOf(t, c.PID())
	for _, name := range []string{"LANG", "MORE", "TMPDIR", plugin.CookieKey, plugin.RunFolderEnv} {
		require.Contains(t, got, name)
	}
	require.Contains(t, own, "PATH")
	for _, name := range []string{"PATH", "HOME", "GOFLAGS"} {
		require.NotContains(t, got, name)
	}
	inherited := environOf(t, start(t, plugin.Options{}).PID())
	require.Contains(t, inherited, "PATH")
}

func TestDeathBySignalCanBeTold(t *testing.T) {
	t.Parallel()
	_, err := start(t, plugin.Options{}).Execute(t.Context(), request(t, "die", values{"signal": syscall.SIGKILL}), func(plugin.Event) {})
	require.ErrorIs(t, err, plugin.ErrKilled)
	_, err = start(t, plugin.Options{}).Execute(t.Context(), request(t, "die", values{"signal": 0}), func(plugin.Event) {})
	require.Error(t, err)
	require.NotErrorIs(t, err, plugin.ErrKilled)
}
