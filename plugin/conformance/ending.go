package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

func (s *suite) executesAllAtOnce(t *testing.T) {
	c := s.start(t)
	type outcome struct {
		events events
		result json.RawMessage
		err    error
	}
	outcomes := make([]outcome, len(s.Samples))
	var all sync.WaitGroup
	for i, sample := range s.Samples {
		if sample.Fails == "" {
			all.Go(func() {
				o := &outcomes[i]
				o.result, o.err = c.Execute(t.Context(), sample.Request, o.events.take)
			})
		}
	}
	all.Wait()
	for i, sample := range s.Samples {
		if sample.Fails == "" {
			requireOutcome(t, sample, outcomes[i].result, outcomes[i].err)
			outcomes[i].events.requireGood(t, true)
		}
	}
}

// work is Slow under way.
type work struct {
	done chan struct{}
	err  error // once done is closed
}

// slow begins Slow and waits for its first event.
func (s *suite) slow(ctx context.Context, t *testing.T, c *plugin.Client) *work {
	t.Helper()
	w := &work{done: make(chan struct{})}
	began := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(w.done)
		_, w.err = c.Execute(ctx, s.Slow, func(plugin.Event) { once.Do(func() { close(began) }) })
	}()
	select {
	case <-began:
	case <-w.done:
		require.FailNow(t, "Config.Slow is not slow", "it ended before it was cancelled: %v", w.err)
	case <-time.After(patience):
		require.FailNow(t, "Config.Slow emits no event")
	}
	return w
}

// requireEnded waits for the end and wants it in time.
func (w *work) requireEnded(t *testing.T, since time.Time, within time.Duration, what string) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(within + patience):
		require.FailNow(t, "the operation goes on", what)
	}
	require.LessOrEqual(t, time.Since(since), within, what)
	require.Error(t, w.err, what)
	requireGoodError(t, w.err)
}

func (s *suite) cancels(t *testing.T) {
	c := s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, other := s.slow(ctx, t, c), s.slow(t.Context(), t, c)
	since := time.Now()
	cancel()
	w.requireEnded(t, since, s.CancelWithin, "cancelled")
	require.Equal(t, plugin.Cancelled, fault.KindOf(w.err))
	select {
	case <-other.done:
		require.FailNow(t, "cancelling one operation ended another", "%v", other.err)
	default:
	}
	_, err := c.Describe(t.Context())
	require.NoError(t, err, "the plugin goes on after an operation was cancelled")
}

func (s *suite) isClosed(t *testing.T) {
	c := s.start(t)
	w := s.slow(t.Context(), t, c)
	since := time.Now()
	require.NoError(t, c.Close())
	w.requireEnded(t, since, s.CancelWithin+goneTime, "closed")
	require.Equal(t, plugin.Cancelled, fault.KindOf(w.err))
}

func (s *suite) isTerminated(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // there is no such signal
	}
	c := s.start(t)
	w := s.slow(t.Context(), t, c)
	since := time.Now()
	signal(t, c.PID(), syscall.SIGTERM)
	w.requireEnded(t, since, s.CancelWithin+goneTime, "terminated")
	require.Eventually(t, func() bool { return gone(c.PID()) }, goneTime, 10*time.Millisecond, "the process has ended")
}

func (s *suite) ignoresInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // there is no such signal
	}
	c := s.start(t)
	w := s.slow(t.Context(), t, c)
	signal(t, c.PID(), syscall.SIGINT)
	_, err := c.Describe(t.Context())
	require.NoError(t, err)
	select {
	case <-w.done:
		require.FailNow(t, "SIGINT ended an operation: what it means is for the host to say", "%v", w.err)
	default:
	}
}

func (s *suite) startedByHand(t *testing.T) {
	var stdout, stderr strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.path)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.Error(t, cmd.Run())
	require.Equal(t, fault.ExitInvalid, cmd.ProcessState.ExitCode(), "exit code")
	require.Empty(t, stdout.String(), "stdout")
	require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "one line on stderr: %q", stderr.String())
}

func (s *suite) goesWithHost(t *testing.T) {
	temp := shortTemp(t)
	request, err := json.Marshal(s.Slow)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	host := exec.Command(self)
	host.Env = append(append(os.Environ(), s.Env...),
		hostEnv+"="+s.path, hostRequestEnv+"="+string(request), "TMPDIR="+temp)
	host.Stderr = os.Stderr
	stdout, err := host.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, host.Start())
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, "the host said: %s", line)
	require.False(t, gone(pid))

	require.NoError(t, host.Process.Kill())
	_ = host.Wait()
	require.Eventually(t, func() bool { return gone(pid) }, goneTime, 10*time.Millisecond,
		"the plugin lives on after its host was killed")
	if runtime.GOOS != "windows" {
		requireEmpty(t, temp)
	}
}

const (
	hostEnv        = "IMAGE_BUILDER_CONFORMANCE_HOST"
	hostRequestEnv = "IMAGE_BUILDER_CONFORMANCE_REQUEST"
)

// A test binary that finds itself to be the host that is to be killed is nothing else: the
// plugin author's TestMain, which may start servers, must not run in it.
func init() {
	if path := os.Getenv(hostEnv); path != "" {
		fmt.Println(beHost(path, os.Getenv(hostRequestEnv)))
		os.Exit(1)
	}
}

// beHost runs a request and tells the plugin's process id once the request is under way.
func beHost(path, request string) error {
	var req plugin.Request
	if err := json.Unmarshal([]byte(request), &req); err != nil {
		return err
	}
	// The plugin's environment is this process's, without what makes it a host.
	for _, name := range []string{hostEnv, hostRequestEnv} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	c, err := plugin.Start(context.Background(), path, plugin.Options{})
	if err != nil {
		return err
	}
	var once sync.Once
	_, err = c.Execute(context.Background(), req, func(plugin.Event) { once.Do(func() { fmt.Println(c.PID()) }) })
	return fmt.Errorf("the request ended: %w", err)
}

func signal(t *testing.T, pid int, sig os.Signal) {
	t.Helper()
	p, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, p.Signal(sig))
}

// gone tells whether a process has ended. One that has ended and waits for its parent to
// notice counts as gone: where nobody is init, it does so for ever.
func gone(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return true
	}
	defer func() { _ = p.Release() }()
	if runtime.GOOS == "windows" {
		return false
	}
	if p.Signal(syscall.Signal(0)) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// shortTemp makes a temporary folder whose path leaves room for sockets, unlike that of t.TempDir.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ibc-")
	require.NoError(t, err)
	if len(dir) > 60 && runtime.GOOS != "windows" {
		require.NoError(t, os.Remove(dir))
		dir, err = os.MkdirTemp("/tmp", "ibc-")
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "left behind in the temporary folder")
}
