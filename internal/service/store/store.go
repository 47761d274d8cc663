// Package store keeps invocations, their logs and sessions in PostgreSQL or SQLite, and is the only package that knows
// SQL. It decides whose turn it is and who may write; it runs nothing itself.
package store

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"imagebuilder/internal/fault"
)

// Config says where the database is: one of Postgres and SQLite.
type Config struct {
	Postgres *Postgres
	SQLite   string       // file, made when it is not there; its folder must be
	Logger   *slog.Logger // default: discards
}

// Postgres is how a PostgreSQL database is reached.
type Postgres struct {
	Host     string // name, address, or folder of a Unix socket; default localhost
	Port     int    // default 5432
	Name     string // of the database
	User     string
	Password string
	SSLMode  string        // as of libpq; default prefer
	Timeout  time.Duration // to connect; default 10 s
	MaxConns int           // default 20: some for requests, one for each running build's heartbeat and log
}

// maxConns bounds what a mistake can ask for; PostgreSQL itself takes 100 by default.
const maxConns = 10_000

func (p Postgres) withDefaults() Postgres {
	if p.Host == "" {
		p.Host = "localhost"
	}
	if p.Port == 0 {
		p.Port = 5432
	}
	if p.SSLMode == "" {
		p.SSLMode = "prefer"
	}
	if p.Timeout <= 0 {
		p.Timeout = 10 * time.Second
	}
	if p.MaxConns <= 0 {
		p.MaxConns = 20
	}
	p.MaxConns = min(p.MaxConns, maxConns)
	return p
}

// String names the database, without the password.
func (p Postgres) String() string {
	return fmt.Sprintf("the PostgreSQL database %q of %s port %d as %q", p.Name, p.Host, p.Port, p.User)
}

// Store is the database.
type Store struct {
	db     database
	logger *slog.Logger
	counts *lru.Cache[string, *counted] // by subject
}

// Open connects, and migrates nothing. A database that does not answer is Unavailable.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	counts, err := lru.New[string, *counted](countedSubjects)
	if err != nil {
		return nil, err
	}
	s := &Store{logger: cfg.Logger, counts: counts}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Postgres != nil && cfg.SQLite != "":
		return nil, fault.New(fault.Invalid, "open the database: both PostgreSQL and an SQLite file are given")
	case cfg.Postgres != nil:
		db, err := openPostgres(ctx, *cfg.Postgres, s.logger)
		if err != nil {
			return nil, failed(err, "open the database")
		}
		s.db = db
	case cfg.SQLite != "":
		db, err := openSQLite(ctx, cfg.SQLite, s.logger)
		if err != nil {
			return nil, failed(err, "open the database")
		}
		s.db = db
	default:
		return nil, fault.New(fault.Invalid, "open the database: none is given")
	}
	return s, nil
}

// Close ends all connections.
func (s *Store) Close() { s.db.close() }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return failed(s.db.read(ctx, ask(func(row) error { return nil }, "select 1")), "ask the database")
}
