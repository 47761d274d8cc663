package store_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

func TestMigrateUpAndDown(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg store.Config) {
		s := open(t, cfg)
		store.Write(t, s, "create table invocation (id text primary key, _log text)")
		store.Write(t, s, "insert into invocation values ('old', 'kept')")
		err := s.CheckSchema(t.Context())
		require.Equal(t, fault.Invalid, fault.KindOf(err))
		require.ErrorContains(t, err, "older")
		require.Contains(t, fault.As(err).Hint, "migrate up")
		status, err := s.Status(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, status)
		for _, m := range status {
			require.False(t, m.Applied)
		}
		for range 2 { // up, with data, down to nothing, and up again
			require.NoError(t, s.Migrate(t.Context()))
			require.NoError(t, s.Migrate(t.Context()), "there is nothing to do")
			require.NoError(t, s.CheckSchema(t.Context()))
			status, err = s.Status(t.Context())
			require.NoError(t, err)
			for _, m := range status {
				require.True(t, m.Applied)
				require.False(t, m.AppliedAt.IsZero())
				require.NotEmpty(t, m.Name)
			}
			submit(t, s, submission("a"))
			l := claim(t, s, "w")
			require.NoError(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(1, "x")}))
			finish(t, s, l)
			require.NoError(t, s.MigrateDown(t.Context(), len(status)+5))
			require.Equal(t, fault.Invalid, fault.KindOf(s.CheckSchema(t.Context())))
			require.NoError(t, s.MigrateDown(t.Context(), 1), "there is nothing left")
			require.ElementsMatch(t, []string{"invocation", "ib_migration"}, store.Tables(t, s))
		}
		require.Equal(t, 1, store.RowsOf(t, s, "invocation"), "a table of the original is left alone")
	})
}

func TestANewerSchemaIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		store.Write(t, s, "insert into ib_migration (version_id, is_applied) values (99, true)")
		for name, err := range map[string]error{"check": s.CheckSchema(t.Context()), "up": s.Migrate(t.Context()), "down": s.MigrateDown(t.Context(), 1)} {
			require.Equal(t, fault.Invalid, fault.KindOf(err), name)
			require.ErrorContains(t, err, "99, newer than", name)
			require.NotEmpty(t, fault.As(err).Hint, name)
		}
		submit(t, s, submission("a"))
	})
}

func TestMigrateAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg store.Config) {
		var group sync.WaitGroup
		s := open(t, cfg)
		for range 6 {
			mine := s
			if cfg.Postgres != nil { // on SQLite the folder's lock keeps other processes away
				mine = open(t, cfg)
			}
			group.Go(func() {
				if err := mine.Migrate(t.Context()); err != nil {
					t.Errorf("migrate: %v", err)
				}
			})
		}
		group.Wait()
		require.NoError(t, s.CheckSchema(t.Context()))
		submit(t, s, submission("a"))
	})
}
