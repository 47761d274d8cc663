package queue

import (
	"context"
	"encoding/json"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// Observer hears what a worker does, for metrics and traces. Its methods are called by several goroutines at once, must not block,
// and must keep nothing that they are given beyond the call.
type Observer interface {
	// Claimed is called when an attempt begins. waited is the time since the invocation could first have been claimed: since its
	// submission. The context that it gives, made from ctx, is what Event and Ended get.
	Claimed(ctx context.Context, inv store.Invocation, waited time.Duration) context.Context
	// Event is called for each step and note of the plugin, in their order and without secrets. Output is not told.
	Event(ctx context.Context, e event.Event)
	// Ended is called once for each Claimed, when the attempt is over.
	Ended(ctx context.Context, inv store.Invocation, end Ending)
	// Delivered is called for each try to deliver a webhook; err is nil when it was taken.
	Delivered(ctx context.Context, err error)
	// Reaped is called when this worker has taken work from others that are gone.
	Reaped(ctx context.Context, found store.ReapResult)
}

// How tells in which way an attempt ended.
type How string

// The ways. The first three are the invocation's end.
const (
	Succeeded  How = "success"
	Failed     How = "failed"
	Cancelled  How = "cancelled"
	HandedBack How = "handed_back" // the invocation waits again
	Lost       How = "lost"        // the lease was lost: somebody else decides about the invocation
)

// Ending is how an attempt ended.
type Ending struct {
	How    How
	Reason store.Reason    // of Failed and Cancelled
	Took   time.Duration   // since Claimed
	Result json.RawMessage // result.Result, with the times of its phases; may be nil
	Err    error           // masked; nil on success
}

// nobody is an observer that does not care.
type nobody struct{}

func (nobody) Claimed(ctx context.Context, _ store.Invocation, _ time.Duration) context.Context {
	return ctx
}
func (nobody) Event(context.Context, event.Event)              {}
func (nobody) Ended(context.Context, store.Invocation, Ending) {}
func (nobody) Delivered(context.Context, error)                {}
func (nobody) Reaped(context.Context, store.ReapResult)        {}
