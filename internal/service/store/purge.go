package store

import (
	"context"
	"time"
)

// Retention is how long invocations are kept after their end. 0: for ever.
type Retention struct {
	Success time.Duration
	Failed  time.Duration // cancelled ones too
}

// purgeAtOnce bounds one transaction of Purge: each may have a log of tens of megabytes.
const purgeAtOnce = 20

// Purge removes invocations that ended longer ago than r says, with all that hangs on them, and sessions that have
// run out. It gives the number of invocations.
func (s *Store) Purge(ctx context.Context, r Retention) (int, error) {
	n := 0
	for state, age := range map[State]time.Duration{StateSuccess: r.Success, StateFailed: r.Failed, StateCancelled: r.Failed} {
		for age > 0 {
			purged, err := s.purge(ctx, state, age)
			if err != nil {
				return n, failed(err, "remove old invocations")
			}
			n += purged
			if purged < purgeAtOnce {
				break
			}
		}
	}
	err := s.db.run(ctx, do("delete from ib_session where expires <= $now"))
	return n, failed(err, "remove old sessions")
}

func (s *Store) purge(ctx context.Context, state State, age time.Duration) (n int, err error) {
	err = s.db.inTransaction(ctx, func(tx transaction) error {
		var statements []*statement
		if err := tx.run(ctx, ask(func(r row) error {
			var id string
			err := r.Scan(&id)
			statements = append(append(statements, do("delete from ib_invocation where id = ?", id)), hanging(id)...)
			n++
			return err
		}, "select id from ib_invocation where state = ? and ended_at <= $now - ? order by ended_at limit ?"+s.db.skipLocked(),
			string(state), age.Milliseconds(), purgeAtOnce)); err != nil || n == 0 {
			return err
		}
		return tx.run(ctx, statements...)
	})
	return n, err
}
