package queue

import (
	"context"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// Journal is a journal that a test drives without a worker.
type Journal struct{ *journal }

// NewJournal makes one for a document, and has it write.
func NewJournal(ctx context.Context, lease *store.Lease, limit int64, document []byte,
	write func(context.Context, []store.LogEntry) error) (*Journal, error) {
	m, err := maskOf(document)
	if err != nil {
		return nil, err
	}
	j := newJournal(lease, limit, m, time.Now, write)
	go j.run(ctx, func() {}, func(error) {})
	return &Journal{j}, nil
}

// Emit is emit of the masked event.
func (j *Journal) Emit(e event.Event) { j.emit(j.mask.event(e)) }

// Close is close.
func (j *Journal) Close() { j.close() }

// Failure is the name of the step that broke the build and its last lines, "" if none did.
func (j *Journal) Failure() (step string, lastLines []string) {
	if f := j.failure(); f != nil {
		return f.name, f.tail
	}
	return "", nil
}

// RowSize and WaitingSize are bounds of a journal.
const (
	RowSize     = rowSize
	WaitingSize = waitingSize
)

// RetryDelivery is the schedule of webhooks.
var RetryDelivery = retryDelivery

// Why a build's context ends.
var (
	ErrLost      = errLost
	ErrCancelled = errCancelled
)

// Keep keeps a lease until ctx ends: building ends when the build has to stop, writing when nothing may be written any more.
func Keep(ctx context.Context, renew func() (bool, error), lease, beat time.Duration, file string) (building, writing context.Context, ask func(), err error) {
	writing, forget := context.WithCancel(ctx)
	building, stop := context.WithCancelCause(writing)
	k := &keeper{store: renewFunc(renew), lease: &store.Lease{}, length: lease, beat: beat, now: time.Now, stop: stop, forget: forget}
	keep(ctx, k, time.Now())
	return building, writing, k.ask, k.share(file)
}

type renewFunc func() (bool, error)

func (f renewFunc) Renew(context.Context, *store.Lease, time.Duration) (bool, error) { return f() }
