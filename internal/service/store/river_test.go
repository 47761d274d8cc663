package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

// tickets works Tickets by doing f.
type tickets struct {
	river.WorkerDefaults[store.Ticket]
	f func(ctx context.Context) error
}

func (w *tickets) Work(ctx context.Context, _ *river.Job[store.Ticket]) error { return w.f(ctx) }

// deliveries remembers Deliveries.
type deliveries struct {
	river.WorkerDefaults[store.Delivery]
	mutex sync.Mutex
	all   []store.Delivery
}

func (w *deliveries) Work(_ context.Context, job *river.Job[store.Delivery]) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.all = append(w.all, job.Args)
	return nil
}

func (w *deliveries) states() (states []store.State) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, d := range w.all {
		states = append(states, d.State)
	}
	return states
}

// work works jobs until the test ends.
func work(t *testing.T, s *store.Store, f func(ctx context.Context) error) *deliveries {
	t.Helper()
	told := &deliveries{}
	workers := river.NewWorkers()
	river.AddWorker(workers, &tickets{f: f})
	river.AddWorker(workers, told)
	r, err := s.NewRiver(&river.Config{
		Workers: workers, JobTimeout: -1, FetchCooldown: 50 * time.Millisecond,
		Queues: map[string]river.QueueConfig{store.QueueBuilds: {MaxWorkers: 2}, store.QueueWebhooks: {MaxWorkers: 1}},
	})
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, r.StopAndCancel(ctx))
	})
	return told
}

func TestASubmissionWakesAWorker(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		told := work(t, s, func(ctx context.Context) error {
			l, err := s.Claim(ctx, "w", lease, 0)
			if err != nil || l == nil {
				return err
			}
			return s.Finish(ctx, l, store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed})
		})
		sub := submission("a")
		sub.Webhook = &store.Webhook{URL: "http://localhost/hook", Secret: []byte("sealed")}
		submit(t, s, sub)
		require.Eventually(t, func() bool { return len(told.states()) == 3 }, patience, 5*time.Millisecond)
		require.ElementsMatch(t, []store.State{store.StatePending, store.StateInProgress, store.StateFailed}, told.states())
		for _, d := range told.all {
			require.Equal(t, sub.ID, d.InvocationID)
			require.Equal(t, 1, d.Attempt)
			require.WithinRange(t, d.At, time.Now().Add(-patience), time.Now().Add(time.Second))
		}
	})
}

func TestWhateverEndsIsDelivered(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		hooked := func() store.Submission {
			sub := submission("a")
			sub.Webhook = &store.Webhook{URL: "http://localhost/hook"}
			return sub
		}
		cancelled := hooked()
		submit(t, s, cancelled)
		_, err := s.Cancel(t.Context(), cancelled.ID)
		require.NoError(t, err)
		lost := hooked()
		submit(t, s, lost)
		claim(t, s, "w")
		lose(t, s, store.ReapOptions{MaxAttempts: 1})
		expired := hooked()
		expired.QueueTTL = time.Millisecond
		submit(t, s, expired)
		nextMillisecond()
		nextMillisecond()
		require.Equal(t, []string{expired.ID}, lose(t, s, store.ReapOptions{}).Expired)

		told := work(t, s, func(context.Context) error { return nil })
		require.Eventually(t, func() bool { return len(told.states()) == 7 }, patience, 5*time.Millisecond)
		ended := map[string]store.State{}
		for _, d := range told.all {
			if d.State.Ended() {
				ended[d.InvocationID] = d.State
			}
		}
		require.Equal(t, map[string]store.State{cancelled.ID: store.StateCancelled, lost.ID: store.StateFailed, expired.ID: store.StateFailed}, ended)
	})
}

func TestReapPutsATicketWhereOneIsMissing(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		reap := func() int {
			done, err := s.Reap(t.Context(), store.ReapOptions{})
			require.NoError(t, err)
			return done.Tickets
		}
		require.Zero(t, reap(), "nothing waits")
		submit(t, s, submission("a"))
		require.Zero(t, reap(), "the submission has put one")
		store.Write(t, s, "delete from river_job")
		require.Equal(t, 1, reap())
		require.Zero(t, reap())
		store.Write(t, s, "delete from river_job")
		require.NoError(t, s.PutTicket(t.Context()))
		require.Zero(t, reap())
		// Taken, but not by one that claims: as of a worker that died with it.
		store.Write(t, s, "update river_job set state = 'running', attempted_at = created_at, attempt = 1")
		require.Equal(t, 1, reap())
		claim(t, s, "w")
		store.Write(t, s, "delete from river_job")
		require.Zero(t, reap(), "nothing waits")
		lose(t, s, store.ReapOptions{})
		require.Equal(t, 1, store.RowsOf(t, s, "river_job"), "a ticket for what goes back")
		l := claim(t, s, "w")
		store.Write(t, s, "delete from river_job")
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{Delay: time.Hour}))
		require.Equal(t, 1, store.RowsOf(t, s, "river_job"), "a ticket for later")
		require.Zero(t, reap(), "nothing may be claimed")
	})
}
