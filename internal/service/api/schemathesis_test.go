package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// schemathesis reads the document and tries what it can think of: no answer may be a defect, or one that the document does not have.
func TestSchemathesis(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	program := filepath.Join(root, ".work", "schemathesis", "bin", "schemathesis")
	require.FileExists(t, program, "scripts/schemathesis.sh gets it")

	provider := testbed.OpenIDProvider(t)
	var mu sync.Mutex
	answers := map[string]map[int]int{} // by operation and status
	var schemes schemesSeen
	s := start(t, func(c *setup) {
		who, err := auth.New(t.Context(), auth.Config{APIKey: "schemathesis-schemathesis", JWT: &auth.JWT{Issuer: provider.Issuer, Audience: "urn:image-builder"}})
		require.NoError(t, err)
		c.api.Auth = &schemes
		schemes.Authenticator = who
		c.api.Limits = api.Limits{PerCaller: -1, PerHost: -1, Stream: 500 * time.Millisecond}
		c.api.Observe = func(method, route string, status int, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			key := method + " " + route
			if answers[key] == nil {
				answers[key] = map[int]int{}
			}
			answers[key][status]++
		}
		c.builds.Limits.Queued = -1
		c.builds.Planner = func(context.Context, []byte) (json.RawMessage, error) {
			return json.RawMessage(`{"source":{},"images":[],"engine":"managed"}`), nil
		}
	})
	work, stop := context.WithCancel(t.Context())
	var worker sync.WaitGroup
	worker.Go(func() { s.work(work) })
	defer worker.Wait()
	defer stop()

	// What it says is worth as much as what it reached.
	unreached := func() (operations []string) {
		mu.Lock()
		defer mu.Unlock()
		for operation, status := range map[string]int{
			"POST /build/{$}": 202, "GET /status/{invocation_id}": 200, "POST /v1/invocations": 202, "GET /v1/invocations": 200,
			"GET /v1/invocations/{invocation_id}": 200, "DELETE /v1/invocations/{invocation_id}": 204, "POST /v1/invocations/{invocation_id}/cancel": 202,
			"POST /v1/invocations/{invocation_id}/retry": 202, "GET /v1/invocations/{invocation_id}/log": 200, "POST /v1/plan": 200, "GET /v1/whoami": 200,
		} {
			if answers[operation][status] == 0 {
				operations = append(operations, fmt.Sprintf("%s never was a %d: %v", operation, status, answers[operation]))
			}
		}
		return operations
	}

	// Bounded by what is tried, not by time: on a busy machine too little of it would come, and warn. Half a minute where nothing else runs.
	// What it tries depends on answers, and so on when builds end: once in a while it deletes none that has, and tries something else.
	folder := t.TempDir() // it keeps files where it runs
	require.NoError(t, os.CopyFS(folder, os.DirFS("testdata")))
	for seed := 1; ; seed++ {
		command := exec.Command(program, "--config-file", "schemathesis.toml", "run", s.url+"/openapi.json",
			"--max-examples", "12", "--generation-database", "none", "--seed", strconv.Itoa(seed))
		command.Dir = folder
		command.Env = append(os.Environ(), "API_KEY=schemathesis-schemathesis", "TOKEN="+provider.Token(t, "ci", "urn:image-builder", "builds:submit"))
		output, err := command.CombinedOutput()
		require.NoError(t, err, "%s", output)
		operations := unreached()
		if len(operations) == 0 {
			break
		}
		require.Less(t, seed, 4, "%s", strings.Join(operations, "\n"))
	}
	require.NotZero(t, schemes.keys.Load())
	require.NotZero(t, schemes.tokens.Load())
}

// schemesSeen counts who was let in by what.
type schemesSeen struct {
	api.Authenticator
	keys, tokens atomic.Int64
}

func (s *schemesSeen) Authenticate(r *http.Request) (auth.Principal, error) {
	p, err := s.Authenticator.Authenticate(r)
	switch {
	case err != nil:
	case r.Header.Get("X-API-Key") != "":
		s.keys.Add(1)
	default:
		s.tokens.Add(1)
	}
	return p, err
}

// work ends builds, one after the other, well and badly in turns.
func (s *site) work(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		lease, err := s.store.Claim(ctx, "test", time.Minute, 0)
		if err != nil || lease == nil {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond): // as a worker that looks from time to time
			}
			continue
		}
		entries := []store.LogEntry{
			{Kind: store.LogStep, Step: "1", Data: []byte(`{"id":"1","name":"[1/2] RUN make","started":"2026-01-01T00:00:00Z"}`)},
			{Kind: store.LogOut, Step: "1", Data: []byte("hello\n")},
		}
		for i := range entries {
			entries[i].Seq, entries[i].Attempt, entries[i].At = lease.NextSeq+int64(i), lease.Invocation.Attempt, time.Now()
		}
		outcome := store.Outcome{State: store.StateSuccess}
		if n%2 == 1 {
			outcome = store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: fmt.Sprintf("RUN make: exit code %d", n)}
		}
		if err = s.store.AppendLog(ctx, lease, entries); err == nil {
			err = s.store.Finish(ctx, lease, outcome)
		}
		if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "lease") {
			s.t.Error(err)
		}
	}
}
