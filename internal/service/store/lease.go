package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/riverqueue/river"

	"imagebuilder/internal/fault"
)

// Lease is the right to work on an invocation. Whoever holds one alone may write to it, until the lease has run out
// and somebody else has taken the invocation; from then on every write is refused with ErrLeaseLost.
type Lease struct {
	Invocation Invocation
	Owner      string
	Sealed     []byte // the whole document; package seal opens it
	NextSeq    int64  // of the log entry that comes next
	LogBytes   int64  // of output that earlier attempts have stored
	LogCut     bool   // an earlier attempt has cut the output
	Again      string // why this is not the first attempt: HandBack.Reason, or "lost"; "" on the first
	token      int64  // grows with each claim: no two leases of an invocation are alike
}

// Outcome is how an invocation ends.
type Outcome struct {
	State    State // one that is final
	Reason   Reason
	Response string // a sentence for people
	Failure  json.RawMessage
	Result   json.RawMessage
}

// HandBack is why and how an invocation goes back to the queue.
type HandBack struct {
	Delay           time.Duration // until it may be claimed again
	CountsAsAttempt bool
	Reason          string // is Lease.Again of the next attempt
}

// turn gives the invocation whose turn it is, with its subject. The subjects that wait are found by hopping through an
// index, so that it takes no longer when each has thousands waiting.
const turn = `with recursive waiting (subject) as (
 select min(subject) from ib_invocation where state = 'pending'
 union all
 select (select min(v.subject) from ib_invocation v where v.state = 'pending' and v.subject > waiting.subject) from waiting where waiting.subject is not null
), busy (subject, running) as (
 select subject, count(*) from ib_invocation where state = 'in_progress' group by subject
), first (subject, id) as (
 select waiting.subject, (select v.id from ib_invocation v where v.state = 'pending' and v.subject = waiting.subject
  and v.not_before <= $now and (v.queue_until = 0 or v.queue_until > $now) order by v.priority desc, v.submitted_at, v.id limit 1)
 from waiting where waiting.subject is not null
)
select first.id, first.subject from first left join busy on busy.subject = first.subject left join ib_subject s on s.subject = first.subject
where first.id is not null and (? or coalesce(busy.running, 0) < ?)
order by coalesce(busy.running, 0), coalesce(s.last_started_at, 0), first.subject limit 1`

// Claim takes the invocation whose turn it is, for leaseFor, or gives nil when there is none. Subjects take turns: the
// one with the fewest running goes first, then the one that started something longest ago; a subject with
// maxRunningPerSubject running (0: no limit) is passed over. Within a subject priority decides, then age.
func (s *Store) Claim(ctx context.Context, owner string, leaseFor time.Duration, maxRunningPerSubject int) (*Lease, error) {
	for {
		l, again, err := s.claim(ctx, owner, leaseFor, maxRunningPerSubject)
		if err != nil {
			return nil, failed(err, "claim an invocation")
		}
		if l != nil {
			s.db.told(Notice{NoticeState, l.Invocation.ID})
		}
		if !again {
			return l, nil
		}
	}
}

// claim is one attempt. It is to be repeated when the invocation whose turn it was has been cancelled meanwhile.
func (s *Store) claim(ctx context.Context, owner string, leaseFor time.Duration, most int) (l *Lease, again bool, err error) {
	err = s.db.inTransaction(ctx, func(tx transaction) error {
		var id, subject string
		if err := tx.run(ctx, s.db.lock(lockClaim, "", false),
			ask(func(r row) error { return r.Scan(&id, &subject) }, turn, most <= 0, most)); err != nil || id == "" {
			return err
		}
		again = true
		taken := &Lease{Owner: owner}
		err := tx.run(ctx,
			ask(func(r row) error {
				again = false
				return scan(r, &taken.Invocation, true, &taken.token, &taken.Sealed, &taken.NextSeq, &taken.Again)
			}, `update ib_invocation set state = 'in_progress', token = token + 1, lease_owner = ?, lease_until = $now + ?, started_at = $now, queue_until = 0
 where id = ? and state = 'pending' returning `+columns+", token, sealed, next_seq, again", owner, leaseFor.Milliseconds(), id),
			do(`insert into ib_subject (subject, last_started_at) values (?, $now)
 on conflict (subject) do update set last_started_at = excluded.last_started_at`, subject),
			s.db.tell(Notice{NoticeState, id}))
		if err != nil || again {
			return err
		}
		taken.LogBytes, taken.LogCut = taken.Invocation.LogBytes, taken.Invocation.LogCut
		l = taken
		return deliver(ctx, tx, l.Invocation)
	})
	if err != nil {
		return nil, false, err
	}
	return l, again, nil
}

// fence is what is true while a lease holds; its parameters are fenceArgs.
const fence = "id = ? and token = ? and lease_owner = ? and state = 'in_progress'"

func (l *Lease) fenceArgs() []any { return []any{l.Invocation.ID, l.token, l.Owner} }

func (l *Lease) lost() error {
	return about(fault.Unavailable, ErrLeaseLost, "invocation %s, attempt %d", l.Invocation.ID, l.Invocation.Attempt)
}

// Renew makes a lease last for leaseFor from now, and tells whether somebody wants the invocation cancelled. Error: ErrLeaseLost.
func (s *Store) Renew(ctx context.Context, l *Lease, leaseFor time.Duration) (cancel bool, err error) {
	held := false
	err = s.db.run(ctx, ask(func(r row) error { held = true; return r.Scan(&cancel) },
		"update ib_invocation set lease_until = $now + ? where "+fence+" returning cancel_requested", append([]any{leaseFor.Milliseconds()}, l.fenceArgs()...)...))
	if err == nil && !held {
		err = l.lost()
	}
	return cancel, failed(err, "renew a lease")
}

// Finish ends an invocation, and removes the sealed document. Error: ErrLeaseLost.
func (s *Store) Finish(ctx context.Context, l *Lease, o Outcome) error {
	if !o.State.Ended() {
		return fault.New(fault.Internal, "finish invocation %s: %q is not a final state", l.Invocation.ID, o.State)
	}
	err := s.release(ctx, l, `state = ?, reason = ?, response = ?, failure = ?, result = ?, ended_at = $now, sealed = null`,
		[]any{string(o.State), string(o.Reason), storable(o.Response), storable(string(o.Failure)), storable(string(o.Result))}, nil)
	return failed(err, "finish an invocation")
}

// HandBack puts an invocation back into the queue; one that is to be cancelled ends as cancelled instead. Error: ErrLeaseLost.
func (s *Store) HandBack(ctx context.Context, l *Lease, h HandBack) error {
	counted := 0
	if h.CountsAsAttempt {
		counted = 1
	}
	err := s.release(ctx, l, `state = case when cancel_requested then 'cancelled' else 'pending' end,
 reason = case when cancel_requested then 'cancelled' else reason end,
 response = case when cancel_requested then ? else response end,
 failure = case when cancel_requested then ? else failure end,
 ended_at = case when cancel_requested then $now else 0 end,
 sealed = case when cancel_requested then null else sealed end,
 attempt = case when cancel_requested then attempt else attempt + ? end,
 started_at = case when cancel_requested then started_at else 0 end,
 not_before = $now + ?, again = ?`,
		[]any{cancelledResponse, failureOf(fault.Cancelled, cancelledResponse), counted, max(0, h.Delay.Milliseconds()), storable(h.Reason)},
		&river.InsertOpts{ScheduledAt: time.Now().Add(h.Delay)})
	return failed(err, "hand an invocation back")
}

// release gives a lease up, and tells who wants to know: the webhook when it has ended, a worker when it waits again.
func (s *Store) release(ctx context.Context, l *Lease, set string, args []any, ticket *river.InsertOpts) error {
	var after Invocation
	notice := Notice{NoticeState, l.Invocation.ID}
	err := s.db.inTransaction(ctx, func(tx transaction) error {
		err := tx.run(ctx, ask(func(r row) error { return scan(r, &after, false) },
			"update ib_invocation set "+set+", lease_owner = '', lease_until = 0 where "+fence+" returning "+summaryColumns, append(args, l.fenceArgs()...)...),
			s.db.tell(notice))
		switch {
		case err != nil:
			return err
		case after.ID == "":
			return l.lost()
		case after.State == StatePending:
			return tx.insertJobs(ctx, river.InsertManyParams{Args: Ticket{}, InsertOpts: ticket})
		}
		return deliver(ctx, tx, after)
	})
	if err == nil {
		s.db.told(notice)
	}
	return err
}
