//go:build linux

package managed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"imagebuilder/internal/fault"
)

const (
	runVerb     = "run"     // run STATEDIR: be the supervisor
	containVerb = "contain" // contain RUNDIR ARGV…: become the daemon in namespaces of its own

	// stopGrace is how long a daemon may take to end; without a build it takes some 50 ms.
	stopGrace = 5 * time.Second
	// pruneTimeout bounds the tidying after the last user has gone.
	pruneTimeout = 2 * time.Minute
	// lockFD is where a supervisor finds the lock that makes it the only one, and pipeFD where
	// the daemon-to-be hears that its supervisor lives.
	lockFD, pipeFD = 3, 3
)

// Supervise is the main function of the supervisor process; args is what stands behind
// Config.Supervisor in its argv. It returns an exit code.
func Supervise(ctx context.Context, args []string) int {
	var err error
	switch {
	case len(args) == 2 && args[0] == runVerb:
		err = supervise(ctx, args[1])
	case len(args) > 2 && args[0] == containVerb:
		err = contain(args[1], args[2:])
	default:
		fmt.Fprintln(os.Stderr, "this is the managed engine's supervisor, started by builds that need it")
		return fault.ExitInvalid
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "supervisor:", err)
		return fault.ExitFailed
	}
	return fault.ExitOK
}

// supervise runs one daemon from its start to its end.
func supervise(ctx context.Context, stateDir string) error {
	// The daemon's death signal is bound to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	syscall.CloseOnExec(lockFD)
	own := os.NewFile(lockFD, "supervisor.lock") // held until we end
	defer own.Close()

	var p plan
	data, err := os.ReadFile(Config{StateDir: stateDir}.planFile())
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return err
	}
	users, err := openLock(p.usersLock())
	if err != nil {
		return err
	}
	defer users.Close()
	if err := p.waitForCache(ctx); err != nil {
		return err
	}
	if err := p.removeAbandonedSnapshots(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "supervisor: remove what a killed daemon has left:", err)
	}
	defer p.tidy(own)
	daemon, err := p.start()
	if err != nil {
		return err
	}
	s := supervisor{plan: p, own: own, users: users, daemon: daemon}
	return s.watch(ctx)
}

// waitForCache waits until a daemon that was killed has let go of the cache.
func (p plan) waitForCache(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	err := poll(ctx, lockPoll, func() (bool, error) {
		taken, err := held(filepath.Join(p.cacheDir(), "buildkitd.lock"))
		return !taken, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("could not lock %s, another instance running?", p.cacheDir())
	}
	return err
}

// start starts the daemon as our child and says so in daemon.json.
func (p plan) start() (*exec.Cmd, error) {
	// Orphans of the daemon become our children, so that we can tell when they are gone.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt orphans: %w", err)
	}
	if err := p.makeRunDir(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(p.RunDir, "buildkitd.toml"), []byte(p.configuration()), 0o600); err != nil {
		return nil, err
	}
	begin := p.rootful
	if *p.Rootless {
		begin = p.rootless
	}
	cmd, err := begin()
	if err != nil {
		return nil, err
	}
	state := daemonState{
		Supervisor: os.Getpid(), PID: cmd.Process.Pid, Address: "unix://" + p.socket(),
		Rootless: *p.Rootless, Idle: p.Idle, CacheCap: p.CacheCap,
	}
	return cmd, writeJSON(p.daemonFile(), state)
}

// rootless starts buildkitd below rootlesskit, which ties its life to ours by itself.
func (p plan) rootless() (*exec.Cmd, error) {
	cmd := exec.Command(p.Rootlesskit, append([]string{
		"--state-dir=" + filepath.Join(p.RunDir, "rootlesskit"),
		"--net=host", "--propagation=rslave", "--pidns", // --pidns: whatever a build leaves running dies with the daemon
	}, p.buildkitd()...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// rootful starts buildkitd in PID and mount namespaces of its own, through contain.
func (p plan) rootful() (*exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append(append([]string{}, p.Supervisor...), containVerb, p.RunDir)
	cmd.Args = append(cmd.Args, p.buildkitd()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start buildkitd in namespaces of its own: %w", err)
	}
	_, err = w.Write([]byte{0})
	return cmd, err
}

// contain makes the namespaces that it was started in a daemon's home and becomes the daemon.
func contain(runDir string, argv []string) error {
	runtime.LockOSThread() // the death signal is a property of the thread
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask to die with the supervisor: %w", err)
	}
	// If it died before we asked, nobody has written this byte, and nobody will.
	if n, _ := os.NewFile(pipeFD, "pipe").Read(make([]byte, 1)); n != 1 {
		return errors.New("the supervisor is gone")
	}
	syscall.CloseOnExec(pipeFD)
	// Mounts of ours stay in here, while those of the machine still come and go.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("separate the mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// runc's state folder cannot be configured through buildkitd; two daemons must not share it.
	own := filepath.Join(runDir, "runc")
	const runcRoot = "/run/runc"
	if err := errors.Join(os.MkdirAll(own, 0o700), os.MkdirAll(runcRoot, 0o700)); err != nil {
		return err
	}
	if err := unix.Mount(own, runcRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", runcRoot, err)
	}
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

// tidy removes what a daemon that has ended leaves behind. Where somebody has removed the state
// folder meanwhile, the one that is there now belongs to another daemon.
func (p plan) tidy(own *os.File) {
	_ = os.RemoveAll(p.RunDir)
	if isAt(own, p.supervisorLock()) {
		_ = os.Remove(p.daemonFile())
	}
	if !*p.Rootless {
		removeCgroups(p.cgroup())
	}
}

// isAt tells whether an open file is still the one at a path.
func isAt(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there)
}

// supervisor watches over one daemon.
type supervisor struct {
	plan
	own    *os.File // supervisor.lock
	users  *os.File // users.lock
	daemon *exec.Cmd
}

// watch returns when the daemon has ended: by itself, which is an error, after the idle time, or
// because ctx has.
func (s supervisor) watch(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.daemon.Wait() }()
	interval := min(time.Second, max(s.Idle/10, 20*time.Millisecond))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	lastBusy := time.Now()
	var prunedAfter time.Time // the use after which the cache was pruned
	for {
		select {
		case err := <-ended:
			reapOrphans()
			return fmt.Errorf("buildkitd %d ended by itself: %w", s.daemon.Process.Pid, cmp.Or(err, errors.New("exit status 0")))
		case <-ctx.Done():
			return s.stop(ended, "we were told to")
		case <-tick.C:
		}
		if !isAt(s.own, s.supervisorLock()) {
			return s.stop(ended, "its state folder is gone")
		}
		s.cutLog()
		alone, err := tryLock(s.users, syscall.LOCK_EX)
		if err != nil {
			return errors.Join(err, s.stop(ended, "the lock of its users is lost"))
		}
		if !alone {
			lastBusy = time.Now()
			continue
		}
		use := s.lastUse(lastBusy)
		if use.Equal(prunedAfter) && time.Since(use) >= s.Idle {
			// users.lock stays ours: whoever comes now waits until we are gone, and starts anew.
			return s.stop(ended, "nobody has used it for "+s.Idle.String())
		}
		unlock(s.users)
		if !use.Equal(prunedAfter) {
			s.prune(ctx)
			prunedAfter = use
		}
	}
}

// lastUse is the later of when we saw a user and when one came or went.
func (s supervisor) lastUse(seen time.Time) time.Time {
	if info, err := s.users.Stat(); err == nil && info.ModTime().After(seen) && info.ModTime().Before(time.Now()) {
		return info.ModTime()
	}
	return seen
}

// prune holds the cache's cap. The daemon does it too, but not within a minute of the last time, and
// by then it may be gone.
func (s supervisor) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	c, err := bkclient.New(ctx, "unix://"+s.socket())
	if err != nil {
		return
	}
	defer c.Close()
	keep := bkclient.WithKeepOpt(0, 0, s.CacheCap, minFree)
	for _, opts := range [][]bkclient.PruneOption{{keep}, {keep, bkclient.PruneAll}} { // what can be made again first
		if err := c.Prune(ctx, nil, opts...); err != nil {
			fmt.Fprintln(os.Stderr, "supervisor: prune the cache:", err)
			return
		}
	}
}

// cutLog empties a log that has grown large; everybody who writes it appends.
func (s supervisor) cutLog() {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxLog {
		_ = os.Stderr.Truncate(0)
	}
}

// stop ends the daemon and waits until all of it is gone.
func (s supervisor) stop(ended <-chan error, why string) error {
	fmt.Fprintln(os.Stderr, "supervisor: stop buildkitd "+strconv.Itoa(s.daemon.Process.Pid)+": "+why)
	_ = s.daemon.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-ended:
	case <-time.After(stopGrace):
		_ = s.daemon.Process.Kill()
		err = <-ended
	}
	reapOrphans()
	fmt.Fprintln(os.Stderr, "supervisor: buildkitd ended:", err) // its exit code is no error: it was we who ended it
	return nil
}

// reapOrphans waits for processes that lost their parent when the daemon was killed: rootlesskit's
// child, which is being killed too.
func reapOrphans() {
	deadline := time.Now().Add(stopGrace)
	for time.Now().Before(deadline) {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.ECHILD) {
			return
		}
		if pid == 0 {
			time.Sleep(lockPoll)
		}
	}
}
