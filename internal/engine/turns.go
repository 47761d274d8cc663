package engine

import (
	"context"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"
)

// Turns have a daemon pack a few images at once, the others after them. Of four that share two processors, all are packed
// late; in turns, two are packed in half of that time, and what is built on those runs its steps while the others are packed.
type Turns struct{ taken chan struct{} }

// NewTurns has n images packed at once, as many as the daemon has processors. It counts what one process asks of that daemon.
func NewTurns(n int) *Turns { return &Turns{make(chan struct{}, n)} }

// take waits for a turn: first come, first served. done ends it.
func (t *Turns) take(ctx context.Context) (done func(), err error) {
	select {
	case t.taken <- struct{}{}:
		return func() { <-t.taken }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inTurn runs the steps of a result, and then holds it back from being exported until it is its turn. The recorder sees when it
// is packed: to be pushed takes no processor.
func (t *Turns) inTurn(ctx context.Context, result *gateway.Result, record *recorder) error {
	if t == nil {
		return nil
	}
	steps, stepping := errgroup.WithContext(ctx)
	_ = result.EachRef(func(ref gateway.Reference) error {
		steps.Go(func() error { return ref.Evaluate(stepping) })
		return nil
	})
	if err := steps.Wait(); err != nil {
		return err
	}
	done, err := t.take(ctx)
	if err != nil {
		return err
	}
	record.packing(done)
	return nil
}
