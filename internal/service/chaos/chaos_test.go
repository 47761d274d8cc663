package chaos

import (
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plan is how much happens in one run.
type plan struct {
	builds, clients int
	kills           int
	pause           time.Duration // the longest between two kills
	within          time.Duration // for everything to come to an end after the last kill
}

// short takes about a minute on two cores.
var short = plan{builds: 30, clients: 5, kills: 8, pause: 3 * time.Second, within: 5 * time.Minute}

// TestKilledAtRandom kills workers, API replicas, plugins, the BuildKit daemon and PostgreSQL while 30 builds are submitted and run.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	newFleet(t, 2, 2).survives(t, short)
}

// TestKilledAtRandomAlone kills the one process of a service with SQLite.
func TestKilledAtRandomAlone(t *testing.T) {
	t.Parallel()
	newSingle(t).survives(t, plan{builds: 12, clients: 3, kills: 3, pause: 5 * time.Second, within: short.within})
}

// survives submits and kills, and then looks at what is there.
func (f *fleet) survives(t *testing.T, p plan) {
	t.Helper()
	began := time.Now()
	var orders []order
	var both sync.WaitGroup
	both.Go(func() { orders = f.submitAll(t, p.builds, p.clients) })
	both.Go(func() {
		counts := map[string]int{}
		for done := 0; done < p.kills && t.Context().Err() == nil; {
			time.Sleep(rand.N(p.pause)) // what is killed is somewhere in the middle of something
			if what := f.killSomething(t); what != "" {
				counts[what]++
				done++
			}
		}
		t.Logf("killed: %v", counts)
	})
	both.Wait()
	require.Len(t, orders, p.builds)
	f.awaitEnd(t, p.within)
	t.Logf("%d builds with %d kills took %s", p.builds, p.kills, time.Since(began).Round(time.Second))
	f.judge(t, orders)
}

// killSomething kills one thing, and says which kind it was; "" where there was none of the kind.
func (f *fleet) killSomething(t *testing.T) string {
	t.Helper()
	what := []string{"process", "process", "plugin", "buildkitd", "postgres"}[rand.IntN(5)]
	if f.postgres == nil {
		what = []string{"process", "plugin", "buildkitd"}[rand.IntN(3)]
	}
	switch what {
	case "plugin":
		m := f.members[rand.IntN(len(f.members))]
		m.mu.Lock()
		parent := m.cmd.Process.Pid
		m.mu.Unlock()
		return killOne(children(parent, "image-builder-plugin"), what)
	case "buildkitd":
		return killOne(children(0, "buildkitd --"), what, f.engineFolder())
	case "postgres":
		require.NoError(t, f.postgres.Kill())
		time.Sleep(rand.N(restartsWithin))
		require.NoError(t, f.postgres.Start())
		return what
	default:
		m := f.members[rand.IntN(len(f.members))]
		require.NoError(t, m.kill())
		kind, _, _ := strings.Cut(m.name, "-")
		return kind
	}
}

// killOne kills one of some processes; where a word is given, only one whose command line has it.
func killOne(pids []int, what string, words ...string) string {
	all := processes()
	for _, pid := range pids {
		if len(words) > 0 && !strings.Contains(all[pid], words[0]) {
			continue
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			return what
		}
	}
	return ""
}
