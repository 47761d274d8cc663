package testbed_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

func connect(t *testing.T, d testbed.PostgresDatabase, host string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s sslmode=disable", host, d.Port, d.Name, d.User, d.Password))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestPostgresKeepsWhatWasCommittedWhenItIsKilled(t *testing.T) {
	t.Parallel()
	server := testbed.NewPostgresServer(t)
	database := server.Database(t)
	conn := connect(t, database, database.Host)
	_, err := conn.Exec(t.Context(), "create table kept (n int); insert into kept values (7)")
	require.NoError(t, err)
	for _, end := range []func() error{server.Kill, server.Stop} {
		require.NoError(t, end())
		require.Error(t, conn.Ping(t.Context()), "it has ended")
		require.NoError(t, server.Start())
		conn = connect(t, database, database.Socket)
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "select n from kept").Scan(&n))
		require.Equal(t, 7, n)
	}
	server.Close()
	require.NoDirExists(t, database.Socket)
}

func TestPostgresDatabasesAreApart(t *testing.T) {
	t.Parallel()
	one, two := testbed.Postgres(t), testbed.Postgres(t)
	require.Equal(t, one.Port, two.Port, "one server")
	_, err := connect(t, one, one.Host).Exec(t.Context(), "create table only_here ()")
	require.NoError(t, err)
	_, err = connect(t, two, two.Host).Exec(t.Context(), "select from only_here")
	require.ErrorContains(t, err, "does not exist")
}

// What a test process leaves when it is killed is gone in the end, at whatever moment that was.
func TestPostgresIsGoneWhenItsTestsAreKilled(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	require.NoError(t, err)
	for name, moment := range map[string]string{
		"while the data is made": "ib-postgres-*/data",
		"while it starts":        "ib-postgres-*/data/postmaster.pid",
		"while it runs":          "ib-postgres-*/.s.PGSQL.*",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder, err := os.MkdirTemp("", "ibk") // short enough for a socket
			require.NoError(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(folder) })
			require.NoError(t, os.Chmod(folder, 0o777|os.ModeSticky)) //nolint:gosec // G302: as /tmp, for PostgreSQL's user
			tests := exec.Command(program, "-test.run=^TestPostgresDatabasesAreApart$", "-test.count=1000")
			tests.Env = append(os.Environ(), "TMPDIR="+folder)
			require.NoError(t, tests.Start())
			require.Eventually(t, func() bool {
				found, err := filepath.Glob(filepath.Join(folder, moment))
				return err == nil && len(found) > 0
			}, time.Minute, time.Millisecond)
			require.NoError(t, tests.Process.Kill())
			require.Error(t, tests.Wait())
			require.Eventually(t, func() bool {
				left, err := os.ReadDir(folder)
				return err == nil && len(left) == 0
			}, time.Minute, 10*time.Millisecond)
		})
	}
}
