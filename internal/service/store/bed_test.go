package store_test

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// lease is longer than any test that does not want it to end.
const lease = time.Minute

// patience bounds what tests wait for.
const patience = 20 * time.Second

// onBoth runs a test on a database of each kind, without a schema.
func onBoth(t *testing.T, test func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, onPostgres(testbed.Postgres(t)))
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, store.Config{SQLite: filepath.Join(t.TempDir(), "a file?of #ours%20.db")})
	})
}

func onPostgres(d testbed.PostgresDatabase) store.Config {
	return store.Config{Postgres: &store.Postgres{Host: d.Host, Port: d.Port, Name: d.Name, User: d.User, Password: d.Password, SSLMode: "disable"}}
}

// onEach runs a test on a store of each kind.
func onEach(t *testing.T, test func(t *testing.T, s *store.Store)) {
	t.Helper()
	onBoth(t, func(t *testing.T, cfg store.Config) {
		s := open(t, cfg)
		require.NoError(t, s.Migrate(t.Context()))
		test(t, s)
	})
}

func open(t *testing.T, cfg store.Config) *store.Store {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := store.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// submission is one of a subject.
func submission(subject string) store.Submission {
	return store.Submission{ID: newID(), Subject: subject, BuildParams: []byte(`{"a": "what? $now"}`), Sealed: []byte("sealed \x00 \xff")}
}

func submit(t *testing.T, s *store.Store, sub store.Submission) store.Invocation {
	t.Helper()
	inv, created, err := s.Submit(t.Context(), sub)
	require.NoError(t, err)
	require.True(t, created)
	return inv
}

func claim(t *testing.T, s *store.Store, owner string) *store.Lease {
	t.Helper()
	l, err := s.Claim(t.Context(), owner, lease, 0)
	require.NoError(t, err)
	require.NotNil(t, l, "something is to be claimed")
	return l
}

func get(t *testing.T, s *store.Store, id string) store.Invocation {
	t.Helper()
	inv, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	return inv
}

func finish(t *testing.T, s *store.Store, l *store.Lease) {
	t.Helper()
	require.NoError(t, s.Finish(t.Context(), l, store.Outcome{State: store.StateSuccess, Response: "built"}))
}

// out is output as an entry of a log.
func out(seq int64, data string) store.LogEntry {
	return store.LogEntry{Seq: seq, Attempt: 1, Kind: store.LogOut, Step: "step", At: time.UnixMilli(1700000000123), Data: []byte(data)}
}
