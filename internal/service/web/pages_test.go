package web_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

// TestPages looks at every page, in each of its states, wide and narrow, light and dark.
func TestPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	b := s.browse()
	b.expect("status of 403")
	b.expect("status of 404")
	b.expect("status of 422")

	b.open("/sign-in")
	b.look("sign-in")
	b.fill("#key", "ibk_wrong")
	b.press("form[action='/sign-in'] button")
	b.until(`document.querySelector("[role=alert]")`)
	b.look("sign-in-refused")

	b.signIn(s, "alice")
	b.look("list-empty")

	good, bad, running := s.history()
	b.open("/builds")
	b.look("list")
	b.open("/builds?image=registry.example.com/shop&state=failed")
	b.look("list-filtered")
	b.open("/builds/" + good)
	b.look("build-success")
	b.press("details:has(table.layers) summary")
	b.look("build-layers")
	b.open("/builds/" + good + "?q=layer")
	b.look("build-search")
	b.open("/builds/" + bad)
	b.look("build-failed")
	b.open("/builds/" + running)
	b.until(`document.querySelector("#live")?.textContent === "Live"`)
	b.look("build-running")
	b.open("/builds/" + bad + "/retry")
	b.look("retry")
	b.open("/builds/" + bad + "/delete")
	b.look("delete")
	b.open("/builds/new")
	b.look("new")
	b.press("button[value=submit]:not(.away)")
	b.until(`document.querySelector("[aria-invalid=true]")`)
	b.look("new-problems")
	b.open("/builds/new?mode=document&example=variants")
	b.look("new-document")
	b.open("/nowhere")
	b.look("not-found")
}

// history makes builds of all kinds: one that succeeded, one that failed, one that runs, and some others.
func (s *site) history() (good, bad, running string) {
	s.t.Helper()
	const ref, group = "registry.example.com/shop/web:v1", "shop/web:v1"
	digest := func(c string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(c))) }

	good = s.submit("alice", document("shop/web"), map[string]string{"team": "shop", "ref": "main"})
	w := s.claim()
	begun := time.Now().Add(-40 * time.Second)
	at := func(seconds float64) time.Time { return begun.Add(time.Duration(seconds * float64(time.Second))) }
	took := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
	w.step("source:fetch", "", "fetch https://git.example.com/shop/web.git", at(0), took(1.4))
	for i, platform := range []string{"linux/amd64", "linux/arm64"} {
		id := func(n int) string { return fmt.Sprintf("%s-%d", platform, n) }
		slow := float64(1 + 2*i)
		w.step(id(1), group, "["+platform+" 1/4] FROM docker.io/library/golang:1.26@"+digest("a"), at(1.5), took(.3), cached)
		w.step(id(2), group, "["+platform+" 2/4] WORKDIR /src", at(1.8), took(0.1), cached)
		w.step(id(3), group, "["+platform+" 3/4] COPY . .", at(2), took(.6))
		w.step(id(4), group, "["+platform+" 4/4] RUN go build -o /web ./cmd/web", at(2.6), -1)
		w.out(id(4), "\x1b[32mok\x1b[0m  example.com/shop/cart\t0.41s\r\n")
		w.out(id(4), "\x1b[33mwarning:\x1b[0m unused parameter \x1b[1mctx\x1b[0m in handler.go:41\nDownloading modules  10%\rDownloading modules  60%\rDownloading modules 100%\n")
		w.out(id(4), "\x1b[1;34m==>\x1b[0m linking \x1b[36m/web\x1b[0m\n\x1b[41m FAIL \x1b[0m is not what this says, \x1b[7minverse\x1b[0m neither; \x1b[38;5;208morange\x1b[0m is the nearest\n")
		w.step(id(4), group, "["+platform+" 4/4] RUN go build -o /web ./cmd/web", at(2.6), took(9*slow))
	}
	w.step("export", group, "exporting layers", at(30), took(2))
	w.step("push", group, "pushing layers", at(32), took(3.5))
	w.out("push", "layer 1 of 4 pushed\nlayer 2 of 4 pushed\nlayer 3 of 4 pushed\nlayer 4 of 4 pushed\n")
	w.finish(store.Outcome{State: store.StateSuccess, Response: "built 1 image", Result: finished(ref, digest)})

	bad = s.submit("alice", strings.Replace(document("shop/worker", "shop/admin"), `"url":"registry.example.com"`,
		`"url":"registry.example.com","username":"robot","password":"swordfish"`, 1), map[string]string{"team": "shop"})
	w = s.claim()
	worker := "shop/worker:v1"
	w.step("source:fetch", "", "fetch https://git.example.com/shop/web.git", at(0), took(1.1))
	w.step("a1", worker, "[linux/amd64 2/3] COPY . .", at(1.2), took(.4))
	w.step("a2", worker, "[linux/amd64 3/3] RUN make test", at(1.6), -1)
	w.out("a2", "=== RUN   TestCheckout\n    checkout_test.go:88: got 3 items, want 4\n\x1b[31m--- FAIL: TestCheckout (0.02s)\x1b[0m\nmake: *** [Makefile:12: test] Error 1\n")
	w.step("a2", worker, "[linux/amd64 3/3] RUN make test", at(1.6), took(4), failed(`process "/bin/sh -c make test" did not complete successfully: exit code: 2`))
	w.finish(store.Outcome{State: store.StateFailed, Reason: store.ReasonBuildFailed, Response: "build failed", Failure: json.RawMessage(
		`{"kind":"build_failed","message":"build registry.example.com/shop/worker:v1: [linux/amd64 3/3] RUN make test: exit code 2","hint":"its output says why; run it locally with the same base"}`)})

	gone := s.submit("alice", document("shop/gone"), nil)
	_, err := s.store.Cancel(s.t.Context(), gone)
	if err != nil {
		s.t.Fatal(err)
	}

	running = s.submit("alice", document("tools/exporter"), nil)
	w = s.claim()
	exporter := "tools/exporter:v1"
	now := time.Now()
	w.step("source:fetch", "", "fetch https://git.example.com/shop/web.git", now.Add(-9*time.Second), time.Second)
	w.step("b1", exporter, "[linux/amd64 2/3] RUN apk add --no-cache gcc musl-dev", now.Add(-8*time.Second), 3*time.Second)
	w.step("b2", exporter, "[linux/amd64 3/3] RUN cargo build --release", now.Add(-5*time.Second), -1)
	w.out("b2", "   \x1b[1;32mCompiling\x1b[0m serde v1.0.219\n   \x1b[1;32mCompiling\x1b[0m tokio v1.47.1\n    \x1b[1;36mBuilding\x1b[0m [=======>       ] 41/97: tokio")
	s.submit("alice", document("tools/waiting"), map[string]string{"nightly": "yes"})
	return good, bad, running
}

// finished is the result of a build of two platforms.
func finished(ref string, digest func(string) string) json.RawMessage {
	r := result.Result{Engine: "buildkit", Source: result.SourceResult{URL: "https://git.example.com/shop/web.git", Commit: strings.Repeat("3f2a", 10)},
		Times: result.Times{Fetch: 1.4, Build: 28, Push: 5.5, Total: 35}}
	r.Images = []result.ImageResult{{
		Ref: ref, Digest: digest("b"), PinnedRef: "registry.example.com/shop/web@" + digest("b"), Times: r.Times,
		Platforms: []result.PlatformResult{
			{Platform: "linux/amd64", Digest: digest("c"), Size: 48_211_334, Layers: []result.Layer{
				{Digest: digest("1"), Size: 29_150_000}, {Digest: digest("2"), Size: 1_200}, {Digest: digest("3"), Size: 4_100_000}, {Digest: digest("4"), Size: 14_960_134},
			}},
			{Platform: "linux/arm64", Digest: digest("d"), Size: 46_003_127, Layers: []result.Layer{{Digest: digest("5"), Size: 46_003_127}}},
		},
	}}
	data, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return data
}
