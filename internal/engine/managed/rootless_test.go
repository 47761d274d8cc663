//go:build linux

package managed_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine/managed"
)

const (
	// An unprivileged user of the tests' own, and the ids that are lent to it; they exist in a mount
	// namespace only.
	testUID             = 54321
	subIDs, subIDsCount = 2_000_000_000, 65536
)

// TestRootless runs an unprivileged user's engine, whoever runs the tests: root makes such a user up.
func TestRootless(t *testing.T) {
	t.Parallel()
	testRootless(t, program(t))
}

// TestRootlessEmulation runs programs of another processor in the namespaces of such an engine.
func TestRootlessEmulation(t *testing.T) {
	t.Parallel()
	foreign := "s390x"
	if runtime.GOARCH == foreign {
		foreign = "ppc64le"
	}
	testRootless(t, programFor(t, foreign)) // `scripts/setup.sh emulation` sets up what it needs
}

func testRootless(t *testing.T, dir string) {
	t.Helper()
	cfg := newConfig(t)
	argv := []string{cfg.Supervisor[0], "user", cfg.StateDir, cfg.BuildkitdPath, cfg.RootlesskitPath, cfg.Supervisor[0], dir, "print", "built rootless"}
	env := os.Environ()
	if os.Geteuid() == 0 {
		argv, env = asUnprivileged(t, argv)
	}
	p := startUser(t, env, argv...)
	require.Contains(t, p.until(t, "ready"), "built rootless")
	pids := processes("buildkitd.sock\x00--otel-socket-path\x00" + cfg.StateDir)
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		require.NoError(t, err)
		require.NotContains(t, string(maps), "Uid:\t0", "no process of a rootless engine is root's")
	}
	p.finish(t)
	requireGone(t, cfg.StateDir)
}

// asUnprivileged gives the command line that runs another one as a user without any privilege, and
// its environment. What it touches is moved to where that user can read it.
func asUnprivileged(t *testing.T, argv []string) ([]string, []string) {
	t.Helper()
	home, err := os.MkdirTemp("", "managed-home-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	argv = append([]string{}, argv...)
	state := argv[2]
	for _, i := range []int{0, 3, 4, 6} { // executables, and the folder with the program
		to := filepath.Join(home, fmt.Sprint(i)+"-"+filepath.Base(argv[i]))
		out, err := exec.Command("cp", "-r", argv[i], to).CombinedOutput()
		require.NoError(t, err, string(out))
		argv[i] = to
	}
	argv[5] = argv[0]
	etc := filepath.Join(home, "etc")
	out, err := exec.Command("cp", "-a", "/etc", etc).CombinedOutput()
	require.NoError(t, err, string(out))
	appendTo(t, filepath.Join(etc, "passwd"), fmt.Sprintf("tester:x:%d:%d::%s:/bin/sh\n", testUID, testUID, home))
	appendTo(t, filepath.Join(etc, "group"), fmt.Sprintf("tester:x:%d:\n", testUID))
	for _, f := range []string{"subuid", "subgid"} {
		appendTo(t, filepath.Join(etc, f), fmt.Sprintf("tester:%d:%d\n", subIDs, subIDsCount))
	}
	for _, d := range []string{home, state} {
		require.NoError(t, os.Chmod(d, 0o755))
		require.NoError(t, os.Lchown(d, testUID, testUID))
	}
	script := fmt.Sprintf(`mount --bind %s /etc && exec setpriv --reuid=%d --regid=%d --clear-groups -- "$@"`, etc, testUID, testUID)
	return append([]string{"unshare", "--mount", "sh", "-c", script, "sh"}, argv...), []string{"HOME=" + home, "PATH=/usr/bin:/bin"}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestFullDisk gives the engine a disk with next to no room, in a mount namespace of its own.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"4k", "64k"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			cfg := newConfig(t)
			namespace := []string{"unshare", "--mount"}
			if os.Geteuid() != 0 {
				namespace = append(namespace, "--map-root-user")
			}
			script := fmt.Sprintf(`mount -t tmpfs -o size=%s tmpfs %s && exec "$@"`, size, cfg.StateDir)
			argv := append(namespace, "sh", "-c", script, "sh",
				cfg.Supervisor[0], "user", cfg.StateDir, cfg.BuildkitdPath, cfg.RootlesskitPath, cfg.Supervisor[0])
			out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
			require.Error(t, err, string(out))
			require.Contains(t, string(out), "no space left on device")
			require.Contains(t, string(out), "unavailable: free some space", "kind and hint")
			require.NotContains(t, strings.ToLower(string(out)), "goroutine")
			eventually(t, "nothing runs", func() bool { return len(processes(cfg.StateDir)) == 0 })
		})
	}
}

// TestStatusOfNothing: asking leaves no trace.
func TestStatusOfNothing(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.StateDir = filepath.Join(cfg.StateDir, "not", "there")
	cfg.BuildkitdPath = "/nowhere/buildkitd"
	info := status(t, cfg)
	require.False(t, info.Running)
	require.Equal(t, []managed.Problem{{
		Message: "buildkitd is missing",
		Hint:    "`make setup` in the sources of image-builder builds it; put it beside image-builder, or on PATH",
	}}, info.Problems)
	require.Equal(t, "buildkitd", info.Programs[0].Name)
	require.Empty(t, info.Programs[0].Path)
	require.Contains(t, info.Programs[1].Version, "runc")
	require.NoDirExists(t, cfg.StateDir)
}
