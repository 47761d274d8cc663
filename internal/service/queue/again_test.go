package queue_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
)

// TestPassingTroubleIsTriedAgain: what a build needs does not answer. It is tried as often as the worker is told, and then fails with
// the true reason.
func TestPassingTroubleIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	b.settings.BuildKitHost = "tcp://" + l.Addr().String()
	var mu sync.Mutex
	var hows []queue.How
	b.work(t, func(c *queue.Config) {
		c.MaxAttempts = 2
		c.Observer = watcher{finished: func(_ store.Invocation, end queue.Ending) {
			mu.Lock()
			defer mu.Unlock()
			hows = append(hows, end.How)
		}}
	})
	id := b.submit(t, b.dockerfile(t, "RUN true"))
	inv := b.ended(t, id)
	require.Equal(t, store.StateFailed, inv.State)
	require.Equal(t, store.ReasonUnavailable, inv.Reason)
	require.Equal(t, 2, inv.Attempt)
	require.Contains(t, inv.Response, "connection refused")
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []queue.How{queue.HandedBack, queue.Failed}, hows)
	marks := 0
	for _, e := range b.log(t, id) {
		if e.Kind == store.LogAttempt {
			marks++
			require.Contains(t, string(e.Data), "connection refused")
		}
	}
	require.Equal(t, 1, marks)
}

// TestSubjectsTakeTurns: on two workers, nobody runs more than its limit, and whoever comes later with little does not wait for all
// of those who came with much.
func TestSubjectsTakeTurns(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			var mu sync.Mutex
			var order, begun []string
			running, most := map[string]int{}, map[string]int{}
			seen := watcher{
				claimed: func(v store.Invocation) {
					mu.Lock()
					defer mu.Unlock()
					if !slices.Contains(begun, v.ID) { // a busy machine may make one of them begin anew
						begun, order = append(begun, v.ID), append(order, v.Subject)
					}
					running[v.Subject]++
					most[v.Subject] = max(most[v.Subject], running[v.Subject])
				},
				finished: func(v store.Invocation, end queue.Ending) {
					mu.Lock()
					defer mu.Unlock()
					if end.Err != nil {
						t.Logf("attempt %d %s: %v", v.Attempt, end.How, end.Err)
					}
					running[v.Subject]--
				},
			}
			from := func(subject string) func(*store.Submission) {
				return func(s *store.Submission) { s.Subject = subject }
			}
			var ids []string
			for i, subject := range []string{"much", "much", "much", "much", "much", "little"} {
				// Tags of their own: of two that are moved at once, one is found to be somebody else's.
				document := strings.ReplaceAll(b.dockerfile(t, "RUN sleep 1"), `"tag":"1"`, fmt.Sprintf(`"tag":"of-%d"`, i))
				ids = append(ids, b.submit(t, document, from(subject)))
			}
			for range 2 {
				b.work(t, func(c *queue.Config) { c.Concurrency, c.MaxRunningPerSubject, c.Observer = 2, 2, seen })
			}
			for _, id := range ids {
				require.Equal(t, store.StateSuccess, b.ended(t, id).State)
			}
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, 2, most["much"], "as many as it may, and no more: %v", order)
			require.Contains(t, order[:2], "little", "its turn comes before the second of the other: %v", order)
			require.Len(t, order, 6)
		})
	}
}

// TestQueueToRunning: an idle worker hears of a build, and does not have to look for it.
func TestQueueToRunning(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			b.work(t)
			var waits []time.Duration
			for range 15 {
				inv := b.ended(t, b.submit(t, "{}")) // it ends at once
				waits = append(waits, inv.StartedAt.Sub(inv.SubmittedAt))
			}
			slices.Sort(waits)
			t.Logf("queue to running: half within %s, all within %s", waits[len(waits)/2], waits[len(waits)-1])
			require.Less(t, waits[len(waits)/2], 500*time.Millisecond, "%v", waits) // 100 ms on a machine of its own
		})
	}
}
