package store

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"imagebuilder/internal/fault"
)

// Submission is what Submit writes down.
type Submission struct {
	ID              string // UUID version 7
	Subject, Group  string
	Priority        int
	Timeout         time.Duration
	QueueTTL        time.Duration
	BuildParams     json.RawMessage // masked
	Sealed          []byte          // the whole document, by package seal
	HasSecrets      bool
	Labels          map[string]string
	Images          []string // registry/repository:tag
	RetryOf         string
	TraceParent     string
	Webhook         *Webhook
	IdempotencyKey  string // unique for each subject; "": none
	IdempotencyHash []byte // of the request that the key stands for
	MaxQueued       int    // how many of the subject may wait, this one included; 0: no limit
}

// queuedMargin is how near to MaxQueued submissions of one subject begin to wait for each other. Below it they run side
// by side, and as many as run at once, at most, are counted too few: PostgreSQL takes 100 connections by default.
const queuedMargin = 100

// Counting thousands with each submission would cost more than the submission. Where the limit is above manyQueued and
// not half of it is used, a count may be countedFor old: nobody submits the other half within that time.
const (
	manyQueued = 1000
	countedFor = time.Second
	// countedSubjects bounds what is remembered.
	countedSubjects = 10_000
)

// counted is how many of a subject waited at a time, and those that this process has added since.
type counted struct {
	n  atomic.Int64
	at time.Time
}

// fewWait tells whether a subject is known to be far from a limit.
func (s *Store) fewWait(subject string, most int) bool {
	last, ok := s.counts.Get(subject)
	return ok && most > manyQueued && last.n.Load() < int64(most/2) && time.Since(last.at) < countedFor
}

var (
	errNearLimit = errors.New("near the limit: count alone")
	errKeyTaken  = errors.New("the idempotency key has been written meanwhile")
)

// Submit writes an invocation and the job that wakes a worker, in one transaction. A key that was used for the same
// request gives the invocation of then, and false. Errors: ErrIdempotencyConflict, ErrTooManyQueued.
func (s *Store) Submit(ctx context.Context, sub Submission) (inv Invocation, created bool, err error) {
	if !wellFormed(sub.ID) {
		return Invocation{}, false, fault.New(fault.Internal, "submit an invocation: %q is not a UUID", sub.ID)
	}
	alone := sub.MaxQueued <= queuedMargin
	for {
		old, inv, err := s.submit(ctx, &sub, alone)
		switch {
		case errors.Is(err, errNearLimit):
			alone = true
		case errors.Is(err, errKeyTaken): // by one that has committed since: it is found now
		case err != nil:
			return Invocation{}, false, failed(err, "submit an invocation")
		case old != "":
			inv, err := s.Get(ctx, old)
			return inv, false, err
		default:
			if last, ok := s.counts.Get(sub.Subject); ok {
				last.n.Add(1)
			}
			return inv, true, nil
		}
	}
}

// submit is one attempt: it gives the new invocation, or the id of the one that the key stands for.
func (s *Store) submit(ctx context.Context, sub *Submission, alone bool) (old string, inv Invocation, err error) {
	inv = sub.invocation()
	insert, err := sub.statements(&inv)
	if err != nil {
		return "", inv, err
	}
	jobs := []river.InsertManyParams{{Args: Ticket{}}}
	if sub.Webhook != nil {
		jobs = append(jobs, river.InsertManyParams{Args: Delivery{InvocationID: sub.ID, State: StatePending, Attempt: 1, At: time.Now().UTC()}})
	}
	err = s.db.inTransaction(ctx, func(tx transaction) error {
		if old, err = s.admit(ctx, tx, sub, alone); err != nil || old != "" {
			return err
		}
		if err := tx.run(ctx, insert...); err != nil {
			return err
		}
		if inv.SubmittedAt.IsZero() {
			return errKeyTaken
		}
		return tx.insertJobs(ctx, jobs...)
	})
	return old, inv, err
}

// admit looks for the key, and counts what waits.
func (s *Store) admit(ctx context.Context, tx transaction, sub *Submission, alone bool) (old string, err error) {
	var statements []*statement
	var hash []byte
	if sub.IdempotencyKey != "" {
		statements = append(statements, ask(func(r row) error { return r.Scan(&old, &hash) },
			"select id, idempotency_hash from ib_invocation where subject = ? and idempotency_key = ? and idempotency_key <> ''", sub.Subject, sub.IdempotencyKey))
	}
	waiting, counts := 0, sub.MaxQueued > 0 && !s.fewWait(sub.Subject, sub.MaxQueued)
	if counts {
		statements = append(statements, s.db.lock(lockQueued, sub.Subject, !alone), ask(func(r row) error { return r.Scan(&waiting) },
			"select count(*) from (select 1 from ib_invocation where subject = ? and state = 'pending' limit ?) as waiting", sub.Subject, sub.MaxQueued))
	}
	if len(statements) == 0 {
		return "", nil
	}
	if err := tx.run(ctx, statements...); err != nil {
		return "", err
	}
	if counts {
		now := &counted{at: time.Now()}
		now.n.Store(int64(waiting))
		s.counts.Add(sub.Subject, now)
	}
	switch {
	case old != "" && subtle.ConstantTimeCompare(hash, sub.IdempotencyHash) != 1:
		return "", about(fault.Invalid, ErrIdempotencyConflict, "idempotency key %q of invocation %s", sub.IdempotencyKey, old)
	case old != "":
		return old, nil
	case counts && !alone && waiting+queuedMargin >= sub.MaxQueued:
		return "", errNearLimit
	case counts && waiting >= sub.MaxQueued:
		return "", about(fault.Unavailable, ErrTooManyQueued, "%d invocations of %s", waiting, sub.Subject)
	}
	return "", nil
}

// invocation is what is known of it before it is written.
func (sub *Submission) invocation() Invocation {
	var images []string // in the document's order, by which the result and the page have them
	for _, ref := range sub.Images {
		if !slices.Contains(images, ref) {
			images = append(images, ref)
		}
	}
	return Invocation{
		ID: sub.ID, State: StatePending, Subject: sub.Subject, Group: sub.Group, Attempt: 1, Priority: sub.Priority,
		Timeout: sub.Timeout, QueueTTL: sub.QueueTTL, BuildParams: sub.BuildParams, Labels: sub.Labels, Images: images,
		RetryOf: sub.RetryOf, TraceParent: sub.TraceParent, Webhook: sub.Webhook, HasSecrets: sub.HasSecrets,
		Sealed: sub.Sealed != nil, IdempotencyKey: sub.IdempotencyKey,
	}
}

// statements write an invocation. SubmittedAt stays zero when its key is there already.
func (sub *Submission) statements(inv *Invocation) ([]*statement, error) {
	labels, err := written(sub.Labels, len(sub.Labels) == 0)
	if err != nil {
		return nil, err
	}
	images, err := written(inv.Images, len(inv.Images) == 0)
	if err != nil {
		return nil, err
	}
	url, secret := "", []byte(nil)
	if sub.Webhook != nil {
		url, secret = sub.Webhook.URL, sub.Webhook.Secret
	}
	ttl := sub.QueueTTL.Milliseconds()
	statements := []*statement{ask(func(r row) error {
		var submitted int64
		err := r.Scan(&submitted)
		inv.SubmittedAt = timeOf(submitted)
		return err
	}, `insert into ib_invocation (id, state, subject, group_name, priority, timeout_ms, queue_ttl_ms, submitted_at, queue_until,
 build_params, labels, images, retry_of, trace_parent, webhook_url, webhook_secret, has_secrets, sealed, idempotency_key, idempotency_hash)
 values (?, 'pending', ?, ?, ?, ?, ?, $now, case when ? then 0 else $now + ? end, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
 on conflict (subject, idempotency_key) where idempotency_key <> '' do nothing returning submitted_at`,
		sub.ID, sub.Subject, sub.Group, sub.Priority, sub.Timeout.Milliseconds(), ttl, ttl == 0, ttl,
		string(sub.BuildParams), labels, images, sub.RetryOf, sub.TraceParent, url, secret, sub.HasSecrets, sub.Sealed, sub.IdempotencyKey, sub.IdempotencyHash)}
	for _, ref := range inv.Images {
		statements = append(statements, do("insert into ib_invocation_image (invocation_id, ref) values (?, ?)", sub.ID, ref))
	}
	for name, value := range sub.Labels {
		statements = append(statements, do("insert into ib_label (invocation_id, name, value) values (?, ?, ?)", sub.ID, name, value))
	}
	return statements, nil
}
