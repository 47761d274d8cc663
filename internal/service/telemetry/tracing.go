package telemetry

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// tracerName is the instrumentation scope of all our spans.
const tracerName = "imagebuilder"

// flushWithin bounds how long the last spans are waited for when the service ends.
const flushWithin = 3 * time.Second

// Tracing makes spans and sends them by OTLP over HTTP.
type Tracing struct {
	Provider trace.TracerProvider
	On       bool // spans are sent somewhere
	flush    func(context.Context) error
}

// NewTracing makes spans where the environment names a collector (OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT; the exporter reads the others of OpenTelemetry itself), and none otherwise.
func NewTracing(ctx context.Context, version string, lookupEnv func(string) (string, bool)) (*Tracing, error) {
	configured := false
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		if value, _ := lookupEnv(name); value != "" {
			configured = true
		}
	}
	if !configured {
		return &Tracing{Provider: noop.NewTracerProvider(), flush: func(context.Context) error { return nil }}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("export traces: %w", err)
	}
	service := resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName("image-builder-api"), semconv.ServiceVersion(version))
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(service))
	return &Tracing{Provider: provider, On: true, flush: provider.Shutdown}, nil
}

// Close sends what has not been sent.
func (t *Tracing) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
	defer cancel()
	return t.flush(ctx)
}

// Tracer makes the service's own spans.
func (t *Tracing) Tracer() trace.Tracer { return t.Provider.Tracer(tracerName) }

// withTraceParent makes the spans of ctx children of it.
func withTraceParent(ctx context.Context, parent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
}
