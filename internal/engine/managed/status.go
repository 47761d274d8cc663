//go:build linux

package managed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/platforms"
)

// versionTimeout bounds asking a program for its version.
const versionTimeout = 5 * time.Second

// Status says how the engine stands and what it would lack. It starts and changes nothing.
func Status(cfg Config) (Info, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Info{}, err
	}
	info := Info{StateDir: cfg.StateDir, Rootless: *cfg.Rootless, Idle: cfg.Idle, CacheCap: cfg.CacheCap, Problems: problems(cfg)}
	names := []string{"buildkitd", "runc"}
	if *cfg.Rootless {
		names = append(names, "rootlesskit", "newuidmap")
	}
	for _, name := range names {
		path := cfg.find(name)
		info.Programs = append(info.Programs, Program{Name: name, Path: path, Version: version(name, path)})
	}
	info.DiskUse = diskUse(cfg.StateDir)
	if state, ok := answering(context.Background(), cfg); ok {
		info.Running, info.PID, info.Address = true, state.PID, state.Address
		info.Rootless, info.Idle, info.CacheCap = state.Rootless, state.Idle, state.CacheCap
		if ws, err := workers(context.Background(), state.Address); err == nil && len(ws) > 0 {
			info.Buildkitd = ws[0].BuildkitVersion.Version
			for _, p := range ws[0].Platforms {
				info.Platforms = append(info.Platforms, platforms.Format(p))
			}
		}
	}
	return info, nil
}

// version is the first line that a program says of itself.
func version(name, path string) string {
	if path == "" || name == "newuidmap" { // which knows no such flag
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// diskUse sums the blocks below a folder, as du does, without what we may not read.
func diskUse(dir string) int64 {
	const block = 512 // bytes; stat counts in these, whatever the file system has
	seen := map[[2]uint64]bool{}
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[[2]uint64{st.Dev, st.Ino}] {
				seen[[2]uint64{st.Dev, st.Ino}] = st.Nlink > 1
				sum += st.Blocks * block
			}
		}
		return nil
	})
	return sum
}

// Stop waits until nobody uses the daemon, ends it, and waits until it is gone. It returns nil at
// once when none runs, and ctx's error when users outlast it; the daemon then stays.
func Stop(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.usersLock()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	users, err := lock(ctx, cfg.usersLock(), syscall.LOCK_EX) // nobody can come while we hold it
	if err != nil {
		return fmt.Errorf("wait for the users of the managed engine in %s: %w", cfg.StateDir, err)
	}
	defer users.Close()
	told := 0
	err = poll(ctx, lockPoll, func() (bool, error) {
		running, err := held(cfg.supervisorLock())
		if err != nil || !running {
			return true, err
		}
		// A supervisor that has just been started has not said yet who it is.
		if state, err := cfg.readState(); err == nil && state.Supervisor != told {
			told = state.Supervisor
			if err := syscall.Kill(told, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, err
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("stop the managed engine in %s: %w", cfg.StateDir, err)
	}
	return nil
}
