package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

func TestSubmitWritesAllThatIsGiven(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		sub := store.Submission{
			ID: newID(), Subject: "o'brien \\ \"?\" $1", Group: "team", Priority: -3, Timeout: 90 * time.Second, QueueTTL: time.Hour,
			BuildParams: []byte(`{"x": "\u0000 ? $now 'a'"}`), Sealed: []byte{0, 1, 0xff}, HasSecrets: true,
			Labels: map[string]string{"a": "1", "b?": "'"}, Images: []string{"r/b:1", "r/a:1", "r/b:1"}, RetryOf: newID(), TraceParent: "00-ab-cd-01",
			Webhook: &store.Webhook{URL: "https://x/?a", Secret: []byte{9, 0}}, IdempotencyKey: "k", IdempotencyHash: []byte("h"), MaxQueued: 5,
		}
		before := time.Now()
		inv := submit(t, s, sub)
		require.WithinRange(t, inv.SubmittedAt, before.Add(-time.Second), time.Now().Add(time.Second))
		require.Equal(t, store.Invocation{
			ID: sub.ID, State: store.StatePending, Subject: sub.Subject, Group: "team", Attempt: 1, Priority: -3, Timeout: 90 * time.Second, QueueTTL: time.Hour,
			SubmittedAt: inv.SubmittedAt, BuildParams: sub.BuildParams, Labels: sub.Labels, Images: []string{"r/b:1", "r/a:1"}, RetryOf: sub.RetryOf,
			TraceParent: sub.TraceParent, Webhook: sub.Webhook, HasSecrets: true, Sealed: true, IdempotencyKey: "k",
		}, inv)
		require.Equal(t, inv, get(t, s, sub.ID), "what is read is what was answered")

		for _, id := range []string{newID(), "", "x", "../etc", "\x00", "{" + sub.ID + "}"} {
			_, err := s.Get(t.Context(), id)
			require.ErrorIs(t, err, store.ErrNotFound, "%q", id)
			require.Equal(t, fault.NotFound, fault.KindOf(err))
		}
		zero := submission("zero")
		zero.Labels = map[string]string{"a": "\x00"}
		if _, _, err := s.Submit(t.Context(), zero); err != nil { // SQLite takes it
			require.Equal(t, fault.Invalid, fault.KindOf(err), err.Error())
		}
	})
}

func TestSubmitTwiceWithOneKey(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		keyed := func(subject, key, hash string) store.Submission {
			sub := submission(subject)
			sub.IdempotencyKey, sub.IdempotencyHash, sub.MaxQueued = key, []byte(hash), 10
			return sub
		}
		// Twenty at once: one is written.
		var mutex sync.Mutex
		var created atomic.Int32
		ids := map[string]bool{}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				inv, made, err := s.Submit(t.Context(), keyed("a", "key", "one"))
				if err != nil {
					t.Errorf("submit: %v", err)
				}
				if made {
					created.Add(1)
				}
				mutex.Lock()
				defer mutex.Unlock()
				ids[inv.ID] = true
			})
		}
		group.Wait()
		require.EqualValues(t, 1, created.Load())
		require.Len(t, ids, 1)

		_, _, err := s.Submit(t.Context(), keyed("a", "key", "two"))
		require.ErrorIs(t, err, store.ErrIdempotencyConflict)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
		_, made, err := s.Submit(t.Context(), keyed("b", "key", "two"))
		require.NoError(t, err)
		require.True(t, made, "another subject's key is another key")

		// A repeated call is answered when the queue is full, and when the first has ended.
		full := keyed("a", "key", "one")
		full.MaxQueued = 1
		_, made, err = s.Submit(t.Context(), full)
		require.NoError(t, err)
		require.False(t, made)
		for range 2 {
			finish(t, s, claim(t, s, "w"))
		}
		inv, made, err := s.Submit(t.Context(), full)
		require.NoError(t, err)
		require.False(t, made)
		require.Equal(t, store.StateSuccess, inv.State)
		list, _, err := s.List(t.Context(), store.Filter{Visible: store.Visibility{All: true}})
		require.NoError(t, err)
		require.Len(t, list, 2)
	})
}

func TestSubmitStopsAtTheLimit(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		for _, limit := range []int{1, 7, 130, 1100} { // the last ones are counted side by side, and not each time
			subject := fmt.Sprint("subject of ", limit)
			var accepted, refused atomic.Int32
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for range limit/8 + 5 {
						sub := submission(subject)
						sub.MaxQueued = limit
						_, _, err := s.Submit(t.Context(), sub)
						switch {
						case err == nil:
							accepted.Add(1)
						case fault.KindOf(err) == fault.Unavailable:
							refused.Add(1)
							require.ErrorIs(t, err, store.ErrTooManyQueued)
						default:
							t.Errorf("submit: %v", err)
						}
					}
				})
			}
			group.Wait()
			require.EqualValues(t, limit, accepted.Load())
			require.EqualValues(t, 8*(limit/8+5)-limit, refused.Load())
		}
		other := submission("another")
		other.MaxQueued = 1
		submit(t, s, other)
		claim(t, s, "w") // whoever waits longest ago: one place is free
		stats, err := s.Stats(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1+7+130+1100, stats.Pending)
		require.EqualValues(t, 1, stats.Running)
		require.Positive(t, stats.OldestPending)
	})
}
