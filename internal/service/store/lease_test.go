package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

func TestClaimTakesTheOneWhoseTurnItIs(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		prioritised := func(subject string, priority int) string {
			sub := submission(subject)
			sub.Priority = priority
			return submit(t, s, sub).ID
		}
		a := []string{prioritised("a", 0), prioritised("a", 0), prioritised("a", 1), prioritised("a", -1)}
		b := []string{prioritised("b", 0), prioritised("b", 0)}
		// a and b have nothing running and have started nothing: by name; then b, with fewer running; then by who started longest ago.
		var leases []*store.Lease
		for _, want := range []string{a[2], b[0], a[0], b[1], a[1]} {
			l := claim(t, s, "w")
			require.Equal(t, want, l.Invocation.ID)
			require.Equal(t, store.StateInProgress, l.Invocation.State)
			require.False(t, l.Invocation.StartedAt.IsZero())
			require.Equal(t, []byte("sealed \x00 \xff"), l.Sealed)
			require.EqualValues(t, 1, l.NextSeq)
			leases = append(leases, l)
		}
		l, err := s.Claim(t.Context(), "w", lease, 3)
		require.NoError(t, err)
		require.Nil(t, l, "a has three running")
		finish(t, s, leases[0])
		l, err = s.Claim(t.Context(), "w", lease, 3)
		require.NoError(t, err)
		require.Equal(t, a[3], l.Invocation.ID)
		l, err = s.Claim(t.Context(), "w", lease, 0)
		require.NoError(t, err)
		require.Nil(t, l)
	})
}

// TestClaimIsFair compares many claims, finishes and submissions with a model of the rules.
func TestClaimIsFair(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		type waiting struct {
			id       string
			priority int
		}
		seed := uint64(time.Now().UnixNano()) //nolint:gosec // G115: any number does
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // G404: a test
		queues, running, started := map[string][]waiting{}, map[string][]*store.Lease{}, map[string]int{}
		const most = 3
		for step := range 300 {
			subject := fmt.Sprint("s", random.IntN(6))
			switch random.IntN(5) {
			case 0, 1:
				sub := submission(subject)
				sub.Priority = random.IntN(3)
				submit(t, s, sub)
				q := queues[subject]
				at := slices.IndexFunc(q, func(w waiting) bool { return w.priority < sub.Priority })
				if at < 0 {
					at = len(q)
				}
				queues[subject] = slices.Insert(q, at, waiting{sub.ID, sub.Priority})
			case 2:
				if held := running[subject]; len(held) > 0 {
					finish(t, s, held[0])
					running[subject] = held[1:]
				}
			default:
				turn := ""
				for candidate, q := range queues {
					n := len(running[candidate])
					if len(q) == 0 || n >= most {
						continue
					}
					if turn == "" || n < len(running[turn]) || n == len(running[turn]) &&
						(started[candidate] < started[turn] || started[candidate] == started[turn] && candidate < turn) {
						turn = candidate
					}
				}
				l, err := s.Claim(t.Context(), "w", lease, most)
				require.NoError(t, err)
				if turn == "" {
					require.Nil(t, l, "step %d", step)
					continue
				}
				require.NotNil(t, l, "step %d", step)
				require.Equal(t, queues[turn][0].id, l.Invocation.ID, "step %d", step)
				queues[turn], running[turn], started[turn] = queues[turn][1:], append(running[turn], l), step+1
				nextMillisecond() // the store tells starts apart by milliseconds
			}
		}
	})
}

// nextMillisecond returns in another millisecond than it was called in.
func nextMillisecond() {
	for now := time.Now().UnixMilli(); time.Now().UnixMilli() == now; {
		time.Sleep(50 * time.Microsecond)
	}
}

func TestClaimsAtOnceGiveEachInvocationOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		const invocations, subjects, most = 70, 7, 3
		for i := range invocations {
			submit(t, s, submission(fmt.Sprint(i%subjects)))
		}
		var mutex sync.Mutex
		var claimed []string
		all := func(most int) {
			var group sync.WaitGroup
			for w := range 6 {
				group.Go(func() {
					for {
						l, err := s.Claim(t.Context(), fmt.Sprint(w), lease, most)
						if err != nil {
							t.Errorf("claim: %v", err)
						}
						if l == nil {
							return
						}
						mutex.Lock()
						claimed = append(claimed, l.Invocation.ID)
						mutex.Unlock()
					}
				})
			}
			group.Wait()
		}
		all(most)
		require.Len(t, claimed, most*subjects, "no subject has more than it may")
		all(0)
		slices.Sort(claimed)
		require.Len(t, claimed, invocations)
		require.Len(t, slices.Compact(claimed), invocations)
	})
}

// lose takes a lease away as a reaper does.
func lose(t *testing.T, s *store.Store, o store.ReapOptions) store.ReapResult {
	t.Helper()
	o.DeadOwners = true
	done, err := s.Reap(t.Context(), o)
	require.NoError(t, err)
	return done
}

func TestALostLeaseWritesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		writes := map[string]func(*store.Lease) error{
			"renew": func(l *store.Lease) error { _, err := s.Renew(t.Context(), l, lease); return err },
			"append": func(l *store.Lease) error {
				return s.AppendLog(t.Context(), l, []store.LogEntry{out(l.NextSeq, "late")})
			},
			"finish": func(l *store.Lease) error {
				return s.Finish(t.Context(), l, store.Outcome{State: store.StateFailed, Response: "late", Result: []byte("{}")})
			},
			"hand back": func(l *store.Lease) error {
				return s.HandBack(t.Context(), l, store.HandBack{CountsAsAttempt: true, Reason: "late"})
			},
		}
		// Each way in which a lease ends, by the same owner: its name alone protects nothing.
		ends := map[string]func(l *store.Lease){
			"reaped":                   func(*store.Lease) { lose(t, s, store.ReapOptions{}) },
			"reaped and claimed again": func(*store.Lease) { lose(t, s, store.ReapOptions{}); claim(t, s, "w") },
			"handed back":              func(l *store.Lease) { require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{})) },
			"handed back, claimed again": func(l *store.Lease) {
				require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{}))
				claim(t, s, "w")
			},
			"finished":      func(l *store.Lease) { finish(t, s, l) },
			"lost for good": func(*store.Lease) { lose(t, s, store.ReapOptions{MaxAttempts: 1}) },
			"deleted":       func(l *store.Lease) { finish(t, s, l); require.NoError(t, s.Delete(t.Context(), l.Invocation.ID)) },
		}
		for end, lose := range ends {
			for name, write := range writes {
				inv := submit(t, s, submission("a"))
				l := claim(t, s, "w")
				require.Equal(t, inv.ID, l.Invocation.ID)
				require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "in time")}))
				lose(l)
				before, err := s.Get(t.Context(), inv.ID)
				if end != "deleted" {
					require.NoError(t, err)
				}
				log, err := s.Log(t.Context(), inv.ID, 0, 1000)
				require.NoError(t, err)

				err = write(l)
				require.ErrorIs(t, err, store.ErrLeaseLost, "%s after: %s", name, end)
				after, err := s.Get(t.Context(), inv.ID)
				if end == "deleted" {
					require.ErrorIs(t, err, store.ErrNotFound)
				}
				require.Equal(t, before, after, "%s after: %s", name, end)
				now, err := s.Log(t.Context(), inv.ID, 0, 1000)
				require.NoError(t, err)
				require.Equal(t, log, now, "%s after: %s", name, end)
				// Whatever is left is in nobody's way.
				if after.State == store.StatePending {
					_, err = s.Cancel(t.Context(), inv.ID)
					require.NoError(t, err)
				}
			}
		}
	})
}

func TestReapWaitsForTheLeaseToRunOut(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		id := submit(t, s, submission("a")).ID
		const short = 300 * time.Millisecond
		l, err := s.Claim(t.Context(), "w", short, 0)
		require.NoError(t, err)
		for end := time.Now().Add(3 * short); time.Now().Before(end); {
			_, err := s.Renew(t.Context(), l, short)
			require.NoError(t, err)
			done, err := s.Reap(t.Context(), store.ReapOptions{Lease: time.Millisecond})
			require.NoError(t, err)
			require.Empty(t, done.Requeued, "it is renewed")
		}
		var done store.ReapResult
		require.Eventually(t, func() bool {
			done, err = s.Reap(t.Context(), store.ReapOptions{Lease: time.Millisecond})
			return err == nil && len(done.Requeued) > 0
		}, patience, 10*time.Millisecond)
		require.Equal(t, []string{id}, done.Requeued)
		inv := get(t, s, id)
		require.Equal(t, store.StatePending, inv.State)
		require.Equal(t, 2, inv.Attempt)
		require.True(t, inv.StartedAt.IsZero())
		require.True(t, inv.Sealed)
		require.Equal(t, "lost", claim(t, s, "w").Again)
	})
}

func TestReapGivesUp(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		id := submit(t, s, submission("a")).ID
		for attempt := 1; attempt <= 3; attempt++ {
			require.Equal(t, attempt, claim(t, s, "w").Invocation.Attempt)
			done := lose(t, s, store.ReapOptions{MaxAttempts: 3})
			if attempt < 3 {
				require.Equal(t, []string{id}, done.Requeued)
			} else {
				require.Equal(t, store.ReapResult{Lost: []string{id}}, done)
			}
		}
		inv := get(t, s, id)
		require.Equal(t, store.StateFailed, inv.State)
		require.Equal(t, store.ReasonLost, inv.Reason)
		require.False(t, inv.Sealed)
		require.NotEmpty(t, inv.Response)
		require.JSONEq(t, `{"kind": "unavailable", "message": "`+inv.Response+`"}`, string(inv.Failure))

		// One that somebody wants cancelled is not tried again.
		id = submit(t, s, submission("a")).ID
		claim(t, s, "w")
		_, err := s.Cancel(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, store.ReapResult{Cancelled: []string{id}}, lose(t, s, store.ReapOptions{}))
		require.Equal(t, store.StateCancelled, get(t, s, id).State)

		// What waits too long ends, but not what has started in time.
		brief := submission("a")
		brief.QueueTTL = time.Millisecond
		expired := submit(t, s, brief).ID
		started := submission("b")
		started.QueueTTL = time.Hour
		submit(t, s, started)
		require.Eventually(t, func() bool {
			done, err := s.Reap(t.Context(), store.ReapOptions{})
			require.NoError(t, err)
			return slices.Equal(done.Expired, []string{expired})
		}, patience, time.Millisecond)
		inv = get(t, s, expired)
		require.Equal(t, store.ReasonExpired, inv.Reason)
		require.Equal(t, store.StateFailed, inv.State)
		require.False(t, inv.Sealed)
		require.Equal(t, started.ID, claim(t, s, "w").Invocation.ID)
	})
}

func TestHandBackWaits(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		id := submit(t, s, submission("a")).ID
		l := claim(t, s, "w")
		require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "0123456789"), {Seq: 2, Attempt: 1, Kind: store.LogCut, Data: []byte("{}")}}))
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{Delay: time.Hour, CountsAsAttempt: true, Reason: "the registry is away"}))
		l, err := s.Claim(t.Context(), "w", lease, 0)
		require.NoError(t, err)
		require.Nil(t, l, "not before an hour has passed")
		_, err = s.Cancel(t.Context(), id)
		require.NoError(t, err)

		id = submit(t, s, submission("a")).ID
		l = claim(t, s, "w")
		require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "0123456789"), {Seq: 2, Attempt: 1, Kind: store.LogCut, Data: []byte("{}")}}))
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{CountsAsAttempt: true, Reason: "the registry is away"}))
		l = claim(t, s, "other")
		require.Equal(t, id, l.Invocation.ID)
		require.Equal(t, 2, l.Invocation.Attempt)
		require.Equal(t, "the registry is away", l.Again)
		require.EqualValues(t, 3, l.NextSeq, "the log goes on")
		require.EqualValues(t, 10, l.LogBytes)
		require.True(t, l.LogCut)
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{Reason: "shutdown"}))
		l = claim(t, s, "other")
		require.Equal(t, 2, l.Invocation.Attempt, "this did not count")
		_, err = s.Cancel(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{CountsAsAttempt: true}))
		inv := get(t, s, id)
		require.Equal(t, store.StateCancelled, inv.State, "not into the queue again")
		require.Equal(t, 2, inv.Attempt)
		require.False(t, inv.Sealed)
		require.False(t, inv.StartedAt.IsZero())
	})
}

func TestCancelInEachState(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		_, err := s.Cancel(t.Context(), newID())
		require.ErrorIs(t, err, store.ErrNotFound)

		pending := submit(t, s, submission("a"))
		for range 2 {
			inv, err := s.Cancel(t.Context(), pending.ID)
			require.NoError(t, err)
			require.Equal(t, store.StateCancelled, inv.State)
			require.Equal(t, store.ReasonCancelled, inv.Reason)
			require.False(t, inv.EndedAt.IsZero())
			require.False(t, inv.Sealed)
			require.Equal(t, inv, get(t, s, inv.ID))
		}
		l, err := s.Claim(t.Context(), "w", lease, 0)
		require.NoError(t, err)
		require.Nil(t, l)

		running := submit(t, s, submission("a"))
		l = claim(t, s, "w")
		asked, err := s.Renew(t.Context(), l, lease)
		require.NoError(t, err)
		require.False(t, asked)
		require.ErrorIs(t, s.Delete(t.Context(), running.ID), store.ErrRunning)
		for range 2 {
			inv, err := s.Cancel(t.Context(), running.ID)
			require.NoError(t, err)
			require.Equal(t, store.StateInProgress, inv.State)
			require.True(t, inv.CancelRequested)
		}
		asked, err = s.Renew(t.Context(), l, lease)
		require.NoError(t, err)
		require.True(t, asked)
		outcome := store.Outcome{State: store.StateCancelled, Reason: store.ReasonCancelled, Response: "stopped \x00\xff", Failure: []byte(`{"kind":"cancelled"}`), Result: []byte(`{"r":1}`)}
		require.NoError(t, s.Finish(t.Context(), l, outcome))
		ended := get(t, s, running.ID)
		require.Equal(t, "stopped \uFFFD\uFFFD", ended.Response)
		require.JSONEq(t, `{"r":1}`, string(ended.Result))
		require.JSONEq(t, `{"kind":"cancelled"}`, string(ended.Failure))
		require.False(t, ended.Sealed)

		submit(t, s, submission("a"))
		finish(t, s, claim(t, s, "w"))
		inv, err := s.Cancel(t.Context(), running.ID)
		require.NoError(t, err)
		require.Equal(t, ended, inv, "it has ended")
		err = s.Finish(t.Context(), l, store.Outcome{State: store.StatePending})
		require.Equal(t, fault.Internal, fault.KindOf(err))
	})
}
