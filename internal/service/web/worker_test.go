package web_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/testbed"
)

// TestRealBuilds submits a build in the browser that a real worker builds with the real plugin and a real engine, from a real git server to a
// real registry, and watches it to its end; then one that fails, and one that is cancelled while it runs.
func TestRealBuilds(t *testing.T) {
	t.Parallel()
	bed := testbed.NewSite(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), bed.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	engine := testbed.NewEngine(t)
	s := start(t, func(c *builds.Config) { c.Policy = builds.Policy{AnyAddress: true, PlainRegistries: []string{"*"}} })
	s.work(result.Settings{Engine: "buildkit", BuildKitHost: engine, CacheDir: bed.CacheDir})
	b := s.browse()
	b.signIn(s, "alice")

	submit := func(name, script string) {
		t.Helper()
		url, _ := bed.Repository(t, name+".git", fstest.MapFS{
			"Dockerfile": {Data: []byte("FROM busybox\nCOPY say /say\n" + script + "\n"), Mode: 0o644},
			"say":        {Data: []byte("#!/bin/sh\necho " + uuid.NewString() + "\n"), Mode: 0o755}, // nothing of it is in a cache,
		})
		b.open("/builds/new")
		b.fill(`[name="/source/git_repo/url"]`, url)
		b.fill(`[name="/target/registry/url"]`, bed.Registry.Host)
		b.press(`[name="/target/registry/insecure"]`)
		b.fill(`[name="/target/images/0/image"]`, name)
		b.fill(`[name="/target/images/0/tag"]`, "v1.4.2")
		b.fill(`[name="/labels"]`, "team=shop\nref=main")
		b.fill(`[name="/target/images/0/base"]`, bed.Registry.Host+"/base/busybox:1")
		b.press("button[value=submit]:not(.away)")
		b.until(`document.querySelector("#summary .state") && !document.querySelector("form#new")`)
	}
	state := func(want string) {
		t.Helper()
		b.until(fmt.Sprintf(`document.querySelector("#summary .state")?.textContent === %q`, want))
	}

	submit("shop/web", `RUN for p in api cart web; do printf '\033[36mcompile\033[0m %s\n' $p; sleep 0.3; done
RUN for i in 1 2 3; do printf '\033[32mok\033[0m     test %s\n' $i; sleep 0.3; done; printf '\033[33mwarning\033[0m 2 tests were skipped\n'`)
	state("In progress")
	state("Success")
	require.Contains(t, b.text("#log"), "test 3")
	require.Equal(t, 3, js[int](b, `document.querySelectorAll("#log .f2").length`))
	require.Contains(t, b.text("#summary"), bed.Registry.Host+"/shop/web@sha256:")
	require.Contains(t, b.text(".lane:has(.tag)"), "RUN for p in api")
	require.Positive(t, js[int](b, `document.querySelectorAll("table.layers tbody tr").length`))
	b.look("real-success")

	submit("bad", "RUN echo reason; exit 7")
	state("Failed")
	require.Contains(t, b.text(".notice.bad"), "build_failed")
	b.press(".notice.bad a")
	b.until(`location.search.includes("step=") && document.querySelector("#log")?.innerText.includes("exit code: 7")`)
	require.Contains(t, b.text("#log"), "reason")
	require.Contains(t, b.text("#log-title"), "RUN echo reason")

	submit("slow", "RUN echo begun; sleep 300")
	b.until(`document.querySelector("#log").innerText.includes("begun")`)
	begun := time.Now()
	b.press(".actions button.danger")
	state("Cancelled")
	require.Less(t, time.Since(begun), 30*time.Second)
}

// work runs a worker until the test ends.
func (s *site) work(settings result.Settings) {
	s.t.Helper()
	path, err := pluginPath()
	require.NoError(s.t, err)
	opener, err := seal.NewOpener(s.identity)
	require.NoError(s.t, err)
	temp, err := os.MkdirTemp("", "web-") // short, for sockets
	require.NoError(s.t, err)
	worker, err := queue.New(queue.Config{
		Store: s.store, Opener: opener, PluginPath: path, PluginSettings: settings, Environment: os.Environ(), TempDir: temp, Grace: 10 * time.Second,
	})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		require.NoError(s.t, <-done)
		require.NoError(s.t, os.RemoveAll(temp))
	})
}
