package store_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, fault.Unavailable, fault.KindOf(err), err.Error())
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	right := testbed.Postgres(t)
	const password = "wrong' p\\ass=word"
	for name, c := range map[string]struct {
		change func(*store.Postgres)
		kind   fault.Kind
		text   string
	}{
		"nobody listens":   {func(p *store.Postgres) { p.Port = 1 }, fault.Unavailable, "connect to the PostgreSQL database"},
		"no such host":     {func(p *store.Postgres) { p.Host = "nowhere.invalid" }, fault.Unavailable, "nowhere.invalid"},
		"nobody answers":   {func(p *store.Postgres) { p.Host, p.Port, p.Timeout = silent(t), 5432, 200*time.Millisecond }, fault.Unavailable, "connect to"},
		"wrong password":   {func(p *store.Postgres) { p.Password = password }, fault.Denied, "password"},
		"no such database": {func(p *store.Postgres) { p.Name = "it's not there" }, fault.NotFound, "it's not there"},
		"no such mode":     {func(p *store.Postgres) { p.SSLMode = "?" }, fault.Internal, "sslmode"},
	} {
		cfg := onPostgres(right)
		c.change(cfg.Postgres)
		_, err := store.Open(t.Context(), cfg)
		require.Error(t, err, name)
		require.Equal(t, c.kind, fault.KindOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, c.text, name)
		require.NotContains(t, err.Error(), right.Password)
		require.NotContains(t, err.Error(), password)
	}
	for _, cfg := range []store.Config{{}, {SQLite: "x", Postgres: &store.Postgres{}}} {
		_, err := store.Open(t.Context(), cfg)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
	_, err := store.Open(t.Context(), store.Config{SQLite: filepath.Join(t.TempDir(), "missing", "x.db")})
	require.Error(t, err)

	socket := onPostgres(right)
	socket.Postgres.Host = right.Socket
	require.NoError(t, open(t, socket).Ping(t.Context()))
}

func TestTheFileIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "x.db")
	s := open(t, store.Config{SQLite: file})
	require.NoError(t, s.Migrate(t.Context()))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(file + suffix)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), suffix)
	}
	id := submit(t, s, submission("a")).ID
	require.NoError(t, s.Ping(t.Context()))
	s.Close()
	require.Equal(t, id, get(t, open(t, store.Config{SQLite: file}), id).ID)
}

// silent is the address of a host that takes connections and says nothing: its folder has a socket that nobody reads from.
func silent(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "silent") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	l, err := net.Listen("unix", filepath.Join(folder, ".s.PGSQL.5432"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return folder
}
