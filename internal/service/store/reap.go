package store

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"imagebuilder/internal/fault"
)

// ReapOptions says what Reap may do.
type ReapOptions struct {
	MaxAttempts int           // an invocation that was lost this often has failed; 0: 5
	DeadOwners  bool          // whoever holds a lease is dead, as at the start of the only process: no lease is waited for
	Lease       time.Duration // leases are not taken away for this long after PostgreSQL itself has started: their holders could not renew them; 0: 20 s
}

// ReapResult is what Reap has done, by invocation.
type ReapResult struct {
	Requeued  []string // their lease had run out: pending again
	Lost      []string // the same, once too often: failed
	Cancelled []string // the same, and somebody wanted them cancelled
	Expired   []string // waited longer than their QueueTTL: failed
	Tickets   int      // wake-ups that were missing
}

const (
	usualAttempts = 5
	usualLease    = 20 * time.Second
	// reapAtOnce bounds one transaction of Reap; the rest is reaped in the next.
	reapAtOnce = 100
)

// Reap takes invocations away from workers that are gone, ends what has waited too long, and wakes workers where
// something waits and no job says so. Any number of processes may call it at any time: one of them does it.
func (s *Store) Reap(ctx context.Context, o ReapOptions) (ReapResult, error) {
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = usualAttempts
	}
	if o.Lease <= 0 {
		o.Lease = usualLease
	}
	var all ReapResult
	for {
		done, more, err := s.reap(ctx, o)
		if err != nil {
			return all, failed(err, "reap invocations")
		}
		all.Requeued, all.Lost = append(all.Requeued, done.Requeued...), append(all.Lost, done.Lost...)
		all.Cancelled, all.Expired = append(all.Cancelled, done.Cancelled...), append(all.Expired, done.Expired...)
		all.Tickets += done.Tickets
		if !more {
			return all, nil
		}
	}
}

// reap is one transaction.
func (s *Store) reap(ctx context.Context, o ReapOptions) (done ReapResult, more bool, err error) {
	var notices []Notice
	err = s.db.inTransaction(ctx, func(tx transaction) error {
		alone := false
		if err := tx.run(ctx, s.db.tryLock(lockReap, &alone)); err != nil || !alone {
			return err
		}
		notices, err = s.reapLeases(ctx, tx, o, &done)
		if err != nil {
			return err
		}
		expired, err := s.reapQueue(ctx, tx, &done)
		if err != nil {
			return err
		}
		notices = append(notices, expired...)
		more = len(notices) >= reapAtOnce
		var tell []*statement
		for _, n := range notices {
			tell = append(tell, s.db.tell(n))
		}
		if err := tx.run(ctx, append(tell, s.db.forget())...); err != nil {
			return err
		}
		return reapTickets(ctx, tx, &done)
	})
	if err != nil {
		return ReapResult{}, false, err
	}
	s.db.told(notices...)
	return done, more, nil
}

// reapLeases takes invocations away whose lease has run out.
func (s *Store) reapLeases(ctx context.Context, tx transaction, o ReapOptions, done *ReapResult) (notices []Notice, err error) {
	type expired struct {
		id     string
		lost   bool
		cancel bool
	}
	var all []expired
	// No lease can have been renewed while the database server itself was away.
	gone, args := "lease_until < $now and $up < $now - ?", []any{o.MaxAttempts, o.Lease.Milliseconds()}
	if o.DeadOwners {
		gone, args = "true", args[:1]
	}
	if err := tx.run(ctx, ask(func(r row) error {
		var v expired
		err := r.Scan(&v.id, &v.cancel, &v.lost)
		all = append(all, v)
		return err
	}, "select id, cancel_requested, attempt >= ? from ib_invocation where state = 'in_progress' and "+gone+" order by id limit ?"+s.db.skipLocked(),
		append(args, reapAtOnce)...)); err != nil {
		return nil, err
	}
	for _, v := range all {
		switch {
		case v.cancel:
			done.Cancelled = append(done.Cancelled, v.id)
			err = s.end(ctx, tx, v.id, StateCancelled, ReasonCancelled, fault.Cancelled, cancelledResponse)
		case v.lost:
			done.Lost = append(done.Lost, v.id)
			err = s.end(ctx, tx, v.id, StateFailed, ReasonLost, fault.Unavailable, lostResponse)
		default:
			done.Requeued = append(done.Requeued, v.id)
			err = tx.run(ctx, do(`update ib_invocation set state = 'pending', attempt = attempt + 1, again = 'lost', started_at = 0, not_before = 0,
 lease_owner = '', lease_until = 0 where id = ?`, v.id))
			if err == nil {
				err = tx.insertJobs(ctx, river.InsertManyParams{Args: Ticket{}})
			}
		}
		if err != nil {
			return nil, err
		}
		notices = append(notices, Notice{NoticeState, v.id})
	}
	return notices, nil
}

// reapQueue ends what has waited longer than it may.
func (s *Store) reapQueue(ctx context.Context, tx transaction, done *ReapResult) (notices []Notice, err error) {
	if err := tx.run(ctx, ask(func(r row) error {
		var id string
		err := r.Scan(&id)
		done.Expired = append(done.Expired, id)
		return err
	}, "select id from ib_invocation where state = 'pending' and queue_until > 0 and queue_until <= $now order by id limit ?"+s.db.skipLocked(), reapAtOnce)); err != nil {
		return nil, err
	}
	for _, id := range done.Expired {
		if err := s.end(ctx, tx, id, StateFailed, ReasonExpired, fault.Unavailable, expiredResponse); err != nil {
			return nil, err
		}
		notices = append(notices, Notice{NoticeState, id})
	}
	return notices, nil
}

// end ends an invocation that is held by the transaction.
func (s *Store) end(ctx context.Context, tx transaction, id string, state State, reason Reason, kind fault.Kind, response string) error {
	var after Invocation
	err := tx.run(ctx, ask(func(r row) error { return scan(r, &after, false) }, `update ib_invocation set state = ?, reason = ?, response = ?, failure = ?,
 ended_at = $now, sealed = null, lease_owner = '', lease_until = 0 where id = ? returning `+summaryColumns,
		string(state), string(reason), response, failureOf(kind, response), id))
	if err != nil {
		return err
	}
	return deliver(ctx, tx, after)
}

// reapTickets wakes a worker where something may be claimed and no ticket says so.
func reapTickets(ctx context.Context, tx transaction, done *ReapResult) error {
	claimable := false
	err := tx.run(ctx, ask(func(row) error { claimable = true; return nil },
		"select 1 from ib_invocation where state = 'pending' and not_before <= $now limit 1"))
	if err != nil || !claimable {
		return err
	}
	if waits, err := tx.ticketWaits(ctx); err != nil || waits {
		return err
	}
	done.Tickets++
	return tx.insertJobs(ctx, river.InsertManyParams{Args: Ticket{}})
}
