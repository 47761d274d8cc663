package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin/internal/pluginpb"
)

// idSource numbers a client's operations.
type idSource struct{ last atomic.Uint64 }

func (s *idSource) next() uint64 { return s.last.Add(1) }

// ErrKilled is in the chain of the error of a plugin that a signal ended: the same request may succeed with another process.
var ErrKilled = errors.New("a signal ended the plugin")

// errClosed is why a call's context ends when the client is closed.
var errClosed = errors.New("the plugin was closed")

// begin makes a call known to Close. The context it gives ends with ctx, or when the client is closed.
func (c *Client) begin(ctx context.Context, doing string) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.Err() != nil {
		return nil, nil, fault.New(Cancelled, "%s: %w", doing, errClosed)
	}
	if ctx.Err() != nil {
		return nil, nil, cancelled(ctx, doing)
	}
	c.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.closing, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		c.calls.Done()
	}, nil
}

// Describe implements Plugin.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	const doing = "describing itself"
	ctx, end, err := c.begin(ctx, doing)
	if err != nil {
		return Description{}, err
	}
	defer end()
	out, err := c.rpc.Describe(ctx, &pluginpb.DescribeRequest{})
	if err != nil {
		return Description{}, c.broken(ctx, doing, err)
	}
	if out.GetError() != nil {
		return Description{}, errorFrom(out.GetError())
	}
	return descriptionFrom(out.GetDescription()), nil
}

// Plan implements Plugin.
func (c *Client) Plan(ctx context.Context, req Request) (json.RawMessage, error) {
	doing := "planning " + req.Operation
	ctx, end, err := c.begin(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer end()
	out, err := c.rpc.Plan(ctx, &pluginpb.PlanRequest{Request: requestTo(req)})
	if err != nil {
		return nil, c.broken(ctx, doing, err)
	}
	if out.GetError() != nil {
		return raw(out.GetPlan()), errorFrom(out.GetError())
	}
	return raw(out.GetPlan()), nil
}

// Execute implements Plugin. emit is called by one goroutine, in the order in which the plugin sent.
//
// When ctx ends, the plugin is told to cancel and Execute goes on until it has cleaned up: its events
// still come, and its result, if it has one. If it takes longer than Options.Grace, the plugin is
// killed. The error is then of kind Cancelled, except if the operation had come to its end before.
// If the plugin dies, the error is of kind Internal and ends with the plugin's last words.
func (c *Client) Execute(ctx context.Context, req Request, emit Sink) (json.RawMessage, error) {
	doing := "executing " + req.Operation
	ctx, end, err := c.begin(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer end()

	// The stream outlives ctx, for the sake of the operation's last events.
	streamCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	id := c.nextID.next()
	stream, err := c.rpc.Execute(streamCtx, &pluginpb.ExecuteRequest{Id: id, Request: requestTo(req)})
	if err != nil {
		return nil, c.broken(ctx, doing, err)
	}
	over := make(chan struct{})
	defer close(over)
	stop := context.AfterFunc(ctx, func() { c.cancel(streamCtx, stream, id, over) })
	defer stop()

	outcome, err := receive(stream, emit)
	if err != nil {
		return nil, c.broken(ctx, doing, err)
	}
	result := raw(outcome.GetResult())
	failure := errorFrom(outcome.GetError())
	if failure == nil {
		return result, nil
	}
	if ctx.Err() != nil { // then the failure is whatever being stopped looked like to the plugin
		stopped := cancelled(ctx, doing)
		failure.Kind, failure.Err = stopped.Kind, stopped.Err
		failure.Message = stopped.Message + ": " + failure.Message
	}
	return result, failure
}

// cancel tells the plugin to cancel an operation, and kills the plugin if the operation is not over soon.
func (c *Client) cancel(ctx context.Context, stream grpc.ServerStreamingClient[pluginpb.Event], id uint64, over <-chan struct{}) {
	late := time.NewTimer(c.grace)
	defer late.Stop()
	go func() {
		if _, err := stream.Header(); err == nil { // from then on the plugin knows the operation
			_, _ = c.rpc.Cancel(ctx, &pluginpb.CancelRequest{Id: id})
		}
	}()
	select {
	case <-over:
	case <-late.C:
		c.proc.end()
	}
}

// receive passes on events until the stream's end, and gives the outcome.
func receive(stream grpc.ServerStreamingClient[pluginpb.Event], emit Sink) (*pluginpb.Outcome, error) {
	var outcome *pluginpb.Outcome
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && outcome == nil:
			return nil, errors.New("the operation ended without an outcome")
		case errors.Is(err, io.EOF):
			return outcome, nil
		case err != nil && outcome != nil && status.Code(err) == codes.Unavailable:
			return outcome, nil // the plugin ended after it had said everything
		case err != nil:
			return nil, err
		case outcome != nil:
			return nil, errors.New("the operation went on after its outcome")
		}
		if o := m.GetOutcome(); o != nil {
			outcome = o
		} else if e, ok := eventFrom(m); ok {
			emit(e)
		}
	}
}

// broken makes an error of a call that the plugin did not answer.
func (c *Client) broken(ctx context.Context, doing string, err error) error {
	code := status.Code(err)
	if ctx.Err() != nil {
		f := cancelled(ctx, doing)
		if code == codes.Unavailable {
			f.Message += "; the plugin did not clean up in time and was killed"
		}
		return f
	}
	switch code {
	case codes.Unavailable, codes.Internal, codes.Canceled:
		if c.proc.exitedWithin(exitTime) {
			return c.ended("while " + doing)
		}
		return fault.New(Internal, "plugin %s: connection lost while %s: %s", c.name, doing, status.Convert(err).Message())
	case codes.Unimplemented:
		return fault.New(Internal, "plugin %s: it cannot answer while %s", c.name, doing).
			WithHint("install a plugin and an image-builder of the same release")
	default:
		return fault.New(Internal, "plugin %s: %s while %s", c.name, status.Convert(err).Message(), doing)
	}
}

// ended is the one error of a plugin that has died.
func (c *Client) ended(when string) *Error {
	how := "in an unknown way"
	if s := c.proc.state; s != nil {
		how = s.String()
	}
	words := c.words.text()
	if words != "" {
		words = "; its last words:" + words
	}
	f := fault.New(Internal, "plugin %s ended unexpectedly (%s) %s%s", c.name, how, when, words)
	if s := c.proc.state; s != nil {
		ws, ok := s.Sys().(syscall.WaitStatus)
		if ok && ws.Signaled() {
			f.Err = ErrKilled
		}
		if ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
			return f.WithHint("somebody killed it, or the system ran out of memory (dmesg tells)")
		}
	}
	return f.WithHint("set %s=FILE to keep all that plugins write", DebugEnv)
}

// cancelled is the error of something whose context has ended.
func cancelled(ctx context.Context, doing string) *Error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return fault.New(Unavailable, "%s ran out of time: %w", doing, cause)
	}
	if errors.Is(cause, context.Canceled) {
		return &Error{Kind: Cancelled, Message: doing + " was cancelled", Err: cause}
	}
	return fault.New(Cancelled, "%s was cancelled: %w", doing, cause)
}
