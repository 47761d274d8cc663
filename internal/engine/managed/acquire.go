//go:build linux

package managed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bkclient "github.com/moby/buildkit/client"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

const (
	// answerTimeout is for a daemon that has accepted a connection: it answers in milliseconds, or,
	// while it opens a large cache on a slow disk, in seconds.
	answerTimeout = 10 * time.Second
	// lastLines and lastBytes bound what an error repeats of the daemon's log.
	lastLines, lastBytes = 20, 8 << 10
	// maxLog is where the log is begun anew; a usual day writes some hundred kB.
	maxLog = 16 << 20
)

// daemonState is what the supervisor tells of its daemon, in daemon.json.
type daemonState struct {
	Supervisor int           `json:"supervisor"`
	PID        int           `json:"pid"`
	Address    string        `json:"address"`
	Rootless   bool          `json:"rootless"`
	Idle       time.Duration `json:"idle"`
	CacheCap   int64         `json:"cache_cap"`
}

// Acquire gives the right to use the daemon, starting it if it does not run. It waits for others who
// start or stop it. Errors: NotFound when a program is missing (the hint has the command that mends
// it), Denied and Invalid for a state folder that cannot be used, Unavailable when the daemon does
// not start, with the last lines of its log.
func Acquire(ctx context.Context, cfg Config, emit event.Sink) (*Lease, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, cfg.stateFault(err)
	}
	users, err := lock(ctx, cfg.usersLock(), syscall.LOCK_SH)
	if err != nil {
		return nil, cfg.stateFault(err)
	}
	// The supervisor counts idle time from this file's time, so that a user who comes and goes
	// between two of its looks is seen.
	touch := func() { now := time.Now(); _ = os.Chtimes(cfg.usersLock(), now, now) }
	touch()
	address, err := ensure(ctx, cfg, emit)
	if err != nil {
		_ = users.Close()
		return nil, err
	}
	return &Lease{Address: address, release: func() { touch(); _ = users.Close() }}, nil
}

// ensure gives the address of a daemon that takes connections. The caller holds users.lock, so a daemon that
// answers now is not stopped for being idle.
func ensure(ctx context.Context, cfg Config, emit event.Sink) (address string, err error) {
	if state, ok := listening(cfg); ok {
		return state.Address, nil
	}
	if emit == nil {
		emit = event.Discard
	}
	end := emit.Begin("managed-engine", "start the managed engine", time.Now)
	defer func() { end(err) }()
	starting, err := lock(ctx, cfg.startLock(), syscall.LOCK_EX)
	if err != nil {
		return "", cfg.stateFault(err)
	}
	defer starting.Close()

	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var ended <-chan error // of the supervisor that we have started
	err = poll(limited, lockPoll, func() (bool, error) {
		if state, ok := answering(limited, cfg); ok {
			address = state.Address
			return true, nil
		}
		if ended != nil {
			select {
			case err := <-ended:
				return false, err
			default:
				return false, nil
			}
		}
		// A supervisor that somebody else started may be about to answer, or to end.
		supervisor, err := openLock(cfg.supervisorLock())
		if err != nil {
			return false, cfg.stateFault(err)
		}
		defer supervisor.Close()
		if free, err := tryLock(supervisor, syscall.LOCK_EX); err != nil || !free {
			return false, err
		}
		ended, err = launch(cfg, supervisor)
		return false, err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		f := fault.New(fault.Unavailable, "start the managed engine: no answer within %s", startTimeout)
		if state, err := cfg.readState(); err == nil {
			return "", f.WithHint("see %s; kill %d ends it", cfg.logFile(), state.Supervisor)
		}
		return "", f.WithHint("see %s", cfg.logFile())
	}
	return address, err
}

// answering tells whether a daemon runs and answers: one that is just being started may take connections and end nevertheless.
func answering(ctx context.Context, cfg Config) (daemonState, bool) {
	state, ok := listening(cfg)
	if ok {
		_, err := workers(ctx, state.Address)
		ok = err == nil
	}
	return state, ok
}

// listening tells whether a daemon takes connections. It costs microseconds; who uses the daemon asks it the first question anyway.
func listening(cfg Config) (daemonState, bool) {
	state, err := cfg.readState()
	if err != nil {
		return state, false
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(state.Address, "unix://"))
	if err != nil {
		return state, false
	}
	_ = conn.Close()
	return state, true
}

func workers(ctx context.Context, address string) ([]*bkclient.WorkerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, err := bkclient.New(ctx, address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ListWorkers(ctx)
}

func (c Config) readState() (daemonState, error) {
	var state daemonState
	data, err := os.ReadFile(c.daemonFile())
	if err != nil {
		return state, err
	}
	return state, json.Unmarshal(data, &state)
}

// launch starts a supervisor and hands it the lock that makes it the only one. The channel gives its
// end, as an error with the last words of its log.
func launch(cfg Config, supervisorLock *os.File) (<-chan error, error) {
	p, err := newPlan(cfg)
	if err != nil {
		return nil, err
	}
	// What a killed supervisor left would name a process that is somebody else's by now.
	if err := os.Remove(cfg.daemonFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, cfg.stateFault(err)
	}
	if err := writeJSON(cfg.planFile(), p); err != nil {
		return nil, cfg.stateFault(err)
	}
	log, err := openLog(cfg.logFile())
	if err != nil {
		return nil, cfg.stateFault(err)
	}
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, cfg.stateFault(err)
	}
	argv := append(append([]string{}, cfg.Supervisor...), runVerb, cfg.StateDir)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = p.environment(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{supervisorLock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fault.New(fault.Internal, "start the managed engine's supervisor: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait() // also keeps it from staying a zombie when we live longer
		ended <- cfg.startFault(err, lastWords(cfg.logFile(), begin))
	}()
	return ended, nil
}

// openLog opens the log for appending, after a cut when it has grown large.
func openLog(path string) (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// lastWords are the last lines of a log from an offset on.
func lastWords(path string, begin int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size()-lastBytes > begin {
		begin = info.Size() - lastBytes
	}
	data, _ := io.ReadAll(io.NewSectionReader(f, begin, lastBytes))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}

// stateFault is the error for a state folder that cannot be used.
func (c Config) stateFault(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("wait for the managed engine in %s: %w", c.StateDir, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(fault.Unavailable, "use the managed engine's state folder: %w", err).WithHint("free some space on the disk of %s", c.StateDir)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.New(fault.Denied, "use the managed engine's state folder: %w", err).WithHint("%s must belong to you", c.StateDir)
	default:
		return fault.New(fault.Internal, "use the managed engine's state folder: %w", err)
	}
}

// startFault is the error for a daemon that ended before it answered.
func (c Config) startFault(err error, words string) error {
	if words == "" && diskFull(c.StateDir) { // not even its last words
		words = syscall.ENOSPC.Error()
	}
	f := fault.New(fault.Unavailable, "start the managed engine: it ended (%v); its last words:\n%s", err, words)
	forbidden := "root may not make namespaces here, as in an unprivileged container; run as another user for a rootless engine"
	if *c.Rootless {
		forbidden = "this machine forbids user namespaces to you; see /proc/sys/kernel/unprivileged_userns_clone and /proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	}
	for _, known := range []struct{ words, hint string }{
		{"no space left on device", "free some space on the disk of " + c.StateDir},
		{"disk quota exceeded", "free some space on the disk of " + c.StateDir},
		{"subuid", "give yourself a range of subordinate ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER (as root)"},
		{"newuidmap", "apt-get install uidmap (as root)"},
		{"operation not permitted", forbidden},
		{"another instance running", "another BuildKit daemon uses " + c.cacheDir()},
	} {
		if strings.Contains(words, known.words) {
			return f.WithHint("%s", known.hint)
		}
	}
	return f.WithHint("the whole log is %s; if the cache is damaged, remove %s", c.logFile(), c.cacheDir())
}

func diskFull(dir string) bool {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && st.Bavail == 0
}

// writeJSON replaces a file as a whole.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
