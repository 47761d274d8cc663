package queue_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// process is a worker in a process of its own.
type process struct {
	*os.Process
	mu   sync.Mutex
	said []string
	end  chan error
}

// spawn starts a worker that a test may kill.
func (b *bed) spawn(t *testing.T, lease, grace time.Duration) *process {
	t.Helper()
	setup, err := json.Marshal(workerSetup{b.database, b.identity, pluginPath, b.settings, b.temp, lease, grace})
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+string(setup))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{Process: cmd.Process, end: make(chan error, 1)}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			p.mu.Lock()
			p.said = append(p.said, lines.Text())
			p.mu.Unlock()
		}
		p.end <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.Signal(syscall.SIGCONT)
		_ = p.Kill()
		<-p.end
		p.end <- nil
	})
	return p
}

func (p *process) endings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.said...)
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.end:
		p.end <- nil
		return err
	case <-time.After(patience):
		require.Fail(t, "the process does not end")
		return nil
	}
}

// attempts are those that the log has entries of output of.
func attempts(entries []store.LogEntry) []int {
	var all []int
	for _, e := range entries {
		if len(all) == 0 || all[len(all)-1] != e.Attempt {
			all = append(all, e.Attempt)
		}
	}
	return all
}

// TestKilledWorkersBuildRunsElsewhere: with the lease that workers have unless told otherwise, within 30 s, and once.
func TestKilledWorkersBuildRunsElsewhere(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			victim := b.spawn(t, 0, 0)
			id := b.submit(t, b.dockerfile(t, "RUN echo started; sleep 5"))
			b.says(t, id, "started")
			b.work(t)
			require.NoError(t, victim.Kill())
			killed := time.Now()
			inv := b.until(t, id, "running again", func(v store.Invocation) bool { return v.State == store.StateInProgress && v.Attempt == 2 })
			t.Logf("running again after %s", time.Since(killed))
			require.Less(t, time.Since(killed), 30*time.Second)
			inv = b.ended(t, inv.ID)
			require.Equal(t, store.StateSuccess, inv.State, inv.Response)
			require.Equal(t, 2, inv.Attempt)
			entries := b.log(t, id)
			require.Equal(t, []int{1, 2}, attempts(entries))
			tags, _ := b.puts.list()
			require.Equal(t, []string{"app:1"}, tags)
		})
	}
}

// TestFrozenWorkerCanDoNothingMore: one that is stopped longer than its lease. Its plugin ends by itself, somebody else builds, and
// the one that wakes up writes nothing.
func TestFrozenWorkerCanDoNothingMore(t *testing.T) {
	t.Parallel()
	for i, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			frozen := b.spawn(t, 4*time.Second, 0)
			sleep := fmt.Sprint(31415021 + i)
			// The first attempt sleeps until it is stopped, the next finds what makes it succeed.
			id := b.submit(t, b.dockerfile(t, "RUN echo started; exec sleep "+sleep), func(s *store.Submission) { s.Timeout = time.Minute })
			b.says(t, id, "started")
			require.NoError(t, frozen.Signal(syscall.SIGSTOP))
			stopped := time.Now()
			require.Eventually(t, func() bool { return !testbed.ProcessRuns(sleep) }, 15*time.Second, 20*time.Millisecond,
				"the plugin of a worker that cannot act stops by itself")
			t.Logf("its step was stopped after %s", time.Since(stopped))
			b.work(t, func(c *queue.Config) { c.Lease = 4 * time.Second })
			b.until(t, id, "running again", func(v store.Invocation) bool { return v.State == store.StateInProgress && v.Attempt == 2 })
			require.Eventually(t, func() bool { return testbed.ProcessRuns(sleep) }, patience, 20*time.Millisecond)
			require.NoError(t, frozen.Signal(syscall.SIGCONT))
			require.Eventually(t, func() bool { return len(frozen.endings()) > 0 }, patience, 20*time.Millisecond)
			require.Equal(t, []string{"lost"}, frozen.endings())
			inv, err := b.store.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, store.StateInProgress, inv.State)
			require.Equal(t, 2, inv.Attempt)
			require.True(t, testbed.ProcessRuns(sleep), "the other's step goes on")
			_, err = b.store.Cancel(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, store.StateCancelled, b.ended(t, id).State)
			require.Equal(t, []int{1, 2}, attempts(b.log(t, id)))
			_, all := b.puts.list()
			require.Zero(t, all)
		})
	}
}

// TestTerminatedWorkerHandsBack: what does not end within the grace goes to somebody else, and counts as no attempt.
func TestTerminatedWorkerHandsBack(t *testing.T) {
	t.Parallel()
	for i, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			leaving := b.spawn(t, 0, 10*time.Second)
			sleep := fmt.Sprint(31415031 + i)
			id := b.submit(t, b.dockerfile(t, "RUN echo started; exec sleep "+sleep))
			b.says(t, id, "started")
			require.NoError(t, leaving.Signal(syscall.SIGTERM))
			asked := time.Now()
			require.NoError(t, leaving.wait(t))
			require.Less(t, time.Since(asked), 11*time.Second)
			require.Equal(t, []string{"handed_back"}, leaving.endings())
			inv, err := b.store.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, store.StatePending, inv.State)
			require.Equal(t, 1, inv.Attempt)
			require.False(t, testbed.ProcessRuns(sleep))
			began := time.Now()
			b.work(t)
			b.until(t, id, "running again", func(v store.Invocation) bool { return v.State == store.StateInProgress })
			t.Logf("running again %s after another worker began", time.Since(began))
			require.Eventually(t, func() bool { return testbed.ProcessRuns(sleep) }, patience, 20*time.Millisecond)
			_, err = b.store.Cancel(t.Context(), id)
			require.NoError(t, err)
			inv = b.ended(t, id)
			require.Equal(t, 1, inv.Attempt)
		})
	}
}

// TestTerminatedWorkerFinishesWhatItCan: a build that ends within the grace is no one else's.
func TestTerminatedWorkerFinishesWhatItCan(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	leaving := b.spawn(t, 0, 40*time.Second)
	id := b.submit(t, b.dockerfile(t, "RUN echo started; sleep 2"))
	next := b.submit(t, b.dockerfile(t, "RUN true"), func(s *store.Submission) { s.Subject = "somebody else" })
	b.says(t, id, "started")
	b.ended(t, next)
	waiting := b.submit(t, b.dockerfile(t, "RUN echo started; sleep 4"))
	b.says(t, waiting, "started")
	require.NoError(t, leaving.Signal(syscall.SIGTERM))
	require.NoError(t, leaving.wait(t))
	for _, one := range []string{id, waiting} {
		inv, err := b.store.Get(t.Context(), one)
		require.NoError(t, err)
		require.Equal(t, store.StateSuccess, inv.State, inv.Response)
	}
}

// TestDatabaseGoesAwayUnderABuild: for less than the lease, it costs nothing.
func TestDatabaseGoesAwayUnderABuild(t *testing.T) {
	t.Parallel()
	server := testbed.NewPostgresServer(t)
	b := newBedOn(t, onPostgres(server.Database(t)))
	b.work(t)
	id := b.submit(t, b.dockerfile(t, "RUN for i in $(seq 1 60); do echo line $i; sleep 0.2; done"))
	b.says(t, id, "line 3\n")
	require.NoError(t, server.Kill())
	away := time.Now()
	time.Sleep(5 * time.Second) // this long, not until something
	require.NoError(t, server.Start())
	t.Logf("the database was away for %s", time.Since(away))
	inv := b.ended(t, id)
	require.Equal(t, store.StateSuccess, inv.State, inv.Response)
	require.Equal(t, 1, inv.Attempt)
	want := ""
	for i := range 60 {
		want += fmt.Sprintf("line %d\n", i+1)
	}
	require.Equal(t, want, string(outputOf(t, b.log(t, id), "seq 1 60")))
}

// TestDatabaseStaysAway: longer than the lease. The build is stopped in time, says nothing more, and is begun anew.
func TestDatabaseStaysAway(t *testing.T) {
	t.Parallel()
	server := testbed.NewPostgresServer(t)
	b := newBedOn(t, onPostgres(server.Database(t)))
	ends := make(chan queue.Ending, 10)
	b.work(t, func(c *queue.Config) {
		c.Lease = 4 * time.Second
		c.Observer = watcher{finished: func(_ store.Invocation, end queue.Ending) { ends <- end }}
	})
	const sleep = "31415071"
	id := b.submit(t, b.dockerfile(t, "RUN echo started; exec sleep "+sleep))
	b.says(t, id, "started")
	require.NoError(t, server.Kill())
	away := time.Now()
	select {
	case end := <-ends:
		require.Equal(t, queue.Lost, end.How)
	case <-time.After(patience):
		require.Fail(t, "the build goes on")
	}
	t.Logf("stopped after %s", time.Since(away))
	require.Less(t, time.Since(away), 8*time.Second) // the lease, and what the plugin takes to end
	require.Eventually(t, func() bool { return !testbed.ProcessRuns(sleep) }, 5*time.Second, 20*time.Millisecond)
	require.NoError(t, server.Start())
	b.until(t, id, "running again", func(v store.Invocation) bool { return v.State == store.StateInProgress && v.Attempt == 2 })
	_, err := b.store.Cancel(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.StateCancelled, b.ended(t, id).State)
	require.Equal(t, queue.Cancelled, (<-ends).How)
}

// TestOnlyProcessWaitsForNoLease: whoever starts alone on a database knows that nobody else is at work.
func TestOnlyProcessWaitsForNoLease(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	victim := b.spawn(t, time.Hour, 0)
	id := b.submit(t, b.dockerfile(t, "RUN echo started; sleep 2"))
	b.says(t, id, "started")
	require.NoError(t, victim.Kill())
	_ = victim.wait(t)
	b.work(t, func(c *queue.Config) { c.OnlyProcess = true })
	inv := b.ended(t, id)
	require.Equal(t, store.StateSuccess, inv.State, inv.Response)
	require.Equal(t, 2, inv.Attempt)
}

// TestKilledPluginIsTriedAgain: as when the machine has run out of memory.
func TestKilledPluginIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	b.work(t)
	id := b.submit(t, b.dockerfile(t, "RUN echo started; sleep 2"))
	b.says(t, id, "started")
	pids := b.plugins(t)
	require.Len(t, pids, 1)
	require.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	inv := b.ended(t, id)
	require.Equal(t, store.StateSuccess, inv.State, inv.Response)
	require.Equal(t, 2, inv.Attempt)
}

// plugins are the processes of plugins of this bed's workers: those whose temporary folder is in the bed's.
func (b *bed) plugins(t *testing.T) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), "IMAGE_BUILDER_RUN_FOLDER="+b.temp+"/") {
			pid := 0
			_, err := fmt.Sscanf(path, "/proc/%d/environ", &pid)
			require.NoError(t, err)
			if exe, err := os.Readlink(filepath.Join(filepath.Dir(path), "exe")); err == nil && exe == pluginPath {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
