package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	bk "github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// The texts are what BuildKit v0.33.1 said in real runs.
func TestClassify(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		kind fault.Kind // "": not known, so the build itself failed
	}{
		{`failed to push localhost:5000/a: server message: insufficient_scope: authorization failed`, fault.Denied},
		{`failed to push localhost:5000/a: failed to authorize: failed to fetch oauth token: unexpected status from GET request to http://x/token: 401 Unauthorized`, fault.Denied},
		{`failed to do request: Head "https://localhost:5000/v2/a/blobs/x": tls: failed to verify certificate: x509: certificate signed by unknown authority`, fault.Invalid},
		{`failed to do request: Head "https://r:5000/v2/": http: server gave HTTP response to HTTPS client`, fault.Invalid},
		{`failed to do request: Head "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused`, fault.Unavailable},
		{`failed to do request: Head "https://x.invalid/v2/": dial tcp: lookup x.invalid on 127.0.0.1:53: no such host`, fault.Unavailable},
		{`unexpected status from POST request to http://localhost:5000/v2/a/blobs/uploads/: 503 Service Unavailable`, fault.Unavailable},
		{`failed to resolve source metadata for docker.io/library/nothing:latest: docker.io/library/nothing:latest: not found`, fault.NotFound},
		{`no match for platform in manifest: not found`, fault.NotFound},
		{`failed to copy: write /x: no space left on device`, fault.Unavailable},
		{`process "/bin/sh -c make" did not complete successfully: exit code: 2`, ""},
		{`process "/bin/sh -c curl https://x # connection refused" did not complete successfully: exit code: 7`, ""},
		{`failed to compute cache key: failed to calculate checksum of ref x::y: "/missing": not found`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			f := classify(Variant{Name: "r/a:1"}, tt.text)
			if tt.kind == "" {
				require.Nil(t, f)
				return
			}
			require.NotNil(t, f)
			require.Equal(t, tt.kind, f.Kind)
			require.Contains(t, f.Message, "r/a:1")
		})
	}
}

func TestPassing(t *testing.T) {
	t.Parallel()
	require.True(t, passing(fmt.Errorf("failed to push x: provided digest did not match uploaded content")))
	require.True(t, passing(fmt.Errorf("failed to push x: unexpected status from PUT request to http://x: 503 Service Unavailable")))
	require.False(t, passing(fmt.Errorf("failed to push x: unexpected status from PUT request to http://x: 401 Unauthorized")))
	require.False(t, passing(fmt.Errorf("process did not complete successfully: exit code: 1")))
}

func TestTail(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		pieces []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"a line", []string{"a\n"}, []string{"a"}},
		{"a line in pieces", []string{"a", "b", "\r\nc"}, []string{"ab", "c"}},
		{"empty lines stay", []string{"a\n\nb\n"}, []string{"a", "", "b"}},
		{"a long line is cut", []string{strings.Repeat("x", tailWidth), "y\nz\n"}, []string{strings.Repeat("x", tailWidth), "z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var last tail
			for _, p := range tt.pieces {
				last.write([]byte(p))
			}
			require.Equal(t, tt.want, last.lines())
		})
	}
	var many tail
	for i := range 1000 {
		many.write([]byte(fmt.Sprintf("%d\n", i)))
	}
	many.write([]byte("open"))
	require.Len(t, many.lines(), tailLines)
	require.Equal(t, "open", many.lines()[tailLines-1])
	require.Equal(t, "981", many.lines()[0])
}

// TestSharedOutputIsToldOnce: two variants that share a step both hear its output from the daemon.
func TestSharedOutputIsToldOnce(t *testing.T) {
	t.Parallel()
	var told []string
	sink := func(e event.Event) {
		if e.Log != nil {
			told = append(told, string(e.Log.Data))
		}
	}
	logs := newLogFilter()
	a, b := newRecorder("a", logs, sink), newRecorder("b", logs, sink)
	at := time.Unix(1, 0)
	for i, text := range []string{"one\n", "one\n", "two\n"} { // the same line at another time is another line
		status := &bk.SolveStatus{Logs: []*bk.VertexLog{{Vertex: "sha256:v", Stream: 1, Data: []byte(text), Timestamp: at.Add(time.Duration(i))}}}
		a.status(status)
		b.status(status)
	}
	require.Equal(t, []string{"one\n", "one\n", "two\n"}, told)
	require.Equal(t, []string{"one", "one", "two"}, b.tails["sha256:v"].lines(), "each variant can still end its own error with them")
}

// TestBrokenStep: of the steps with an error, the one that broke the build is told. Others were cancelled for it, or may fail: a cache
// that is not there yet is no trouble, and any other trouble with a cache is a warning.
func TestBrokenStep(t *testing.T) {
	t.Parallel()
	steps := map[string]string{}
	var notes []string
	r := newRecorder("a", newLogFilter(), func(e event.Event) {
		switch {
		case e.Step != nil:
			steps[e.Step.Name] = e.Step.Error
		case e.Note != nil:
			notes = append(notes, e.Note.Text)
		}
	})
	for second, v := range []bk.Vertex{
		{Name: "importing cache manifest from r/a:cache", Error: "r/a:cache: not found"},
		{Name: "importing cache manifest from r/b:cache", Error: "401 Unauthorized"},
		{Name: "[context busybox] r/busybox", Error: "failed to copy: context canceled: context canceled"},
		{Name: "[1/2] RUN exit 7", Error: "exit code: 7"},
		{Name: "[2/2] RUN sleep 60", Error: "context canceled"},
	} {
		at := time.Unix(int64(second), 0)
		v.Digest, v.Started, v.Completed = digest.FromString(v.Name), &at, &at
		r.status(&bk.SolveStatus{Vertexes: []*bk.Vertex{&v}})
	}
	step, _ := r.failed()
	require.NotNil(t, step)
	require.Equal(t, "[1/2] RUN exit 7", step.Name)
	require.Equal(t, map[string]string{
		"importing cache manifest from r/a:cache": "",
		"importing cache manifest from r/b:cache": "",
		"[context busybox] r/busybox":             "failed to copy: context canceled: context canceled",
		"[1/2] RUN exit 7":                        "exit code: 7",
		"[2/2] RUN sleep 60":                      "context canceled",
	}, steps)
	require.Len(t, notes, 1)
	require.Contains(t, notes[0], "r/b:cache: 401 Unauthorized; the build goes on without it")
}

func TestTimesFollowContent(t *testing.T) {
	t.Parallel()
	require.Equal(t, contentTime([]byte("FROM a\n")), contentTime([]byte("FROM a\n")))
	require.NotEqual(t, contentTime([]byte("FROM a\n")), contentTime([]byte("FROM b\n")))
	require.Positive(t, contentTime(nil))
}
