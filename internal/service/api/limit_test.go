package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/auth"
)

// clock is a time that only the test moves on.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func TestCallerLimit(t *testing.T) {
	t.Parallel()
	var c clock
	s := start(t, func(set *setup) { set.api.Limits.PerCaller, set.api.Now = 2, c.now })
	for range 4 { // twice what a second gives may be saved up
		s.want(200, "alice", "GET", "/v1/whoami", "")
	}
	answer := s.want(429, "alice", "GET", "/v1/whoami", "")
	require.Equal(t, "1", answer.Header.Get("Retry-After"))
	s.want(200, "bob", "GET", "/v1/whoami", "")
	c.at.Add(int64(time.Second))
	s.want(200, "alice", "GET", "/v1/whoami", "")
	s.want(200, "alice", "GET", "/v1/whoami", "")
	s.want(429, "alice", "GET", "/v1/whoami", "")
}

func TestHostLimit(t *testing.T) {
	t.Parallel()
	var c clock
	s := start(t, func(set *setup) {
		set.api.Limits.PerHost, set.api.Now = 1, c.now
		set.api.Limits.Proxies = prefixes(t, "127.0.0.0/8", "10.0.0.0/8")
	})
	attempt := func(status int, key, from string) {
		s.want(status, "", "GET", "/v1/whoami", "", "X-API-Key", key, "X-Forwarded-For", from)
	}
	attempt(200, s.keys["alice"], "192.0.2.1")
	attempt(401, "wrong-wrong-wrong-wrong", "192.0.2.1")
	attempt(401, "wrong-wrong-wrong-wrong", "192.0.2.1")
	attempt(429, "wrong-wrong-wrong-wrong", "192.0.2.1")
	attempt(429, s.keys["bob"], "192.0.2.1")   // nothing is learnt by trying more of them
	attempt(200, s.keys["alice"], "192.0.2.1") // and whoever was let in before shares the address without harm
	attempt(401, "wrong-wrong-wrong-wrong", "192.0.2.2")
	attempt(429, "wrong-wrong-wrong-wrong", "192.0.2.1, 10.1.2.3")                   // a proxy in front of the proxy
	attempt(401, "wrong-wrong-wrong-wrong", "192.0.2.1, 192.0.2.3")                  // what somebody writes before the proxy does not count
	attempt(401, "wrong-wrong-wrong-wrong", "2001:db8::1")                           // of a whole network
	attempt(401, "wrong-wrong-wrong-wrong", "2001:db8::2")                           //
	attempt(429, "wrong-wrong-wrong-wrong", "2001:db8::3")                           //
	attempt(401, "wrong-wrong-wrong-wrong", "2001:db8:0:1::1")                       //
	attempt(401, "wrong-wrong-wrong-wrong", "junk")                                  // that of the connection
	attempt(401, "wrong-wrong-wrong-wrong", strings.Repeat("1.1.1.1,", 100)+"junk ") //
	attempt(429, "wrong-wrong-wrong-wrong", "junk")
	c.at.Add(int64(time.Second))
	attempt(200, s.keys["bob"], "192.0.2.1")
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	s := start(t, func(set *setup) { set.api.Limits.BodyBytes = 1000 })
	large := strings.Repeat(" ", 1001)
	for _, path := range []string{"/build/", invocations, "/v1/plan"} {
		s.want(413, "alice", "POST", path, large)
		// One that does not say how much it is.
		r, err := http.NewRequest(http.MethodPost, s.url+path, struct{ *strings.Reader }{strings.NewReader(large)})
		require.NoError(t, err)
		r.ContentLength = -1
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-API-Key", s.keys["alice"])
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		answer.Body.Close()
		require.Equal(t, 413, answer.StatusCode)
	}
	s.want(202, "alice", "POST", "/build/", document("a"))
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	s := start(t, func(set *setup) { set.api.Auth = providerDown{} })
	answer := s.want(503, "alice", "GET", "/v1/whoami", "")
	require.Equal(t, "5", answer.Header.Get("Retry-After"))
	s.want(503, "alice", "POST", "/build/", document("a"))
}

type providerDown struct{}

func (providerDown) Authenticate(*http.Request) (auth.Principal, error) {
	return auth.Principal{}, fault.New(fault.Unavailable, "ask the provider: no answer")
}
func (providerDown) Challenge(error) []string { return nil }

// breaks panics where a caller is looked for.
type breaks struct{ providerDown }

func (breaks) Authenticate(*http.Request) (auth.Principal, error) { panic("a defect") }

func TestDefect(t *testing.T) {
	t.Parallel()
	type seen struct {
		method, route string
		status        int
	}
	observed := make(chan seen, 100)
	observe := func(method, route string, status int, took time.Duration) { observed <- seen{method, route, status} }
	s := start(t, func(set *setup) { set.api.Auth, set.api.Observe = breaks{}, observe })
	answer := s.want(500, "alice", "GET", "/v1/whoami", "")
	require.NotContains(t, answer.body, "defect\"}\n\ngoroutine")
	require.NotContains(t, answer.body, ".go:")
	require.Equal(t, answer.Header.Get("X-Request-ID"), into[api.Problem](t, answer).Instance)

	s.want(404, "", "GET", "/v2", "")
	s.want(405, "", "DELETE", "/v1/whoami", "")
	s.want(200, "", "GET", "/healthz", "")
	var all []seen
	for len(observed) > 0 {
		if o := <-observed; o.route != "/openapi.json" { // which the tests read themselves
			all = append(all, o)
		}
	}
	require.Equal(t, []seen{{"GET", "/v1/whoami", 500}, {"GET", "/", 404}, {"DELETE", "/v1/whoami", 405}, {"GET", "/healthz", 200}}, all)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := start(t, func(set *setup) {
		set.api.Rest = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("page " + r.URL.Path)) })
	})
	answer := s.want(200, "alice", "GET", "/v1/whoami", "", "X-Request-ID", "bad id\t")
	require.NotContains(t, answer.Header.Get("X-Request-ID"), "bad")
	require.GreaterOrEqual(t, len(answer.Header.Get("X-Request-ID")), 20)
	require.Equal(t, "nosniff", answer.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
	require.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.NotEmpty(t, s.want(401, "", "GET", "/v1/whoami", "").Header.Get("WWW-Authenticate"))
	require.Empty(t, s.want(200, "alice", "HEAD", "/v1/whoami", "").body)
	// Everything else is the page's.
	require.Equal(t, "page /", s.want(200, "", "GET", "/", "").body)
	require.Equal(t, "page /none", s.want(200, "", "GET", "/none", "").body)
	for _, path := range []string{"/v1/none", "/v1/", "/build/none", "/status/"} {
		require.Equal(t, "application/problem+json", s.want(404, "", "GET", path, "").Header.Get("Content-Type"))
	}
	s.want(405, "alice", "PATCH", invocations, "{}")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	down := errors.New("no answer")
	var fails atomic.Bool
	var c clock
	var asked atomic.Int64
	s := start(t, func(set *setup) {
		set.api.Now = c.now
		set.api.Ready = []api.Check{
			{Name: "database", Ready: func(context.Context) error {
				asked.Add(1)
				return nil
			}},
			{Name: "engine", Ready: func(context.Context) error {
				if fails.Load() {
					return down
				}
				return nil
			}},
		}
	})
	require.Equal(t, api.Health{Status: api.HealthStatusOk, Version: "test"}, into[api.Health](t, s.want(200, "", "GET", "/healthz", "")))
	for range 10 { // strangers may ask as often as they like
		s.want(200, "", "GET", "/readyz", "")
	}
	require.EqualValues(t, 1, asked.Load())
	fails.Store(true)
	c.at.Add(int64(time.Second))
	require.Equal(t, api.Health{Status: api.HealthStatusUnavailable, Version: "test", Checks: []api.HealthCheck{
		{Name: "database", Ok: true}, {Name: "engine", Detail: "no answer"},
	}}, into[api.Health](t, s.want(503, "", "GET", "/readyz", "")))
	s.want(200, "", "GET", "/healthz", "")
}

// TestSignInsAreLimited lets an address send few forms to the page, and look at it as often as it likes.
func TestSignInsAreLimited(t *testing.T) {
	t.Parallel()
	var c clock
	s := start(t, func(set *setup) {
		set.api.Now, set.api.Limits.PerHost = c.now, 1
		set.api.Rest = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	s.want(200, "", "POST", "/sign-in", "key=guess")
	s.want(200, "", "GET", "/login/callback?code=guess", "")
	require.NotEmpty(t, s.want(429, "", "POST", "/sign-in", "key=guess").Header.Get("Retry-After"))
	s.want(429, "", "GET", "/login/callback?code=guess", "")
	s.want(200, "", "GET", "/sign-in", "")
}
