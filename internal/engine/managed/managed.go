// Package managed keeps a BuildKit daemon of our own: started on demand, shared by everyone who
// names the same state folder, and stopped when nobody has used it for a while.
//
// Three kinds of processes take part, and they speak through file locks only, so that any of them
// may be killed at any moment:
//
//   - a user holds users.lock shared for as long as it builds;
//   - the supervisor, detached from whoever started it, holds supervisor.lock for its whole life,
//     has buildkitd as its child, and stops it once it could have users.lock for itself for the idle time;
//   - buildkitd dies with its supervisor. It runs in PID and mount namespaces of its own, so that its
//     containers and mounts die with it, however it ends.
//
// The supervisor never starts a second daemon: when buildkitd ends, it ends, and the next user starts
// both anew. The package knows nothing of images and builds: it hands out an address.
package managed

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"imagebuilder/internal/fault"
)

const (
	// DefaultIdle bridges the pauses of someone who edits and builds again; a start costs under a second.
	DefaultIdle = 10 * time.Minute
	// DefaultCacheCap holds the layers of some dozens of usual images and still fits on a small disk.
	DefaultCacheCap = 10 << 30
	// startTimeout is for a machine that is busy with other things: a quiet one needs 0.3 s, 1 s rootless.
	startTimeout = 60 * time.Second
)

// Config says which daemon is meant and how it is started. Idle and CacheCap of a daemon that runs
// already are those of the one who started it.
type Config struct {
	// StateDir holds cache, log and locks. Default: /var/lib/image-builder/engine for root, otherwise
	// image-builder/engine in $XDG_STATE_HOME (~/.local/state). It must be on a local file system.
	StateDir string
	// Idle is how long the daemon stays without a user. Default: DefaultIdle.
	Idle time.Duration
	// CacheCap is the most that the cache may hold between builds, in bytes. Default: DefaultCacheCap.
	CacheCap int64
	// BuildkitdPath and RootlesskitPath default to the programs beside our own executable, then on PATH.
	BuildkitdPath, RootlesskitPath string
	// Supervisor is the argv of a process that calls Supervise with the arguments that follow.
	// Default: our own executable with "engine-supervisor".
	Supervisor []string
	// Rootless runs the daemon in a user namespace. Default: when we are not root.
	Rootless *bool
}

// Lease is the right to use the daemon: it stays while the lease is held.
type Lease struct {
	Address string // for a BuildKit client, "unix:///…"

	once    sync.Once
	release func()
}

// Release gives the lease back. It may be called more than once, and on nil.
func (l *Lease) Release() {
	if l != nil {
		l.once.Do(l.release)
	}
}

// Info is what there is to say of a managed engine without starting it.
type Info struct {
	StateDir string
	Rootless bool
	Idle     time.Duration
	CacheCap int64 // bytes
	DiskUse  int64 // bytes on disk below StateDir, as far as we may read it

	Running   bool
	PID       int    // of buildkitd, or of the rootlesskit that holds it
	Address   string // when running
	Buildkitd string // version of the running daemon
	Platforms []string

	Programs []Program // that the daemon needs
	Problems []Problem // why it would not start; empty when it would
}

// Program is an executable on this machine.
type Program struct {
	Name    string
	Path    string // empty when it is missing
	Version string // its own words; empty when it would not say
}

// Problem is something that this machine lacks, and what mends it.
type Problem struct {
	Message string
	Hint    string
}

// withDefaults fills in what is not set and refuses what cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.Rootless == nil {
		rootless := os.Geteuid() != 0
		c.Rootless = &rootless
	}
	if c.StateDir == "" {
		dir, err := defaultStateDir()
		if err != nil {
			return c, fault.New(fault.Invalid, "find the managed engine's state folder: %w", err).WithHint("set HOME or XDG_STATE_HOME")
		}
		c.StateDir = dir
	}
	dir, err := filepath.Abs(c.StateDir)
	if err != nil {
		return c, fault.New(fault.Invalid, "find the managed engine's state folder: %w", err)
	}
	c.StateDir = dir
	if c.Idle == 0 {
		c.Idle = DefaultIdle
	}
	if c.CacheCap == 0 {
		c.CacheCap = DefaultCacheCap
	}
	switch {
	case c.Idle < 0:
		return c, fault.New(fault.Invalid, "managed engine: idle time %s is negative", c.Idle)
	case c.CacheCap < 0:
		return c, fault.New(fault.Invalid, "managed engine: size cap of %d bytes is negative", c.CacheCap)
	case *c.Rootless && os.Geteuid() == 0:
		return c, fault.New(fault.Invalid, "managed engine: rootless was asked for by root").WithHint("run as another user, or leave the mode open")
	case !*c.Rootless && os.Geteuid() != 0:
		return c, fault.New(fault.Denied, "managed engine: only root can run it rootful").WithHint("leave the mode open: the engine then runs rootless")
	}
	if len(c.Supervisor) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return c, fault.New(fault.Internal, "find our own executable: %w", err)
		}
		c.Supervisor = []string{exe, "engine-supervisor"}
	}
	return c, nil
}

func defaultStateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/image-builder/engine", nil
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "image-builder", "engine"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "image-builder", "engine"), nil
}

// The files of a state folder.
func (c Config) usersLock() string      { return filepath.Join(c.StateDir, "users.lock") }
func (c Config) startLock() string      { return filepath.Join(c.StateDir, "start.lock") }
func (c Config) supervisorLock() string { return filepath.Join(c.StateDir, "supervisor.lock") }
func (c Config) planFile() string       { return filepath.Join(c.StateDir, "plan.json") }
func (c Config) daemonFile() string     { return filepath.Join(c.StateDir, "daemon.json") }
func (c Config) logFile() string        { return filepath.Join(c.StateDir, "log") }
func (c Config) cacheDir() string       { return filepath.Join(c.StateDir, "root") }
