package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/store"
)

const invocations = "/v1/invocations"

func TestSubmit(t *testing.T) {
	t.Parallel()
	s := start(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	answer := s.want(202, "bob", "POST", invocations, `{
		"build_params": `+document("shop/web")+`, "labels": {"team": "shop", "ref": "a:b"}, "timeout": "1h30m", "queue_ttl": "90s", "priority": 3,
		"webhook": {"url": "https://ci.example.com/hooks", "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u"}}`, "X-Request-ID", "my-own.1", "Traceparent", trace)
	require.Equal(t, "my-own.1", answer.Header.Get("X-Request-ID"))
	got := into[api.BuildSummary](t, answer)
	self := invocations + "/" + got.ID
	require.Equal(t, self, answer.Header.Get("Location"))
	require.WithinDuration(t, time.Now(), got.SubmittedAt, time.Minute)
	got.SubmittedAt = time.Time{}
	require.Equal(t, api.BuildSummary{
		ID: got.ID, State: api.BuildStatePending, Subject: "key:bob", Group: "shop", Attempt: 1, Priority: 3,
		Timeout: "1h30m", QueueTTL: "1m30s", Labels: api.Labels{"team": "shop", "ref": "a:b"},
		Images: []string{"registry.example.com/shop/web:v1"}, NeedsSecrets: true,
		Links: api.Links{Self: self, Log: self + "/log", Cancel: self + "/cancel", Retry: self + "/retry"},
	}, got)
	require.NotContains(t, answer.body, "swordfish")
	kept, err := s.store.Get(t.Context(), got.ID)
	require.NoError(t, err)
	require.Equal(t, trace, kept.TraceParent)

	// The document may be text, in YAML too.
	text, err := json.Marshal("source: {git_repo: {url: 'https://git.example.com/a.git'}}\ntarget: {registry: {url: r.example}, images: [{image: a, tag: b}]}\n")
	require.NoError(t, err)
	require.Equal(t, []string{"r.example/a:b"}, s.submit("alice", `{"build_params": `+string(text)+`}`).Images)
}

func TestSubmitErrors(t *testing.T) {
	t.Parallel()
	s := start(t)
	tests := []struct {
		name, body string
		pointers   []string
	}{
		{"nothing", `{}`, []string{"/build_params"}},
		{"not an object", `[]`, []string{""}},
		{"not JSON", `{"build_params"`, []string{""}},
		{"more than JSON", build("a") + "x", []string{""}},
		{"an unknown field", `{"build_params":{},"lables":{}}`, []string{""}},
		{"the document", `{"build_params":{"source":{"git_repo":{"url":"https://a.example/b.git"}},"target":{"registry":{"url":"r.example"},"images":[{"image":"a"}]}}}`,
			[]string{"/build_params/target/images/0/tag"}},
		{"the document's text", `{"build_params":"source: 1"}`, []string{"/build_params/source", "/build_params/target"}},
		{"a document of the wrong type", `{"build_params":7}`, []string{"/build_params"}},
		{"a label of the wrong type", `{"build_params":{},"labels":{"a/b":1}}`, []string{"/labels/a~1b"}},
		{"several", `{"build_params":{},"timeout":"soon","priority":9,"webhook":{}}`, []string{"/priority", "/timeout", "/webhook/url"}},
		{"a webhook inside", `{"build_params":` + document("a") + `,"webhook":{"url":"http://169.254.169.254/"}}`, []string{"/webhook/url"}},
		{"a group of others", `{"build_params":` + document("a") + `,"group":"shop"}`, []string{"/group"}},
		{"a time that is none", `{"build_params":` + document("a") + `,"timeout":"0s"}`, []string{"/timeout"}},
		{"a time beyond all", `{"build_params":` + document("a") + `,"timeout":"99999999999999h"}`, []string{"/timeout"}},
		{"a reference to a secret of the worker", `{"build_params":` + strings.Replace(document("a"), "swordfish", "env:HOME", 1) + `}`,
			[]string{"/build_params/target/registry/password"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer := s.want(400, "alice", "POST", invocations, test.body)
			problem := into[api.Problem](t, answer)
			require.Equal(t, "invalid", problem.Kind)
			require.Equal(t, answer.Header.Get("X-Request-ID"), problem.Instance)
			pointers := make([]string, len(problem.Errors))
			for i, e := range problem.Errors {
				pointers[i] = e.Pointer
			}
			slices.Sort(pointers)
			require.Equal(t, test.pointers, pointers, answer.body)
			require.NotContains(t, answer.body, "swordfish")
		})
	}
	s.want(415, "alice", "POST", invocations, "build_params: {}", "Content-Type", "application/yaml")
	s.want(403, "reader", "POST", invocations, build("a"))
	s.want(401, "", "POST", invocations, build("a"))
	s.want(400, "alice", "POST", invocations, build("a"), "Idempotency-Key", strings.Repeat("k", 256))
	s.want(400, "alice", "POST", invocations, build("a"), "Idempotency-Key", "ключ")
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := start(t)
	first := s.submit("alice", build("a"), "Idempotency-Key", "k1")
	answer := s.want(202, "alice", "POST", invocations, build("a"), "Idempotency-Key", "k1")
	require.Equal(t, first.ID, into[api.BuildSummary](t, answer).ID)
	require.Equal(t, "true", answer.Header.Get("Idempotency-Replayed"))
	require.NotEqual(t, first.ID, s.submit("alice", build("a"), "Idempotency-Key", "k2").ID)
	require.NotEqual(t, first.ID, s.submit("bob", build("a"), "Idempotency-Key", "k1").ID, "keys of another caller are others")
	problem := into[api.Problem](t, s.want(409, "alice", "POST", invocations, build("b"), "Idempotency-Key", "k1"))
	require.Equal(t, "submit a build: the idempotency key was used for another request", problem.Detail)

	list := into[api.BuildList](t, s.want(200, "alice", "GET", invocations, ""))
	require.Len(t, list.Invocations, 2)
}

func TestQueueLimit(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *setup) { c.builds.Limits.Queued = 2 })
	s.submit("alice", build("a"))
	s.submit("alice", build("a"))
	for _, path := range []string{invocations, "/build/"} {
		body := build("a")
		if path == "/build/" {
			body = document("a")
		}
		answer := s.want(429, "alice", "POST", path, body)
		require.Equal(t, "15", answer.Header.Get("Retry-After"))
	}
	s.submit("bob", build("a"))
}

func TestList(t *testing.T) {
	t.Parallel()
	s := start(t)
	ids := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		ids[name] = s.submit("alice", `{"build_params":`+document("shop/"+name)+`,"labels":{"name":"`+name+`","team":"a:b"}}`).ID
	}
	ids["bob"] = s.submit("bob", build("bob")).ID
	ids["alone"] = s.submit("bob", `{"build_params":`+document("alone")+`}`).ID
	s.want(202, "alice", "POST", invocations+"/"+ids["two"]+"/cancel", "")
	names := func(caller, query string) (found []string) {
		list := into[api.BuildList](t, s.want(200, caller, "GET", invocations+query, ""))
		for _, b := range list.Invocations {
			for name, id := range ids {
				if id == b.ID {
					found = append(found, name)
				}
			}
		}
		return found
	}
	tests := []struct {
		caller, query string
		want          []string
	}{
		{"alice", "", []string{"three", "two", "one"}},
		{"admin", "", []string{"alone", "bob", "three", "two", "one"}},
		{"carol", "", []string{"alone", "bob"}}, // of her group
		{"reader", "", nil},
		{"alice", "?state=cancelled", []string{"two"}},
		{"alice", "?state=cancelled&state=pending", []string{"three", "two", "one"}},
		{"alice", "?state=success", nil},
		{"alice", "?label=name:one", []string{"one"}},
		{"alice", "?label=name:one&label=team:a:b", []string{"one"}},
		{"alice", "?label=name:one&label=name:two", nil},
		{"alice", "?label=name:", nil},
		{"alice", "?image=registry.example.com/shop/t", []string{"three", "two"}},
		{"alice", "?image=registry.example.com/shop/two:v1", []string{"two"}},
		{"alice", "?limit=2", []string{"three", "two"}},
		{"alice", "?since=" + url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)), nil},
		{"alice", "?until=2020-01-01T00:00:00Z", nil},
		{"alice", "?since=2020-01-01T00:00:00Z", []string{"three", "two", "one"}},
	}
	for _, test := range tests {
		require.Equal(t, test.want, names(test.caller, test.query), "%s %s", test.caller, test.query)
	}

	var pages []string
	for token := ""; ; {
		list := into[api.BuildList](t, s.want(200, "alice", "GET", invocations+"?limit=1"+token, ""))
		for _, b := range list.Invocations {
			pages = append(pages, b.ID)
		}
		if list.NextPageToken == "" {
			break
		}
		token = "&page_token=" + url.QueryEscape(list.NextPageToken)
	}
	require.Equal(t, []string{ids["three"], ids["two"], ids["one"]}, pages)

	for query, pointer := range map[string]string{
		"?state=done": "/state/0", "?limit=0": "/limit", "?limit=101": "/limit", "?limit=x": "/limit", "?limit=99999999999999999999": "/limit",
		"?since=yesterday": "/since", "?label=x": "/label/0", "?page_token=junk": "", "?labels=a:b": "/labels", "?page_token=": "/page_token", "?image=": "/image",
	} {
		problem := into[api.Problem](t, s.want(400, "alice", "GET", invocations+query, ""))
		if pointer != "" {
			require.Equal(t, pointer, problem.Errors[0].Pointer, query)
		}
	}
}

func TestBuild(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("shop/web")).ID
	lease := s.claim()
	s.log(lease, store.LogStep, "source:1", `{"id":"source:1","name":"fetch https://git.example.com/shop/web.git","started":"2026-01-01T00:00:00Z","completed":"2026-01-01T00:00:01Z"}`)
	s.log(lease, store.LogStep, "1", `{"id":"1","name":"[linux/amd64 1/2] RUN make","group":"shop/web:v1","started":"2026-01-01T00:00:01Z","completed":"2026-01-01T00:00:02Z","cached":true}`)
	s.log(lease, store.LogNote, "", `{"level":"warning","text":"the tag is old"}`)
	digest := "sha256:" + strings.Repeat("1", 64)
	s.finish(lease, store.Outcome{State: store.StateSuccess, Result: json.RawMessage(`{"images":[{"ref":"registry.example.com/shop/web:v1","digest":"` + digest + `",
		"pinned_ref":"registry.example.com/shop/web@` + digest + `","platforms":[{"platform":"linux/amd64","digest":"` + digest + `","size":42}],
		"times":{"build":1,"push":1,"total":2}}],"source":{"url":"https://git.example.com/shop/web.git"},"engine":"managed","times":{"fetch":1,"build":1,"push":1,"total":3}}`)})
	answer := s.want(200, "alice", "GET", invocations+"/"+id, "")
	require.NotContains(t, answer.body, "swordfish")
	got := into[api.Build](t, answer)
	require.Equal(t, api.BuildStateSuccess, got.State)
	require.Len(t, got.Variants, 1, answer.body)
	require.Equal(t, digest, got.Variants[0].Digest)
	require.Equal(t, "linux/amd64", got.Variants[0].Platforms[0].Platform)
	require.EqualValues(t, 42, got.Variants[0].Platforms[0].Size)
	require.True(t, got.Variants[0].Platforms[0].Steps[0].Cached)
	require.Equal(t, "source:1", got.Steps[0].ID)
	require.Equal(t, "the tag is old", got.Notes[0].Text)
	phases := make([]string, len(got.Phases))
	for i, p := range got.Phases {
		phases[i] = p.Name
	}
	require.Subset(t, phases, []string{"queued", "fetch", "build"})
	require.Contains(t, string(got.Result), digest)

	id = s.submit("alice", build("shop/web")).ID
	s.finish(s.claim(), store.Outcome{
		State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: "RUN make: exit code 2",
		Failure: json.RawMessage(`{"reason":"build_failed","kind":"build_failed","message":"RUN make: exit code 2","hint":"look at its output","step":"RUN make","log_tail":"no rule\n"}`),
	})
	require.Equal(t, api.Failure{
		Reason: api.ReasonBuildFailed, Kind: "build_failed", Message: "RUN make: exit code 2", Hint: "look at its output", Step: "RUN make", LogTail: "no rule\n",
	}, into[api.Build](t, s.want(200, "alice", "GET", invocations+"/"+id, "")).Failure)

	for _, absent := range []string{uuid.NewString(), "42", "%2e%2e", strings.Repeat("a", 3000)} {
		s.want(404, "alice", "GET", invocations+"/"+absent, "")
	}
	s.want(404, "bob", "GET", invocations+"/"+id, "")
	s.want(404, "bob", "GET", invocations+"/"+id+"/log", "")
}

func TestCancelRetryDelete(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("a")).ID
	self := invocations + "/" + id
	s.want(409, "alice", "DELETE", self, "")
	s.want(409, "alice", "POST", self+"/retry", "")
	for range 2 {
		got := into[api.BuildSummary](t, s.want(202, "alice", "POST", self+"/cancel", ""))
		require.Equal(t, api.BuildStateCancelled, got.State)
		require.Equal(t, api.ReasonCancelled, got.Reason)
	}

	conflict := into[api.Problem](t, s.want(409, "alice", "POST", self+"/retry", ""))
	require.Equal(t, []api.ProblemItem{{Pointer: "/secrets/~1target~1registry~1password", Message: "is missing"}}, conflict.Errors)
	s.want(400, "alice", "POST", self+"/retry", `{"secret":{}}`)
	s.want(415, "alice", "POST", self+"/retry", `{}`, "Content-Type", "text/plain")
	again := s.want(202, "alice", "POST", self+"/retry", `{"secrets":{"/target/registry/password":"swordfish"}}`)
	summary := into[api.BuildSummary](t, again)
	require.Equal(t, id, summary.RetryOf)
	require.Equal(t, self, summary.Links.RetryOf)
	require.NotContains(t, again.body, "swordfish")

	// A running one is only asked to stop.
	lease := s.claim()
	require.Equal(t, summary.ID, lease.Invocation.ID)
	got := into[api.BuildSummary](t, s.want(202, "alice", "POST", summary.Links.Cancel, ""))
	require.Equal(t, api.BuildStateInProgress, got.State)
	require.True(t, got.CancelRequested)

	s.want(404, "bob", "POST", self+"/cancel", "")
	s.want(404, "bob", "DELETE", self, "")
	s.want(204, "alice", "DELETE", self, "")
	s.want(404, "alice", "DELETE", self, "")
	s.want(404, "alice", "GET", self, "")

	// Members of the group see each other's builds and change only their own.
	id = s.submit("bob", build("b")).ID
	s.want(200, "carol", "GET", invocations+"/"+id, "")
	s.want(403, "carol", "POST", invocations+"/"+id+"/cancel", "")
	s.want(403, "carol", "DELETE", invocations+"/"+id, "")

	// Without secrets nothing is needed again.
	id = s.submit("alice", `{"build_params":`+plainDocument("c")+`}`).ID
	s.want(202, "alice", "POST", invocations+"/"+id+"/cancel", "")
	s.want(202, "alice", "POST", invocations+"/"+id+"/retry", "")
	s.want(202, "alice", "POST", invocations+"/"+id+"/retry", "{}")
}

func TestPlan(t *testing.T) {
	t.Parallel()
	var fails error
	s := start(t, func(c *setup) {
		c.builds.Planner = func(context.Context, []byte) (json.RawMessage, error) {
			return json.RawMessage(`{"source":{"url":"https://git.example.com/shop/web.git"},"images":[{"ref":"a"}],"engine":"managed"}`), fails
		}
	})
	plan := func(status int) reply { return s.want(status, "alice", "POST", "/v1/plan", build("shop/web")) }
	require.Contains(t, plan(200).body, `"engine":"managed"`)
	s.want(403, "reader", "POST", "/v1/plan", build("a"))
	problem := into[api.Problem](t, s.want(400, "alice", "POST", "/v1/plan", `{"build_params":{}}`))
	require.Equal(t, "/build_params/source", problem.Errors[0].Pointer)
	// What the registry or the repository says is about the build, not about the caller or the address.
	for err, status := range map[*fault.Error]int{
		fault.New(fault.Denied, "push registry.example.com/shop/web: denied"): 422,
		fault.New(fault.NotFound, "fetch: no such repository"):                422,
		fault.New(fault.Invalid, "base: no FROM has it"):                      422,
		fault.New(fault.Unavailable, "fetch: no answer"):                      503,
		fault.New(fault.Internal, "secret detail"):                            500,
	} {
		fails = err
		problem := into[api.Problem](t, plan(status))
		require.Equal(t, string(err.Kind), problem.Kind)
		if status == 500 {
			require.NotContains(t, problem.Detail, "secret detail")
		} else {
			require.Equal(t, err.Message, problem.Detail)
		}
	}
}

func TestWhoami(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := into[api.Caller](t, s.want(200, "bob", "GET", "/v1/whoami", ""))
	require.Equal(t, api.Caller{Subject: "key:bob", Name: "bob", Groups: []string{"shop"}, Scopes: []string{"builds:submit"}}, got)
	s.want(http.StatusUnauthorized, "", "GET", "/v1/whoami", "")
}
