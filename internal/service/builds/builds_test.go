package builds_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// TestSubmit follows one request to the worker: what is kept in clear holds no secret, what is sealed has all of it.
func TestSubmit(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		const hook = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
		inv, created, err := b.service.Submit(t.Context(), ann, builds.Request{
			Document: []byte(secretive), Labels: map[string]string{"team": "web"}, Timeout: time.Hour, QueueTTL: time.Minute, Priority: 4,
			Webhook: &builds.Webhook{URL: "https://ci.example.com/hook", Secret: hook}, TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		})
		require.NoError(t, err)
		require.True(t, created)
		got, err := b.service.Get(t.Context(), ann, inv.ID)
		require.NoError(t, err)
		require.Equal(t, store.StatePending, got.State)
		require.Equal(t, []any{"user:ann", "web", 4, 30 * time.Minute, time.Minute, true, true}, []any{got.Subject, got.Group, got.Priority, got.Timeout, got.QueueTTL, got.HasSecrets, got.Sealed})
		require.Equal(t, []string{"registry.example.com/shop/web:v1"}, got.Images)
		require.Equal(t, map[string]string{"team": "web"}, got.Labels)
		require.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", got.TraceParent)
		shown, err := json.Marshal(got)
		require.NoError(t, err)
		require.NotContains(t, string(shown), "canary")
		require.NotContains(t, string(shown), hook)
		require.Equal(t, 4, strings.Count(string(got.BuildParams), "****"))

		w := b.run(t)
		clear, err := b.opener.Open(inv.ID, w.lease.Sealed)
		require.NoError(t, err)
		sent, err := buildparams.Decode([]byte(secretive), "")
		require.NoError(t, err)
		built, err := buildparams.Decode(clear, "")
		require.NoError(t, err)
		require.Equal(t, sent, built)
		secret, err := b.opener.Open(inv.ID, w.lease.Invocation.Webhook.Secret)
		require.NoError(t, err)
		require.Equal(t, hook, string(secret))
		w.finish(t, store.Outcome{State: store.StateSuccess})
		ended, err := b.service.Status(t.Context(), ann, inv.ID)
		require.NoError(t, err)
		require.False(t, ended.Sealed)
	})
}

func TestSubmitTellsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	s := builds.New(builds.Config{})
	labels := map[string]string{"a b": "x", "ok": "x", "long": strings.Repeat("x", 257), "bell": "\a"}
	_, _, err := s.Submit(t.Context(), ann, builds.Request{
		Document: []byte(`{"source":{}}`), Pointer: "/build_params", Labels: labels, Timeout: -1, QueueTTL: -1, Priority: 5, Group: "ops", IdempotencyKey: "a\nb",
		Webhook: &builds.Webhook{URL: "http://169.254.169.254/", Secret: "hunter2"},
	})
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	var pointers []string
	for _, p := range fault.As(err).Problems {
		pointers = append(pointers, p.Pointer)
	}
	require.ElementsMatch(t, []string{
		"/build_params/source", "/build_params/target", "/group", "/labels", "/labels/bell", "/labels/long", "/priority", "/timeout", "/queue_ttl", "/idempotency_key", "/webhook/url", "/webhook/secret",
	}, pointers)
	require.NotContains(t, err.Error(), "hunter2")
	for i := range 40 {
		labels[strings.Repeat("x", i+1)] = ""
	}
	_, _, err = s.Submit(t.Context(), ann, builds.Request{Document: []byte(plain), Labels: labels})
	require.ErrorContains(t, err, "/labels: has more than 32 labels")
	for _, hook := range []string{"", "ftp://ci.example.com/", "https://u:p@ci.example.com/", "https://", "https://localhost/", "https://ci.example.com/ x", "https://" + strings.Repeat("x", 2100)} {
		_, _, err = s.Submit(t.Context(), ann, builds.Request{Document: []byte(plain), Webhook: &builds.Webhook{URL: hook}})
		require.ErrorContains(t, err, "/webhook/url", hook)
	}
	for _, p := range []auth.Principal{{}, peer, audit, none} {
		_, _, err = s.Submit(t.Context(), p, builds.Request{Document: []byte(plain)})
		require.Equal(t, fault.Denied, fault.KindOf(err), p)
		_, err = s.Plan(t.Context(), p, []byte(plain), "")
		require.Equal(t, fault.Denied, fault.KindOf(err), p)
	}
}

func TestIdempotency(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		request := builds.Request{Document: []byte(secretive), IdempotencyKey: "one", Labels: map[string]string{"a": "b"}}
		first, created, err := b.service.Submit(t.Context(), ann, request)
		require.NoError(t, err)
		require.True(t, created)
		same := request
		same.Document = []byte(strings.ReplaceAll(secretive, "canary-git", "canary-new"))
		for _, r := range []builds.Request{request, same} {
			again, created, err := b.service.Submit(t.Context(), ann, r)
			require.NoError(t, err)
			require.False(t, created)
			require.Equal(t, first.ID, again.ID)
		}
		for name, change := range map[string]func(*builds.Request){
			"document": func(r *builds.Request) { r.Document = []byte(strings.ReplaceAll(secretive, "v1", "v2")) },
			"labels":   func(r *builds.Request) { r.Labels = nil },
			"timeout":  func(r *builds.Request) { r.Timeout = time.Minute },
			"ttl":      func(r *builds.Request) { r.QueueTTL = time.Minute },
			"priority": func(r *builds.Request) { r.Priority = 1 },
			"webhook":  func(r *builds.Request) { r.Webhook = &builds.Webhook{URL: "https://ci.example.com/"} },
		} {
			other := request
			change(&other)
			_, _, err := b.service.Submit(t.Context(), ann, other)
			var conflict *builds.ConflictError
			require.ErrorAs(t, err, &conflict, name)
		}
		other, created, err := b.service.Submit(t.Context(), eve, request)
		require.NoError(t, err)
		require.True(t, created, "keys of different callers have nothing to do with each other")
		require.NotEqual(t, first.ID, other.ID)
	})
}

func TestQueueOfOneCallerIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		b.service = b.with(func(c *builds.Config) { c.Limits = builds.Limits{Queued: 2, QueuedRetry: 7 * time.Second} })
		b.submit(t, ann, plain)
		b.submit(t, ann, plain)
		_, _, err := b.service.Submit(t.Context(), ann, builds.Request{Document: []byte(plain)})
		var limit *builds.LimitError
		require.ErrorAs(t, err, &limit)
		require.Equal(t, 7*time.Second, limit.RetryAfter)
		b.submit(t, eve, plain)
		b.run(t)
		b.run(t)
		b.submit(t, ann, plain) // one of ann's runs now: fair turns
	})
}

// TestVisibility asks for one build as everybody, in every way.
func TestVisibility(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		inv := b.submit(t, ann, plain) // of the group web
		b.run(t).finish(t, store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed})
		absent := "0199aaaa-0000-7000-8000-000000000000"
		for _, c := range []struct {
			caller           auth.Principal
			sees             bool
			cancels, retries fault.Kind // "" where it may
		}{
			{ann, true, "", ""},
			{root, true, "", ""},
			{ben, true, fault.Denied, ""},
			{peer, true, fault.Denied, fault.Denied},
			{audit, true, fault.Denied, fault.Denied},
			{eve, false, fault.NotFound, fault.NotFound},
			{none, false, fault.Denied, fault.Denied},
			{auth.Principal{}, false, fault.Denied, fault.Denied},
		} {
			unseen := fault.NotFound
			if !c.caller.May(auth.ScopeRead) {
				unseen = fault.Denied
			}
			ways := map[string]func(id string) error{
				"get":    func(id string) error { _, err := b.service.Get(ctx, c.caller, id); return err },
				"status": func(id string) error { _, err := b.service.Status(ctx, c.caller, id); return err },
				"text":   func(id string) error { return b.service.WriteText(ctx, c.caller, id, &strings.Builder{}, "") },
				"follow": func(id string) error {
					return b.service.Follow(ctx, c.caller, id, 0, func([]store.LogEntry, store.State) error { return nil })
				},
			}
			for name, ask := range ways {
				require.Equal(t, unseen, fault.KindOf(ask(absent)), "%s %s", c.caller.Subject, name)
				if c.sees {
					require.NoError(t, ask(inv.ID), "%s %s", c.caller.Subject, name)
					continue
				}
				require.Equal(t, unseen, fault.KindOf(ask(inv.ID)), "%s %s", c.caller.Subject, name)
				require.Equal(t, strings.ReplaceAll(ask(absent).Error(), absent, inv.ID), ask(inv.ID).Error(), "absent and invisible are the same")
			}
			page, err := b.service.List(ctx, c.caller, builds.Query{Until: time.Now().Add(time.Hour), States: []store.State{store.StateFailed}})
			if c.caller.May(auth.ScopeRead) {
				require.NoError(t, err)
				require.Equal(t, c.sees, len(page.Builds) == 1, c.caller.Subject)
			} else {
				require.Equal(t, fault.Denied, fault.KindOf(err))
			}
			_, err = b.service.Cancel(ctx, c.caller, inv.ID)
			require.Equal(t, c.cancels, fault.KindOf(err), c.caller.Subject)
			_, err = b.service.Retry(ctx, c.caller, inv.ID, nil)
			require.Equal(t, c.retries, fault.KindOf(err), c.caller.Subject)
			if c.cancels != "" {
				require.Equal(t, c.cancels, fault.KindOf(b.service.Delete(ctx, c.caller, inv.ID)), c.caller.Subject)
			}
		}
		for _, id := range []string{"", "x", strings.ToUpper(inv.ID)[:35], "{" + inv.ID + "}", "urn:uuid:" + inv.ID, strings.Repeat("x", 10_000), "'; drop table ib_invocation; --"} {
			_, err := b.service.Get(ctx, root, id)
			require.Equal(t, fault.NotFound, fault.KindOf(err), id)
			require.Less(t, len(err.Error()), 200)
		}
		require.NoError(t, b.service.Delete(ctx, ann, inv.ID))
		require.Equal(t, fault.NotFound, fault.KindOf(b.service.Delete(ctx, ann, inv.ID)))
	})
}

func TestCancelAndDelete(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		waiting := b.submit(t, ann, plain)
		var conflict *builds.ConflictError
		require.ErrorAs(t, b.service.Delete(ctx, ann, waiting.ID), &conflict)
		got, err := b.service.Cancel(ctx, ann, waiting.ID)
		require.NoError(t, err)
		require.Equal(t, store.StateCancelled, got.State)
		require.Equal(t, store.ReasonCancelled, got.Reason)

		running := b.submit(t, ann, plain)
		w := b.run(t)
		for range 2 { // as often as one likes
			got, err = b.service.Cancel(ctx, ann, running.ID)
			require.NoError(t, err)
			require.Equal(t, store.StateInProgress, got.State)
			require.True(t, got.CancelRequested)
		}
		w.finish(t, store.Outcome{State: store.StateCancelled, Reason: store.ReasonCancelled})
		got, err = b.service.Cancel(ctx, ann, running.ID)
		require.NoError(t, err)
		require.Equal(t, store.StateCancelled, got.State)
		require.NoError(t, b.service.Delete(ctx, root, running.ID))
	})
}

func TestRetry(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		old, _, err := b.service.Submit(ctx, ann, builds.Request{Document: []byte(secretive), Labels: map[string]string{"a": "b"}, Priority: 3, QueueTTL: time.Hour})
		require.NoError(t, err)
		var conflict *builds.ConflictError
		_, err = b.service.Retry(ctx, ann, old.ID, secretsOf)
		require.ErrorAs(t, err, &conflict)
		require.Empty(t, conflict.Pointers)
		w := b.run(t)
		first, err := b.opener.Open(old.ID, w.lease.Sealed)
		require.NoError(t, err)
		w.finish(t, store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed})

		_, err = b.service.Retry(ctx, ann, old.ID, map[string]string{"/target/registry/password": "canary-registry"})
		require.ErrorAs(t, err, &conflict)
		require.ElementsMatch(t, []string{"/source/git_repo/password", "/target/images/0/build_args/NPM_TOKEN", "/options/secrets/a~1b"}, conflict.Pointers)
		more := map[string]string{"/target/registry/url": "evil.example.com"}
		for pointer, value := range secretsOf {
			more[pointer] = value
		}
		_, err = b.service.Retry(ctx, ann, old.ID, more)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
		more = map[string]string{}
		for pointer := range secretsOf {
			more[pointer] = "env:HOME"
		}
		_, err = b.service.Retry(ctx, ann, old.ID, more)
		require.Equal(t, fault.Invalid, fault.KindOf(err), "the policy holds for what is put back, too")
		require.NotContains(t, err.Error(), "canary")

		traced, _, err := b.service.Submit(ctx, eve, builds.Request{Document: []byte(plain), TraceParent: "00-x\r\n"})
		require.NoError(t, err)
		require.Empty(t, traced.TraceParent)
		_, err = b.service.Cancel(ctx, eve, traced.ID)
		require.NoError(t, err)

		again, err := b.service.Retry(ctx, ann, old.ID, secretsOf)
		require.NoError(t, err)
		require.NotEqual(t, old.ID, again.ID)
		w = b.run(t)
		require.Equal(t, again.ID, w.lease.Invocation.ID)
		second, err := b.opener.Open(again.ID, w.lease.Sealed)
		require.NoError(t, err)
		require.JSONEq(t, string(first), string(second))
		require.Equal(t, []any{old.ID, 3, time.Hour, "web"}, []any{again.RetryOf, again.Priority, again.QueueTTL, again.Group})
		require.Equal(t, map[string]string{"a": "b"}, again.Labels)
	})
}

func TestList(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		var all []string
		for range 5 {
			all = append([]string{b.submit(t, ann, plain).ID}, all...)
		}
		bens, _, err := b.service.Submit(ctx, ben, builds.Request{Document: []byte(strings.ReplaceAll(plain, "shop/web", "ops/db")), Group: "web", Labels: map[string]string{"kind": "db"}})
		require.NoError(t, err)
		all = append([]string{bens.ID}, all...)
		ids := func(q builds.Query) (got []string) {
			for {
				page, err := b.service.List(ctx, ann, q)
				require.NoError(t, err)
				for _, inv := range page.Builds {
					got = append(got, inv.ID)
				}
				if q.Page = page.Next; q.Page == "" {
					return got
				}
			}
		}
		require.Equal(t, all, ids(builds.Query{Limit: 2}))
		require.Equal(t, all[1:], ids(builds.Query{Mine: true}))
		require.Equal(t, all[:1], ids(builds.Query{Image: "registry.example.com/ops"}))
		require.Equal(t, all[:1], ids(builds.Query{Labels: map[string]string{"kind": "db"}}))
		require.Empty(t, ids(builds.Query{States: []store.State{store.StateSuccess}}))
		require.Empty(t, ids(builds.Query{Since: time.Now().Add(time.Hour)}))
		for _, q := range []builds.Query{{Limit: 101}, {Limit: -1}, {States: []store.State{"done"}}, {Image: strings.Repeat("x", 1000)}, {Labels: map[string]string{"a b": ""}}, {Page: "nonsense"}} {
			_, err := b.service.List(ctx, ann, q)
			require.Equal(t, fault.Invalid, fault.KindOf(err), q)
		}
	})
}

func TestPlan(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var given []string
	release := make(chan struct{})
	s := builds.New(builds.Config{Limits: builds.Limits{Plans: 1, PlanTime: time.Minute}, Planner: func(ctx context.Context, doc []byte) (json.RawMessage, error) {
		mu.Lock()
		given = append(given, string(doc))
		mu.Unlock()
		select {
		case <-release:
			return json.RawMessage(`{"engine":"managed"}`), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	var all sync.WaitGroup
	var plan json.RawMessage
	var err error
	all.Go(func() { plan, err = s.Plan(t.Context(), ann, []byte(secretive), "") })
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(given) == 1 }, time.Minute, time.Millisecond)
	var limit *builds.LimitError
	_, second := s.Plan(t.Context(), ann, []byte(plain), "")
	require.ErrorAs(t, second, &limit)
	require.Positive(t, limit.RetryAfter)
	close(release)
	all.Wait()
	require.NoError(t, err)
	require.JSONEq(t, `{"engine":"managed"}`, string(plan))
	require.Equal(t, 4, strings.Count(given[0], "canary-"), "who plans needs the secrets")

	_, err = s.Plan(t.Context(), ann, []byte(strings.ReplaceAll(plain, "https://", "file:///")), "")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	slow := builds.New(builds.Config{Limits: builds.Limits{PlanTime: time.Millisecond}, Planner: func(ctx context.Context, _ []byte) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	_, err = slow.Plan(t.Context(), ann, []byte(plain), "")
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	_, err = builds.New(builds.Config{}).Plan(t.Context(), ann, []byte(plain), "")
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
}
