package follow_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// crowd is followers that all begin at the same entry.
func (b *bed) crowd(t *testing.T, count int, after func(i int) int64) (wait func() []*reader) {
	t.Helper()
	readers, failures := make([]*reader, count), make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		readers[i] = &reader{seq: after(i)}
		all.Go(func() { failures[i] = b.hub.Follow(t.Context(), b.id, readers[i].seq, readers[i].take) })
	}
	return func() []*reader {
		all.Wait()
		for _, err := range failures {
			require.NoError(t, err)
		}
		return readers
	}
}

func start(int) int64 { return 0 }

// TestManyFollowersAreOneReader has 200 followers of a build, and 1,000: what the database is asked does not depend on how many they are.
func TestManyFollowersAreOneReader(t *testing.T) {
	for _, count := range []int{200, 1000} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bed) {
				const flushes, lines = 40, 25
				wait := b.crowd(t, count, start)
				last := &reader{got: make(chan int64, 1)}
				ended := make(chan error, 1)
				go func() { ended <- b.hub.Follow(t.Context(), b.id, 0, last.take) }()
				for i := range flushes {
					b.write(t, lines, 100)
					for seq := int64(0); seq < int64((i+1)*lines); { // as a build's flushes come one by one
						seq = <-last.got
					}
				}
				b.finish(t)
				for _, r := range wait() {
					require.EqualValues(t, flushes*lines, r.seq)
					require.True(t, r.update.Last)
					require.Equal(t, store.StateSuccess, r.update.Invocation.State)
				}
				require.NoError(t, <-ended)
				// One read for each flush, one that finds nothing more, and some for the safety net and the end.
				t.Logf("%d followers, %d flushes: %d reads of the log, %d of the state", count, flushes, b.source.reads.Load(), b.source.gets.Load())
				require.LessOrEqual(t, b.source.reads.Load(), int64(2*flushes+30))
				require.LessOrEqual(t, b.source.gets.Load(), int64(30))
			})
		})
	}
}

// TestSlowAndLateFollowers has a log that is larger than what is kept, followers that stand still meanwhile, and such as begin anywhere.
func TestSlowAndLateFollowers(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		const entries = 200 // of 32 kB: 6 MiB, six times of what is kept
		hold := make(chan struct{})
		slow := make([]*reader, 20)
		failures := make(chan error, len(slow))
		var began sync.WaitGroup
		began.Add(len(slow))
		for i := range slow {
			slow[i] = &reader{hold: hold, began: &began}
			go func() { failures <- b.hub.Follow(t.Context(), b.id, 0, slow[i].take) }()
		}
		b.write(t, 1, 32<<10)
		began.Wait()
		quick := b.crowd(t, 5, start)
		for range (entries - 1) / 10 {
			b.write(t, 10, 32<<10)
		}
		b.write(t, (entries-1)%10, 32<<10)
		before := b.source.reads.Load()
		late := b.crowd(t, 50, func(i int) int64 { return int64(rand.N(entries)) })
		b.finish(t)
		for _, r := range append(quick(), late()...) {
			require.EqualValues(t, entries, r.seq)
		}
		close(hold)
		for range slow {
			require.NoError(t, <-failures)
		}
		for _, r := range slow {
			require.EqualValues(t, entries, r.seq)
		}
		t.Logf("75 followers: %d reads, %d of them for those behind", b.source.reads.Load(), b.source.reads.Load()-before)
		require.Less(t, b.source.reads.Load()-before, int64(1000), "those behind read together")
	})
}

// TestDatabaseGoesAway kills PostgreSQL under writer and followers.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	server := testbed.NewPostgresServer(t)
	b := newBed(t, postgres(server.Database(t)), false)
	wait := b.crowd(t, 50, start)
	for i := range 60 {
		b.write(t, 5, 100)
		if i == 20 || i == 40 {
			require.NoError(t, server.Kill())
			require.NoError(t, server.Start())
		}
	}
	require.Eventually(t, func() bool {
		return b.source.Finish(t.Context(), b.lease, store.Outcome{State: store.StateSuccess}) == nil
	}, time.Minute, 50*time.Millisecond)
	for _, r := range wait() {
		require.EqualValues(t, 300, r.seq)
		require.True(t, r.update.Last)
	}
}

// TestLostNotices relies on the safety net alone.
func TestLostNotices(t *testing.T) {
	t.Parallel()
	b := newBed(t, sqlite(t), true, follow.PollEvery(20*time.Millisecond))
	wait := b.crowd(t, 10, start)
	for range 5 {
		b.write(t, 3, 10)
	}
	b.finish(t)
	for _, r := range wait() {
		require.EqualValues(t, 15, r.seq)
	}
}

// TestResume leaves in the middle, and goes on from there without a gap or a second time.
func TestResume(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		errEnough := errors.New("enough")
		b.write(t, 10, 10)
		r := &reader{}
		for times := 0; ; times++ {
			if times == 5 {
				b.finish(t)
			}
			more := times < 5
			err := b.hub.Follow(t.Context(), b.id, r.seq, func(u follow.Update) error {
				if err := r.take(u); err != nil {
					return err
				}
				if more && len(u.Entries) > 0 {
					return errEnough
				}
				return nil
			})
			if !more {
				require.NoError(t, err)
				break
			}
			require.ErrorIs(t, err, errEnough)
			b.write(t, 10, 10)
		}
		require.EqualValues(t, 60, r.seq)
		// Ended: from the last entry on there is only the state.
		again := &reader{seq: 60}
		require.NoError(t, b.hub.Follow(t.Context(), b.id, 60, again.take))
		require.Equal(t, store.StateSuccess, again.update.Invocation.State)
		for _, after := range []int64{61, 1 << 60, -1} {
			err := b.hub.Follow(t.Context(), b.id, after, again.take)
			require.Equal(t, fault.Invalid, fault.KindOf(err), after)
		}
		err := b.hub.Follow(t.Context(), "0199aaaa-0000-7000-8000-000000000000", 0, again.take)
		require.ErrorIs(t, err, store.ErrNotFound)
		require.Equal(t, fault.NotFound, fault.KindOf(err))
	})
}

// TestStatesAreTold follows a build whose state changes and whose log says nothing.
func TestStatesAreTold(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		states := make(chan store.State, 10)
		ended := make(chan error, 1)
		go func() {
			ended <- b.hub.Follow(t.Context(), b.id, 0, func(u follow.Update) error { states <- u.Invocation.State; return nil })
		}()
		require.Equal(t, store.StateInProgress, <-states)
		require.NoError(t, b.source.HandBack(t.Context(), b.lease, store.HandBack{Reason: "the worker ends"}))
		require.Equal(t, store.StatePending, <-states)
		_, err := b.source.Cancel(t.Context(), b.id)
		require.NoError(t, err)
		require.NoError(t, <-ended)
		require.Equal(t, store.StateCancelled, <-states)
		for range len(states) {
			require.Equal(t, store.StateCancelled, <-states)
		}
	})
}

// TestFollowersLeave ends followers of a build that goes on.
func TestFollowersLeave(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 10)
		for range 10 {
			go func() { ended <- b.hub.Follow(ctx, b.id, 0, (&reader{}).take) }()
		}
		stays := &reader{got: make(chan int64, 1)}
		done := make(chan error, 1)
		go func() { done <- b.hub.Follow(t.Context(), b.id, 0, stays.take) }()
		b.write(t, 1, 10)
		for <-stays.got < 1 {
		}
		cancel()
		for range 10 {
			require.ErrorIs(t, <-ended, context.Canceled)
		}
		require.Equal(t, 1, b.hub.Followed())
		b.finish(t)
		require.NoError(t, <-done)
	})
}
