package service_test

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"imagebuilder/internal/testbed"
)

// collected is what a collector of traces has been sent.
type collected struct {
	mu    sync.Mutex
	spans []*trace.Span
}

func (c *collected) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(data, &request) != nil {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
}

// find gives the first span of a kind whose name has some words in it.
func (c *collected) find(kind trace.Span_SpanKind, words string) *trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if span.GetKind() == kind && strings.Contains(span.GetName(), words) {
			return span
		}
	}
	return nil
}

// TestTraces follows one trace from a caller's span over the request and the build to a step of BuildKit.
func TestTraces(t *testing.T) { // not parallel: the exporter reads the process's own environment
	spans := &collected{}
	server := httptest.NewServer(spans)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	site := testbed.NewSite(t, testbed.RegistryOptions{})
	c := config(t)
	c.LookupEnv = func(name string) (string, bool) { return server.URL, name == "OTEL_EXPORTER_OTLP_ENDPOINT" }
	r := run(t, c)
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	request := r.request(t, http.MethodPost, "/build/", testKey, document(t, site, "RUN echo traced\n", "traced"))
	request.Header.Set("Traceparent", "00-"+id+"-"+parent+"-01")
	invocation := accepted(t, request)
	require.Equal(t, "success", r.await(t, testKey, invocation)["state"])
	require.NoError(t, r.stop()) // sends what has not been sent

	asked, built := spans.find(trace.Span_SPAN_KIND_SERVER, "POST"), spans.find(trace.Span_SPAN_KIND_CONSUMER, "build")
	step := spans.find(trace.Span_SPAN_KIND_INTERNAL, "RUN echo traced")
	for _, span := range []*trace.Span{asked, built, step} {
		require.NotNil(t, span)
		require.Equal(t, id, hex.EncodeToString(span.GetTraceId()), span.GetName())
	}
	require.Equal(t, parent, hex.EncodeToString(asked.GetParentSpanId()))
	require.Equal(t, asked.GetSpanId(), built.GetParentSpanId())
	require.Equal(t, built.GetSpanId(), step.GetParentSpanId())
	require.GreaterOrEqual(t, step.GetStartTimeUnixNano(), built.GetStartTimeUnixNano())
	for line := range strings.Lines(r.logs.String()) {
		if strings.Contains(line, `"msg":"build begins"`) {
			require.Contains(t, line, `"invocation_id":"`+invocation+`"`)
			require.Contains(t, line, `"trace_id":"`+id+`"`)
		}
	}
}
