package store

import (
	"context"
	"time"

	"github.com/riverqueue/river"
)

// The queues of River.
const (
	QueueBuilds   = "builds"
	QueueWebhooks = "webhooks"
)

// Ticket is a job that wakes a worker: something may be claimable. It names no invocation.
type Ticket struct{}

// Kind is the job's name in the database.
func (Ticket) Kind() string { return "build" }

// Delivery is a job that tells an invocation's webhook of a state: when it was submitted, each time that it starts, and
// when it has ended.
type Delivery struct {
	InvocationID string    `json:"invocation_id"`
	State        State     `json:"state"`
	Attempt      int       `json:"attempt"`
	At           time.Time `json:"at"`
}

// Kind is the job's name in the database.
func (Delivery) Kind() string { return "webhook" }

// InsertOpts says where it waits. It is not repeated: the reaper puts another where one is missing.
func (Ticket) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueBuilds, MaxAttempts: 1}
}

// InsertOpts says where it waits and how often it is tried: for about seven hours with River's pauses, which grow by the fourth power.
func (Delivery) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueWebhooks, MaxAttempts: 10}
}

// River is a client of River that works jobs.
type River interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error          // waits for jobs that run
	StopAndCancel(ctx context.Context) error // cancels them
	Stopped() <-chan struct{}
}

// ticketsKept is how long River keeps jobs that were done: they are as many as builds, and tell nothing any more.
const ticketsKept = 10 * time.Minute

// NewRiver makes a client of River on the store's database. Jobs that are done are removed after ten minutes unless cfg says otherwise.
func (s *Store) NewRiver(cfg *river.Config) (River, error) {
	own := *cfg
	if own.CompletedJobRetentionPeriod == 0 {
		own.CompletedJobRetentionPeriod = ticketsKept
	}
	r, err := s.db.newRiver(&own)
	return r, failed(err, "make a client of the queue")
}

// PutTicket wakes a worker, as by one that leaves while invocations may wait.
func (s *Store) PutTicket(ctx context.Context) error {
	err := s.db.inTransaction(ctx, func(tx transaction) error {
		return tx.insertJobs(ctx, river.InsertManyParams{Args: Ticket{}})
	})
	return failed(err, "wake a worker")
}

// deliver tells the webhook of an invocation, if it has one, of its state.
func deliver(ctx context.Context, tx transaction, v Invocation) error {
	if v.Webhook == nil {
		return nil
	}
	at := v.EndedAt
	if at.IsZero() {
		at = v.StartedAt
	}
	return tx.insertJobs(ctx, river.InsertManyParams{Args: Delivery{InvocationID: v.ID, State: v.State, Attempt: v.Attempt, At: at}})
}
