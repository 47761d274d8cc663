package store

import (
	"context"
	"strconv"
	"strings"

	"github.com/riverqueue/river"
)

// row is one row of an answer.
type row interface{ Scan(into ...any) error }

// statement is SQL that both databases understand: its parameters are question marks, $now is the database's clock in
// milliseconds since 1970, and $up the time at which the database server started, 0 where there is none. The parameters
// travel beside the text, so that what they hold is in no statement that the server logs.
type statement struct {
	text     string
	args     []any
	each     func(row) error // is given each row of the answer; nil: there is none
	affected *int64          // set to the number of rows that were written; only without each
	small    bool            // an answer of one row at most, found by an index: it may share a round trip with others
	varied   bool            // how it is best carried out depends on the parameters: PostgreSQL plans it each time
}

// do is a statement without an answer.
func do(text string, args ...any) *statement { return &statement{text: text, args: args} }

// counted sets n to the number of rows that the statement writes.
func (st *statement) counted(n *int64) *statement { st.affected = n; return st }

// ask is a statement whose answer's rows are given to each.
func ask(each func(row) error, text string, args ...any) *statement {
	return &statement{text: text, args: args, each: each}
}

// runner carries statements out, in their order. On PostgreSQL they take one round trip together.
type runner interface {
	run(ctx context.Context, statements ...*statement) error
}

// transaction is all or nothing, jobs included.
type transaction interface {
	runner
	insertJobs(ctx context.Context, jobs ...river.InsertManyParams) error
	// ticketWaits tells whether there is a Ticket that a worker can take.
	ticketWaits(ctx context.Context) (bool, error)
}

// database is what PostgreSQL and SQLite differ in.
type database interface {
	// run is a transaction of its own.
	runner
	// read gives answers, and writes nothing.
	read(ctx context.Context, st *statement) error
	// inTransaction commits when f gives no error. On SQLite nothing else is written meanwhile.
	inTransaction(ctx context.Context, f func(transaction) error) error
	// lock waits until no other transaction holds the lock, or, when shared, holds it alone; and lets go at the end of
	// the transaction. tryLock sets got unless somebody holds it. SQLite's transactions need neither: nil is no statement.
	lock(which int, of string, shared bool) *statement
	tryLock(which int, got *bool) *statement
	// tell is the statement that tells every process; told, after the commit, our own, where the database does not.
	tell(n Notice) *statement
	told(notices ...Notice)
	forget() *statement // what removes old notices, where the database keeps them
	watch(ctx context.Context, f func(Notice)) error
	skipLocked() string // what makes a SELECT pass over rows that another transaction holds
	newRiver(cfg *river.Config) (River, error)
	migrator() (migrator, error)
	close()
}

// The locks.
const (
	lockMigrate = iota + 1
	lockQueued  // of a subject: who counts what waits
	lockClaim
	lockReap
)

// lockSpace is the first half of an advisory lock's key: "ib" in ASCII, so that other programs in the database are not met.
const lockSpace = 0x6962 << 8

// jobQuery asks River's own table, which has these columns on both databases. The words are in the text, not in
// parameters: they are columns of an enumeration on PostgreSQL.
const jobQuery = "select 1 from river_job where state = 'available' and kind = 'build' and queue = '" + QueueBuilds + "' limit 1"

// numbered writes a statement for a database that numbers its parameters or not, and whose clock is an expression.
func numbered(text, now, up string, numbers bool) string {
	if strings.Contains(text, "$") {
		text = strings.NewReplacer("$now", now, "$up", up).Replace(text)
	}
	if !numbers {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + 16)
	for n := 1; ; n++ {
		before, after, more := strings.Cut(text, "?")
		b.WriteString(before)
		if !more {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		text = after
	}
}

// marks is a list of n parameters.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// anyOf makes parameters of values.
func anyOf[S ~string](values []S) []any {
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = string(v)
	}
	return args
}
