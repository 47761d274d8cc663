package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// watcher remembers notices.
type watcher struct {
	mutex   sync.Mutex
	notices []store.Notice
}

// watch begins to watch, and returns when it does.
func watch(t *testing.T, s *store.Store) *watcher {
	t.Helper()
	w := &watcher{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, func(n store.Notice) {
			w.mutex.Lock()
			defer w.mutex.Unlock()
			w.notices = append(w.notices, n)
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	w.wait(t, store.Notice{Kind: store.NoticeAll})
	return w
}

// wait waits for a notice, and forgets it and those before it.
func (w *watcher) wait(t *testing.T, want store.Notice) {
	t.Helper()
	require.Eventually(t, func() bool {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		for i, n := range w.notices {
			if n == want {
				w.notices = w.notices[i+1:]
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond, "%v", want)
}

func TestWatchTellsWhatAnyProcessDoes(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg store.Config) {
		s := open(t, cfg)
		require.NoError(t, s.Migrate(t.Context()))
		other := open(t, cfg) // as of another process: it shares nothing but the database
		for _, w := range []*watcher{watch(t, s), watch(t, other)} {
			id := submit(t, s, submission("a")).ID
			l := claim(t, s, "w")
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})
			require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "x")}))
			w.wait(t, store.Notice{Kind: store.NoticeLog, ID: id})
			_, err := s.Cancel(t.Context(), id)
			require.NoError(t, err)
			w.wait(t, store.Notice{Kind: store.NoticeCancel, ID: id})
			finish(t, s, l)
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})

			id = submit(t, s, submission("a")).ID
			_, err = s.Cancel(t.Context(), id)
			require.NoError(t, err)
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})

			id = submit(t, s, submission("a")).ID
			claim(t, s, "w")
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})
			lose(t, s, store.ReapOptions{})
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})
			_, err = s.Cancel(t.Context(), id)
			require.NoError(t, err)
			w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})
		}
	})
}

func TestWatchGoesOnWhenTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	server := testbed.NewPostgresServer(t)
	s := open(t, onPostgres(server.Database(t)))
	require.NoError(t, s.Migrate(t.Context()))
	w := watch(t, s)
	id := submit(t, s, submission("a")).ID
	for _, end := range []func() error{server.Stop, server.Kill} {
		require.NoError(t, end())
		_, err := s.Get(t.Context(), id)
		require.Error(t, err)
		requireUnavailable(t, err)
		_, _, err = s.Submit(t.Context(), submission("a"))
		requireUnavailable(t, err)
		require.NoError(t, server.Start())
		w.wait(t, store.Notice{Kind: store.NoticeAll})
		var l *store.Lease
		require.Eventually(t, func() bool {
			l, err = s.Claim(t.Context(), "w", time.Millisecond, 0)
			return err == nil
		}, patience, 10*time.Millisecond)
		w.wait(t, store.Notice{Kind: store.NoticeState, ID: id})

		// Its lease is over, but nobody could have renewed it while the server was away.
		require.NotNil(t, l)
		nextMillisecond()
		done, err := s.Reap(t.Context(), store.ReapOptions{Lease: time.Hour})
		require.NoError(t, err)
		require.Empty(t, done.Requeued)
		require.NoError(t, s.HandBack(t.Context(), l, store.HandBack{}))
	}
}
