//go:build linux

package managed_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/fault"
)

func TestOneDaemonForAll(t *testing.T) {
	t.Parallel()
	cfg, dir := newConfig(t), program(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			lease, err := managed.Acquire(t.Context(), cfg, nil)
			if !noError(t, err) {
				return
			}
			defer lease.Release()
			out, err := run(t.Context(), lease.Address, dir, "print", fmt.Sprint("hello ", i))
			noError(t, err)
			if out != fmt.Sprint("hello ", i) {
				t.Errorf("RUN printed %q", out)
			}
		})
	}
	wg.Wait()
	info := status(t, cfg)
	require.True(t, info.Running)
	require.Len(t, processes("buildkitd.sock"+"\x00--otel-socket-path\x00"+cfg.StateDir), daemonsProcesses())
	require.Equal(t, "v0.33.1", info.Buildkitd)
	require.Equal(t, idle, info.Idle)
	require.Equal(t, int64(managed.DefaultCacheCap), info.CacheCap)
	require.Contains(t, info.Platforms, "linux/"+runtime.GOARCH)
	require.Empty(t, info.Problems)
	require.Positive(t, info.DiskUse)
	requireGone(t, cfg.StateDir) // by itself, after the idle time
	require.False(t, status(t, cfg).Running)
}

// daemonsProcesses is how many processes have one daemon's argv: rootlesskit's parent and child have it too.
func daemonsProcesses() int {
	if os.Geteuid() == 0 {
		return 1
	}
	return 3
}

// noError is for goroutines, which may not end the test.
func noError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func TestStaysWhileUsed(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.Idle = 100 * time.Millisecond
	lease := acquire(t, cfg)
	pid := status(t, cfg).PID
	require.Never(t, func() bool { return status(t, cfg).PID != pid }, 2*time.Second, 100*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, managed.Stop(ctx, cfg), context.DeadlineExceeded, "Stop waits for users")
	require.True(t, status(t, cfg).Running)

	lease.Release()
	lease.Release()
	requireGone(t, cfg.StateDir)
	require.NoError(t, managed.Stop(t.Context(), cfg), "nothing to stop")
}

// The daemon ends while users come and go: no lease may ever be without one.
func TestNoLeaseWithoutDaemon(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.Idle = 40 * time.Millisecond
	daemons := map[string]bool{} // as daemon.json tells them
	for deadline := time.Now().Add(patience); len(daemons) < 6; {
		require.True(t, time.Now().Before(deadline), "the daemon hardly ever ends")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				time.Sleep(rand.N(5 * cfg.Idle)) // before, while and after it ends
				lease, err := managed.Acquire(t.Context(), cfg, nil)
				if noError(t, err) {
					noError(t, listWorkers(t.Context(), lease.Address))
					lease.Release()
				}
			})
		}
		wg.Wait()
		if state, err := os.ReadFile(filepath.Join(cfg.StateDir, "daemon.json")); err == nil {
			daemons[string(state)] = true
		}
	}
}

func listWorkers(ctx context.Context, address string) error {
	c, err := bkclient.New(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.ListWorkers(ctx)
	return err
}

func TestKilled(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"supervisor", "daemon"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			cfg, dir := newConfig(t), program(t)
			lease := acquire(t, cfg)
			before := status(t, cfg).PID

			token := fmt.Sprintf("token-%d-%s", os.Getpid(), victim)
			ended := make(chan error, 1)
			go func() {
				_, err := run(context.Background(), lease.Address, dir, "hold", token)
				ended <- err
			}()
			eventually(t, "RUN has started", func() bool { return len(processes(token)) > 0 })

			pid := before
			if victim == "supervisor" {
				pids := processes("engine-supervisor\x00run\x00" + cfg.StateDir)
				require.Len(t, pids, 1)
				pid = pids[0]
			}
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			require.Error(t, <-ended)
			eventually(t, "RUN is gone", func() bool { return len(processes(token)) == 0 })

			again := acquire(t, cfg)
			out, err := run(t.Context(), again.Address, dir, "print", "back")
			require.NoError(t, err)
			require.Equal(t, "back", out)
			require.NotEqual(t, before, status(t, cfg).PID)
			lease.Release()
			again.Release()
			requireGone(t, cfg.StateDir)
		})
	}
}

// TestAbandonedSnapshots leaves what a daemon leaves that is killed between naming a snapshot's folder
// and committing the name.
func TestAbandonedSnapshots(t *testing.T) {
	t.Parallel()
	cfg, dir := newConfig(t), program(t)
	lease := acquire(t, cfg)
	_, err := run(t.Context(), lease.Address, dir, "print", "first")
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(status(t, cfg).PID, syscall.SIGKILL))
	lease.Release()
	requireGone(t, cfg.StateDir)

	found, err := filepath.Glob(filepath.Join(cfg.StateDir, "root", "runc-*", "snapshots", "snapshots"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	kept, err := os.ReadDir(found[0])
	require.NoError(t, err)
	require.NotEmpty(t, kept)
	var left []string
	for name := range 100 {
		folder := filepath.Join(found[0], strconv.Itoa(name))
		if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
			require.NoError(t, os.MkdirAll(filepath.Join(folder, "fs"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(folder, "fs", "left"), nil, 0o600))
			left = append(left, folder)
		}
	}

	again := acquire(t, cfg)
	for _, folder := range left {
		require.NoFileExists(t, filepath.Join(folder, "fs", "left"))
	}
	for _, folder := range kept {
		require.DirExists(t, filepath.Join(found[0], folder.Name()))
	}
	out, err := run(t.Context(), again.Address, dir, "print", "second")
	require.NoError(t, err)
	require.Equal(t, "second", out)
	again.Release()
	requireGone(t, cfg.StateDir)
}

func TestKilledUserIsForgotten(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	p := startUser(t, append(os.Environ(), "SOME_TOKEN=hunter2"),
		cfg.Supervisor[0], "user", cfg.StateDir, cfg.BuildkitdPath, cfg.RootlesskitPath, cfg.Supervisor[0])
	p.until(t, "ready")
	for _, pid := range processes(cfg.StateDir) {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		require.NoError(t, err)
		if pid != p.cmd.Process.Pid {
			require.NotContains(t, string(env), "hunter2", "the daemon outlives its user, whose environment is none of its business")
		}
	}
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	requireGone(t, cfg.StateDir)
}

func TestStateFolderRemoved(t *testing.T) {
	t.Parallel()
	cfg, dir := newConfig(t), program(t)
	acquire(t, cfg).Release()
	old := status(t, cfg).PID
	removeState(t, cfg.StateDir)
	lease := acquire(t, cfg)
	eventually(t, "the old daemon is gone", func() bool { return syscall.Kill(old, 0) != nil })
	out, err := run(t.Context(), lease.Address, dir, "print", "new")
	require.NoError(t, err)
	require.Equal(t, "new", out)
}

func TestSideBySide(t *testing.T) {
	t.Parallel()
	dir := program(t)
	a := newConfig(t)
	long, err := os.MkdirTemp("", "managed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { removeState(t, long) })
	b := configIn(t, filepath.Join(long, strings.Repeat("a-long-name-", 12)))

	first, second := acquire(t, a), acquire(t, b)
	require.NotEqual(t, status(t, a).PID, status(t, b).PID)
	require.NotContains(t, second.Address, "a-long-name", "a socket's path has 107 bytes at most")
	socketDir := filepath.Dir(strings.TrimPrefix(second.Address, "unix://"))
	info, err := os.Stat(socketDir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	var wg sync.WaitGroup
	for _, lease := range []*managed.Lease{first, second} {
		wg.Go(func() {
			out, err := run(t.Context(), lease.Address, dir, "print", lease.Address)
			noError(t, err)
			if out != lease.Address {
				t.Errorf("RUN printed %q", out)
			}
		})
	}
	wg.Wait()
	first.Release()
	second.Release()
	requireGone(t, a.StateDir)
	requireGone(t, b.StateDir)
	require.NoDirExists(t, socketDir)
}

func TestCacheCap(t *testing.T) {
	t.Parallel()
	const mega = 1 << 20
	cfg, dir := newConfig(t), program(t)
	cfg.CacheCap = 64 * mega
	lease := acquire(t, cfg)
	for range 5 {
		_, err := run(t.Context(), lease.Address, dir, "fill", "40")
		require.NoError(t, err)
	}
	require.Greater(t, status(t, cfg).DiskUse, cfg.CacheCap, "the test has shown nothing")
	lease.Release()
	const databases = 8 * mega // what the daemon keeps besides layers
	eventually(t, "the cache is below its cap", func() bool { return status(t, cfg).DiskUse <= cfg.CacheCap+databases })
	requireGone(t, cfg.StateDir)
}

func TestCannotStart(t *testing.T) {
	t.Parallel()
	script := func(body string) string {
		path := filepath.Join(t.TempDir(), "buildkitd")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
		return path
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		change        func(*managed.Config)
		kind          fault.Kind
		message, hint string
	}{
		"missing":        {func(c *managed.Config) { c.BuildkitdPath = "/nowhere/buildkitd" }, fault.NotFound, "buildkitd is missing", "make setup"},
		"crashes":        {func(c *managed.Config) { c.BuildkitdPath = script("echo 'panic: all is lost'; exit 3") }, fault.Unavailable, "panic: all is lost", "log"},
		"state is file":  {func(c *managed.Config) { c.StateDir = file }, fault.Internal, "not a directory", ""},
		"negative idle":  {func(c *managed.Config) { c.Idle = -1 }, fault.Invalid, "negative", ""},
		"negative cap":   {func(c *managed.Config) { c.CacheCap = -1 }, fault.Invalid, "negative", ""},
		"no supervisor":  {func(c *managed.Config) { c.Supervisor = []string{"/nowhere/supervisor"} }, fault.Internal, "/nowhere/supervisor", ""},
		"other's rights": {func(c *managed.Config) { c.Rootless = otherMode() }, otherModeKind(), "root", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := newConfig(t)
			c.change(&cfg)
			lease, err := managed.Acquire(t.Context(), cfg, nil)
			require.Nil(t, lease)
			f := fault.As(err)
			require.NotNil(t, f)
			require.Equal(t, c.kind, f.Kind, f.Message)
			require.Contains(t, f.Message, c.message)
			require.Contains(t, f.Hint, c.hint)
		})
	}
}

// otherMode is the mode that the user who runs the tests cannot have.
func otherMode() *bool {
	rootless := os.Geteuid() == 0
	return &rootless
}

func otherModeKind() fault.Kind {
	if os.Geteuid() == 0 {
		return fault.Invalid
	}
	return fault.Denied
}

func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	hangs := filepath.Join(t.TempDir(), "buildkitd")
	require.NoError(t, os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
	cfg.BuildkitdPath = hangs
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := managed.Acquire(ctx, cfg, nil)
		ended <- err
	}()
	eventually(t, "the daemon was started", func() bool {
		_, err := os.Stat(filepath.Join(cfg.StateDir, "daemon.json"))
		return err == nil
	})
	cancel()
	require.Equal(t, fault.Cancelled, fault.KindOf(<-ended))
}
