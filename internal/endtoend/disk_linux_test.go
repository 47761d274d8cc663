package endtoend_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestFullDisk builds where temporary files have no room: the error says so, and trying again is right.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	_, err := testbed.InitRepo(fstest.MapFS{
		"Dockerfile": {Data: []byte("FROM scratch\nCOPY . /\n")},
		"large":      {Data: []byte(strings.Repeat("0123456789abcdef", 1<<18))}, // 4 MiB
	}, filepath.Join(w.gitRoot, "app.git"), testbed.RepoOptions{})
	require.NoError(t, err)
	input := writeJSON(t, map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": w.git.URL + "/app.git"}},
		"target": map[string]any{
			"registry": map[string]any{"url": w.registry.Host},
			"images":   []any{map[string]any{"image": "app", "tag": "1"}},
		},
	})
	s := newStage(t)
	// A file system of 1 MiB in a mount namespace of the process's own; no rights are needed for that.
	script := fmt.Sprintf(`mount -t tmpfs -o size=1m tmpfs "$TMPDIR" && exec %s/image-builder build %s --engine buildkit --buildkit-host %s --cache-dir %s`,
		bin, input, w.engine, t.TempDir())
	p := s.startCommand(t, "", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
	require.Equal(t, fault.ExitUnavailable, p.wait(), p.said())
	require.Contains(t, p.said(), "no space left on device")
	require.NotContains(t, p.said(), "goroutine ")
	s.requireNothingLeft(t)
}

// TestLargeContext sends 1 GiB: it arrives, and passes through memory in pieces.
func TestLargeContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	dir := t.TempDir()
	large, err := os.Create(filepath.Join(dir, "large"))
	require.NoError(t, err)
	require.NoError(t, large.Truncate(1<<30)) // sparse
	require.NoError(t, large.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM busybox AS count\nCOPY large /\nRUN wc -c </large >/size\nFROM scratch\nCOPY --from=count /size /\n"), 0o600))
	input := writeJSON(t, map[string]any{
		"source": map[string]any{
			"dockerfile":    map[string]any{"url": "file://" + dir + "/Dockerfile"},
			"build_context": map[string]any{"path": dir},
		},
		"target": map[string]any{
			"registry": map[string]any{"url": w.registry.Host},
			"images":   []any{map[string]any{"image": "app", "tag": "1", "base": w.registry.Host + "/base/busybox:1"}},
		},
	})
	s := newStage(t)
	p := s.start(t, "build", input, "--engine", "buildkit", "--buildkit-host", w.engine)
	require.Equal(t, fault.ExitOK, p.wait(), p.said())
	usage, ok := p.ProcessState.SysUsage().(*syscall.Rusage)
	require.True(t, ok)
	const limit = 400 << 10 // KiB; the context itself is 2.6 times that
	require.Less(t, usage.Maxrss, int64(limit), "the largest process held the context in memory")
	s.requireNothingLeft(t)
}
