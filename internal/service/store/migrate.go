package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"imagebuilder/internal/fault"
)

//go:embed migrations
var migrations embed.FS

// versionTable is where goose keeps which steps were made.
const versionTable = "ib_migration"

// riverVersion is the version of River's own schema that a version of ours stands on; -1: nothing of River.
func riverVersion(ours int64) int {
	if ours < 1 {
		return -1
	}
	return 7
}

// Migration is one step of the schema.
type Migration struct {
	Version   int64
	Name      string
	Applied   bool
	AppliedAt time.Time
}

// migrator is what migrations take of a database.
type migrator struct {
	dialect goose.Dialect
	folder  string
	db      *sql.DB
	close   func() error
	exists  string // asks whether the table of versions exists
	// exclusively calls f while no other process does.
	exclusively func(ctx context.Context, f func() error) error
	river       func(ctx context.Context, to int) error // brings River's schema to a version
}

func (m migrator) provider(logger *slog.Logger) (*goose.Provider, error) {
	steps, err := fs.Sub(migrations, "migrations/"+m.folder)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(m.dialect, m.db, steps, goose.WithTableName(versionTable), goose.WithSlog(logger), goose.WithDisableGlobalRegistry(true))
}

// newest is the version of this program's schema.
func newest(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

// migrating gives f what migrations need, alone or not.
func (s *Store) migrating(ctx context.Context, alone bool, f func(migrator, *goose.Provider) error) error {
	m, err := s.db.migrator()
	if err != nil {
		return err
	}
	defer func() { _ = m.close() }() // nothing is left to be written
	p, err := m.provider(s.logger)
	if err != nil {
		return err
	}
	if !alone {
		return f(m, p)
	}
	return m.exclusively(ctx, func() error { return f(m, p) })
}

// Migrate brings the schema to the version of this program. Several processes may call it at once. Tables of others,
// as the original's invocation, are left alone. A newer schema is Invalid.
func (s *Store) Migrate(ctx context.Context) error {
	err := s.migrating(ctx, true, func(m migrator, p *goose.Provider) error {
		at, err := m.version(ctx)
		if err != nil {
			return err
		}
		if at > newest(p) {
			return newerSchema(at, newest(p))
		}
		// River first: our steps may come to name its tables.
		if err := m.river(ctx, riverVersion(newest(p))); err != nil {
			return err
		}
		_, err = p.Up(ctx)
		return err
	})
	return failed(err, "migrate the database")
}

// MigrateDown takes the last steps of the schema back, with what is stored in them.
func (s *Store) MigrateDown(ctx context.Context, steps int) error {
	err := s.migrating(ctx, true, func(m migrator, p *goose.Provider) error {
		at, err := m.version(ctx)
		if err != nil {
			return err
		}
		if at > newest(p) {
			return newerSchema(at, newest(p))
		}
		for range steps {
			if _, err := p.Down(ctx); errors.Is(err, goose.ErrNoNextVersion) {
				break
			} else if err != nil {
				return err
			}
		}
		if at, err = m.version(ctx); err != nil {
			return err
		}
		return m.river(ctx, riverVersion(at))
	})
	return failed(err, "migrate the database down")
}

// Status lists the steps of the schema.
func (s *Store) Status(ctx context.Context) ([]Migration, error) {
	var all []Migration
	err := s.migrating(ctx, false, func(m migrator, p *goose.Provider) error {
		at, err := m.version(ctx)
		if err != nil {
			return err
		}
		if at == 0 { // goose would make its table
			for _, source := range p.ListSources() {
				all = append(all, Migration{Version: source.Version, Name: source.Path})
			}
			return nil
		}
		list, err := p.Status(ctx)
		for _, st := range list {
			all = append(all, Migration{Version: st.Source.Version, Name: st.Source.Path, Applied: st.State == goose.StateApplied, AppliedAt: st.AppliedAt})
		}
		return err
	})
	return all, failed(err, "read the state of the schema")
}

// CheckSchema is the error of kind Invalid when the schema is older or newer than this program's.
func (s *Store) CheckSchema(ctx context.Context) error {
	err := s.migrating(ctx, false, func(m migrator, p *goose.Provider) error {
		at, err := m.version(ctx)
		switch {
		case err != nil:
			return err
		case at > newest(p):
			return newerSchema(at, newest(p))
		case at < newest(p):
			return fault.New(fault.Invalid, "the database's schema has version %d, older than %d of this program", at, newest(p)).
				WithHint("image-builder-api migrate up brings it up to date")
		}
		return nil
	})
	return failed(err, "check the schema")
}

func newerSchema(at, ours int64) error {
	return fault.New(fault.Invalid, "the database's schema has version %d, newer than %d of this program", at, ours).
		WithHint("run the image-builder-api that made it, or a newer one; image-builder-api migrate down of that one takes steps back")
}

// version is that of the schema; 0: there is nothing of ours. It changes nothing.
func (m migrator) version(ctx context.Context) (at int64, err error) {
	var exists bool
	if err := m.db.QueryRowContext(ctx, m.exists).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	// A step that is taken back has no row left.
	err = m.db.QueryRowContext(ctx, "select coalesce(max(version_id), 0) from "+versionTable+" where is_applied").Scan(&at)
	return at, err
}

// migrateRiver brings River's schema to a version.
func migrateRiver[T any](ctx context.Context, m *rivermigrate.Migrator[T], to int) error {
	existing, err := m.ExistingVersions(ctx)
	if err != nil {
		return err
	}
	at := 0
	if len(existing) > 0 {
		at = existing[len(existing)-1].Version
	}
	direction := rivermigrate.DirectionUp
	switch {
	case at == max(to, 0):
		return nil
	case at > to:
		direction = rivermigrate.DirectionDown
	}
	if _, err = m.Migrate(ctx, direction, &rivermigrate.MigrateOpts{TargetVersion: to}); err != nil {
		return fmt.Errorf("the queue's part: %w", err)
	}
	return nil
}

func (p *postgres) migrator() (migrator, error) {
	river, err := rivermigrate.New(riverpgxv5.New(p.pool), &rivermigrate.Config{Logger: p.logger})
	if err != nil {
		return migrator{}, err
	}
	db := stdlib.OpenDBFromPool(p.pool)
	return migrator{
		dialect: goose.DialectPostgres, folder: "postgres", db: db, close: db.Close,
		exists: "select to_regclass('" + versionTable + "') is not null",
		river:  func(ctx context.Context, to int) error { return migrateRiver(ctx, river, to) },
		exclusively: func(ctx context.Context, f func() error) error {
			// A connection of its own: its end gives the lock back, however the process ends.
			conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it holds nothing else
			if _, err := conn.Exec(ctx, "select pg_advisory_lock($1, 0)", lockSpace+lockMigrate); err != nil {
				return err
			}
			// What connections have prepared is for the schema of before.
			defer p.pool.Reset()
			return f()
		},
	}, nil
}

func (s *sqlite) migrator() (migrator, error) {
	river, err := rivermigrate.New(riversqlite.New(s.writer), &rivermigrate.Config{Logger: s.logger})
	if err != nil {
		return migrator{}, err
	}
	return migrator{
		dialect: goose.DialectSQLite3, folder: "sqlite", db: s.writer, close: func() error { return nil },
		exists: "select exists (select 1 from sqlite_master where type = 'table' and name = '" + versionTable + "')",
		river:  func(ctx context.Context, to int) error { return migrateRiver(ctx, river, to) },
		exclusively: func(_ context.Context, f func() error) error {
			s.migrations.Lock()
			defer s.migrations.Unlock()
			return f()
		},
	}, nil
}
