package store

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

const (
	postgresNow = "(extract(epoch from statement_timestamp()) * 1000)::bigint"
	postgresUp  = "(extract(epoch from pg_postmaster_start_time()) * 1000)::bigint"
	// idleInTransaction ends the transaction of a process that was stopped in the middle of it: it may hold the lock that
	// all claims wait for. Ours are never idle for more than the time between two statements.
	idleInTransaction = 10 * time.Second
	// channel is what notices are sent on.
	channel = "ib_notice"
)

type postgres struct {
	gets   *gatherer
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx] // inserts only
	logger *slog.Logger
}

// quoted is a value of a connection string of libpq.
func quoted(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

func openPostgres(ctx context.Context, p Postgres, logger *slog.Logger) (*postgres, error) {
	p = p.withDefaults()
	cfg, err := pgxpool.ParseConfig(strings.Join([]string{
		"host=" + quoted(p.Host), "port=" + strconv.Itoa(p.Port), "dbname=" + quoted(p.Name), "user=" + quoted(p.User),
		"sslmode=" + quoted(p.SSLMode), "application_name=image-builder-api",
		"idle_in_transaction_session_timeout=" + strconv.FormatInt(idleInTransaction.Milliseconds(), 10),
	}, " "))
	if err != nil {
		return nil, fmt.Errorf("read the parameters of %s: %w", p, err)
	}
	// Not in the text above, which errors quote.
	cfg.ConnConfig.Password = p.Password
	cfg.ConnConfig.ConnectTimeout = p.Timeout
	// A database whose host is gone is noticed within half a minute, and not when the kernel gives up after a quarter of an hour.
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cfg.ConnConfig.DialFunc = dialer.DialContext
	cfg.MaxConns = int32(p.MaxConns) //nolint:gosec // G115: withDefaults bounds it
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p, err)
	}
	pinging, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	if err := pool.Ping(pinging); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to %s: %w", p, err)
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: logger})
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("make a client of the queue: %w", err)
	}
	db := &postgres{pool: pool, client: client, logger: logger}
	db.gets = &gatherer{run: db.run}
	return db, nil
}

func (p *postgres) close() { p.pool.Close() }

func postgresText(text string) string { return numbered(text, postgresNow, postgresUp, true) }

// sender is what a pool, a connection and a transaction have in common.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// send carries statements out in one round trip. Outside a transaction they are one of their own, as PostgreSQL commits
// where a pipeline ends.
func send(ctx context.Context, to sender, statements []*statement) error {
	batch := &pgx.Batch{}
	for _, st := range statements {
		if st == nil {
			continue
		}
		queued := batch.Queue(postgresText(st.text), st.args...)
		if st.each == nil {
			queued.Exec(func(tag pgconn.CommandTag) error {
				if st.affected != nil {
					*st.affected = tag.RowsAffected()
				}
				return nil
			})
			continue
		}
		queued.Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := st.each(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	}
	return to.SendBatch(ctx, batch).Close()
}

func (p *postgres) run(ctx context.Context, statements ...*statement) error {
	return send(ctx, p.pool, statements)
}

func (p *postgres) read(ctx context.Context, st *statement) error {
	if st.small {
		return p.gets.read(ctx, st)
	}
	args := st.args
	if st.varied {
		args = append([]any{pgx.QueryExecModeCacheDescribe}, args...)
	}
	rows, err := p.pool.Query(ctx, postgresText(st.text), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := st.each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

type postgresTransaction struct {
	tx     pgx.Tx
	client *river.Client[pgx.Tx]
}

func (t postgresTransaction) run(ctx context.Context, statements ...*statement) error {
	return send(ctx, t.tx, statements)
}

func (t postgresTransaction) insertJobs(ctx context.Context, jobs ...river.InsertManyParams) error {
	_, err := t.client.InsertManyTx(ctx, t.tx, jobs)
	return err
}

func (t postgresTransaction) ticketWaits(ctx context.Context) (waits bool, err error) {
	err = t.run(ctx, ask(func(row) error { waits = true; return nil }, jobQuery))
	return waits, err
}

func (p *postgres) inTransaction(ctx context.Context, f func(transaction) error) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error { return f(postgresTransaction{tx, p.client}) })
}

func (p *postgres) lock(which int, of string, shared bool) *statement {
	text := "select pg_advisory_xact_lock(?, hashtext(?))"
	if shared {
		text = "select pg_advisory_xact_lock_shared(?, hashtext(?))"
	}
	return do(text, lockSpace+which, of)
}

func (p *postgres) tryLock(which int, got *bool) *statement {
	return ask(func(r row) error { return r.Scan(got) }, "select pg_try_advisory_xact_lock(?, 0)", lockSpace+which)
}

func (p *postgres) tell(n Notice) *statement {
	return do("select pg_notify('"+channel+"', ?)", string(n.Kind)+":"+n.ID)
}

func (p *postgres) told(...Notice) {}

func (p *postgres) forget() *statement { return nil }

func (p *postgres) skipLocked() string { return " for update skip locked" }

func (p *postgres) newRiver(cfg *river.Config) (River, error) {
	return river.NewClient(riverpgxv5.New(p.pool), cfg)
}
