package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

func TestPurgeRemovesWhatIsOldWithAllThatHangsOnIt(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		var success, failed []string
		end := func(o store.Outcome) string {
			sub := submission("a")
			sub.Labels, sub.Images = map[string]string{"k": "v"}, []string{"r/a:1"}
			id := submit(t, s, sub).ID
			l := claim(t, s, "w")
			require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "x")}))
			require.NoError(t, s.Finish(t.Context(), l, o))
			return id
		}
		for range 45 { // more than one batch
			success = append(success, end(store.Outcome{State: store.StateSuccess}))
		}
		for _, state := range []store.State{store.StateFailed, store.StateCancelled} {
			failed = append(failed, end(store.Outcome{State: state}))
		}
		waiting := submit(t, s, submission("a")).ID
		running := claim(t, s, "w")
		waiting2 := submit(t, s, submission("a")).ID
		nextMillisecond()

		purge := func(r store.Retention) int {
			n, err := s.Purge(t.Context(), r)
			require.NoError(t, err)
			return n
		}
		require.Zero(t, purge(store.Retention{}), "nothing is said: all is kept")
		require.Zero(t, purge(store.Retention{Success: time.Hour, Failed: time.Hour}), "nothing is that old")
		require.Equal(t, 45, purge(store.Retention{Success: time.Millisecond}))
		left := list(t, s, store.Filter{Visible: store.Visibility{All: true}})
		require.Len(t, left, 4)
		require.Contains(t, left, waiting)
		require.Equal(t, 2, purge(store.Retention{Failed: time.Millisecond}))
		require.Zero(t, purge(store.Retention{Success: time.Millisecond, Failed: time.Millisecond}), "what has not ended stays")
		for _, id := range append(success, failed...) {
			log, err := s.Log(t.Context(), id, 0, 100)
			require.NoError(t, err)
			require.Empty(t, log)
		}
		require.Equal(t, map[string]int{"ib_log": 0, "ib_label": 0, "ib_invocation_image": 0, "ib_invocation": 2}, store.Rows(t, s))

		finish(t, s, running)
		require.NoError(t, s.Delete(t.Context(), running.Invocation.ID))
		require.ErrorIs(t, s.Delete(t.Context(), running.Invocation.ID), store.ErrNotFound)
		require.ErrorIs(t, s.Delete(t.Context(), "x"), store.ErrNotFound)
		require.ErrorIs(t, s.Delete(t.Context(), waiting2), store.ErrRunning)
	})
}

func TestSessions(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		v := store.Session{IDHash: []byte{0, 1, 0xff}, Principal: []byte(`{"subject":"a"}`), CSRF: "token", Expires: time.UnixMilli(time.Now().Add(time.Hour).UnixMilli()).UTC()}
		_, err := s.GetSession(t.Context(), v.IDHash)
		require.ErrorIs(t, err, store.ErrNotFound)
		for i := range 2 {
			v.CSRF = fmt.Sprint("token", i)
			require.NoError(t, s.PutSession(t.Context(), v))
			got, err := s.GetSession(t.Context(), v.IDHash)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
		later := v
		later.Expires = v.Expires.Add(time.Hour)
		require.NoError(t, s.TouchSession(t.Context(), v.IDHash, later.Expires))
		got, err := s.GetSession(t.Context(), v.IDHash)
		require.NoError(t, err)
		require.Equal(t, later, got)
		old := v
		old.IDHash, old.Expires = []byte("old"), time.Now().Add(-time.Second)
		require.NoError(t, s.PutSession(t.Context(), old))
		_, err = s.GetSession(t.Context(), old.IDHash)
		require.ErrorIs(t, err, store.ErrNotFound, "it has run out")
		require.NoError(t, s.TouchSession(t.Context(), old.IDHash, later.Expires))
		_, err = s.GetSession(t.Context(), old.IDHash)
		require.ErrorIs(t, err, store.ErrNotFound, "it does not come back")
		require.NoError(t, s.PutSession(t.Context(), old))
		_, err = s.Purge(t.Context(), store.Retention{})
		require.NoError(t, err)
		require.Equal(t, 1, store.RowsOf(t, s, "ib_session"))
		for range 2 {
			require.NoError(t, s.DeleteSession(t.Context(), v.IDHash))
		}
		_, err = s.GetSession(t.Context(), v.IDHash)
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}
