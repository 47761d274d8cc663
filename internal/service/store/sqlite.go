package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

const sqliteNow = "cast(unixepoch('subsec') * 1000 + 0.5 as integer)"

// sqlite is one file: one connection writes, several read beside it.
type sqlite struct {
	writer, reader *sql.DB
	client         *river.Client[*sql.Tx] // inserts only
	fan            *fan
	logger         *slog.Logger
	origin         string // tells our notices from those of other processes
	migrations     sync.Mutex
}

func openSQLite(ctx context.Context, file string, logger *slog.Logger) (*sqlite, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", file, err)
	}
	// Made here for its mode, which the files beside it take over. One that exists is not opened: closing it would drop
	// the locks that this process has on it.
	made, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = made.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the database: %w", err)
	}
	pragmas := url.Values{
		"_pragma": {
			"busy_timeout(10000)", // before the others, which may have to wait themselves
			"journal_mode(WAL)",
			"synchronous(FULL)", // what was accepted outlives a power cut
		},
		"_txlock": {"immediate"}, // a transaction that reads first would fail where it writes, when another has written meanwhile
	}
	address := url.URL{Scheme: "file", Path: file, RawQuery: pragmas.Encode()}
	s := &sqlite{fan: &fan{}, logger: logger, origin: uuid.NewString()}
	if s.writer, err = sql.Open("sqlite", address.String()); err != nil {
		return nil, fmt.Errorf("open the database %s: %w", file, err)
	}
	s.writer.SetMaxOpenConns(1)
	pragmas.Add("_pragma", "query_only(1)")
	pragmas.Del("_txlock")
	address.RawQuery = pragmas.Encode()
	if s.reader, err = sql.Open("sqlite", address.String()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database %s: %w", file, err), s.writer.Close())
	}
	s.reader.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0))) // readers do not wait for each other nor for the writer
	s.reader.SetMaxIdleConns(4)
	if err := s.writer.PingContext(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("open the database %s: %w", file, err)
	}
	if s.client, err = river.NewClient(riversqlite.New(s.writer), &river.Config{Logger: logger}); err != nil {
		s.close()
		return nil, fmt.Errorf("make a client of the queue: %w", err)
	}
	return s, nil
}

func (s *sqlite) close() {
	_, _ = s.reader.Close(), s.writer.Close() // nothing is left to be written
}

// handle is what a database and a transaction have in common.
type handle interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func sqliteRun(ctx context.Context, h handle, statements []*statement) error {
	for _, st := range statements {
		if st == nil {
			continue
		}
		text := numbered(st.text, sqliteNow, "0", false)
		if st.each == nil {
			result, err := h.ExecContext(ctx, text, st.args...)
			if err != nil {
				return err
			}
			if st.affected != nil {
				if *st.affected, err = result.RowsAffected(); err != nil {
					return err
				}
			}
			continue
		}
		if err := sqliteAsk(ctx, h, text, st); err != nil {
			return err
		}
	}
	return nil
}

func sqliteAsk(ctx context.Context, h handle, text string, st *statement) error {
	rows, err := h.QueryContext(ctx, text, st.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // what went wrong is in Err
	for rows.Next() {
		if err := st.each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *sqlite) run(ctx context.Context, statements ...*statement) error {
	return s.inTransaction(ctx, func(tx transaction) error { return tx.run(ctx, statements...) })
}

func (s *sqlite) read(ctx context.Context, st *statement) error {
	return sqliteRun(ctx, s.reader, []*statement{st})
}

type sqliteTransaction struct {
	tx     *sql.Tx
	client *river.Client[*sql.Tx]
}

func (t sqliteTransaction) run(ctx context.Context, statements ...*statement) error {
	return sqliteRun(ctx, t.tx, statements)
}

func (t sqliteTransaction) insertJobs(ctx context.Context, jobs ...river.InsertManyParams) error {
	_, err := t.client.InsertManyTx(ctx, t.tx, jobs)
	return err
}

func (t sqliteTransaction) ticketWaits(ctx context.Context) (waits bool, err error) {
	err = t.run(ctx, ask(func(row) error { waits = true; return nil }, jobQuery))
	return waits, err
}

func (s *sqlite) inTransaction(ctx context.Context, f func(transaction) error) (err error) {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, ignoreDone(tx.Rollback()))
		}
	}()
	if err := f(sqliteTransaction{tx, s.client}); err != nil {
		return err
	}
	done = true
	return tx.Commit()
}

// ignoreDone takes away the error of rolling back what the end of a context has rolled back.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

func (s *sqlite) lock(int, string, bool) *statement { return nil }

func (s *sqlite) tryLock(_ int, got *bool) *statement { *got = true; return nil }

func (s *sqlite) tell(n Notice) *statement {
	return do("insert into ib_notice (origin, kind, invocation_id, at) values (?, ?, ?, $now)", s.origin, string(n.Kind), n.ID)
}

func (s *sqlite) told(notices ...Notice) { s.fan.tell(notices...) }

func (s *sqlite) forget() *statement {
	return do("delete from ib_notice where at < $now - ?", noticesKept.Milliseconds())
}

func (s *sqlite) skipLocked() string { return "" }

func (s *sqlite) newRiver(cfg *river.Config) (River, error) {
	return river.NewClient(riversqlite.New(s.writer), cfg)
}
