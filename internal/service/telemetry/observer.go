package telemetry

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"imagebuilder/internal/event"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
)

// Builds observes a worker: it counts, and makes a span of each build and of each of its steps, children of the request that
// submitted it. It implements queue.Observer.
type Builds struct {
	Metrics *Metrics
	Tracer  trace.Tracer
}

// steps are the spans of one build's steps that have begun and not ended. BuildKit tells each step when it begins and when it ends.
type steps struct {
	mu   sync.Mutex
	open map[string]trace.Span // by event.Step.ID
}

type stepsKey struct{}

// Claimed implements queue.Observer.
func (b *Builds) Claimed(ctx context.Context, inv store.Invocation, waited time.Duration) context.Context {
	ctx, _ = b.Tracer.Start(withTraceParent(ctx, inv.TraceParent), "build", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("imagebuilder.invocation_id", inv.ID), attribute.Int("imagebuilder.attempt", inv.Attempt)))
	ctx = context.WithValue(ctx, stepsKey{}, &steps{open: map[string]trace.Span{}})
	if inv.Attempt <= 1 {
		b.Metrics.waited.Observe(waited.Seconds())
	}
	b.Metrics.running.Inc()
	return ctx
}

// Event implements queue.Observer.
func (b *Builds) Event(ctx context.Context, e event.Event) {
	if s, ok := ctx.Value(stepsKey{}).(*steps); ok && e.Step != nil {
		s.take(ctx, b.Tracer, e.Step)
	}
}

// take begins the span of a step that has begun, and ends that of one that has ended.
func (s *steps) take(ctx context.Context, tracer trace.Tracer, step *event.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span, begun := s.open[step.ID]
	if !begun {
		if step.Started == nil {
			return
		}
		_, span = tracer.Start(ctx, step.Name, trace.WithTimestamp(*step.Started), trace.WithAttributes(
			attribute.String("imagebuilder.step", step.ID), attribute.String("imagebuilder.image", step.Group)))
		s.open[step.ID] = span
	}
	if step.Completed == nil {
		return
	}
	span.SetAttributes(attribute.Bool("imagebuilder.cached", step.Cached))
	if step.Error != "" {
		span.SetStatus(codes.Error, step.Error)
	}
	span.End(trace.WithTimestamp(*step.Completed))
	delete(s.open, step.ID)
}

// Ended implements queue.Observer.
func (b *Builds) Ended(ctx context.Context, inv store.Invocation, end queue.Ending) {
	if s, ok := ctx.Value(stepsKey{}).(*steps); ok {
		s.mu.Lock()
		for _, span := range s.open { // of a build that was stopped
			span.End()
		}
		clear(s.open)
		s.mu.Unlock()
	}
	b.Metrics.running.Dec()
	span := trace.SpanFromContext(ctx)
	if end.Err != nil {
		span.SetStatus(codes.Error, end.Err.Error())
	}
	span.SetAttributes(attribute.String("imagebuilder.outcome", string(end.How)), attribute.String("imagebuilder.reason", string(end.Reason)))
	span.End()
	switch end.How {
	case queue.Succeeded, queue.Failed, queue.Cancelled:
		b.Metrics.ended.WithLabelValues(string(end.How), string(end.Reason)).Inc()
	case queue.Lost:
		b.Metrics.lost.Inc()
	}
	if end.How == queue.Succeeded {
		b.phases(end)
	}
}

func (b *Builds) phases(end queue.Ending) {
	var r result.Result
	if json.Unmarshal(end.Result, &r) != nil {
		return
	}
	for phase, seconds := range map[string]float64{"fetch": r.Times.Fetch, "build": r.Times.Build, "push": r.Times.Push, "total": r.Times.Total} {
		b.Metrics.phases.WithLabelValues(phase).Observe(seconds)
	}
}

// Delivered implements queue.Observer.
func (b *Builds) Delivered(_ context.Context, err error) {
	outcome := "delivered"
	if err != nil {
		outcome = "refused"
	}
	b.Metrics.webhooks.WithLabelValues(outcome).Inc()
}

// Reaped implements queue.Observer.
func (b *Builds) Reaped(_ context.Context, found store.ReapResult) {
	for what, ids := range map[string][]string{
		"requeued": found.Requeued, "lost": found.Lost, "cancelled": found.Cancelled, "expired": found.Expired,
	} {
		if len(ids) > 0 {
			b.Metrics.reaped.WithLabelValues(what).Add(float64(len(ids)))
		}
	}
}
