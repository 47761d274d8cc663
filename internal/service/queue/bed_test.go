package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// patience is how long tests wait for what takes a second or two on an idle machine.
const patience = 90 * time.Second

// databases are what everything has to work on.
var databases = []string{"postgres", "sqlite"}

// bed is what workers need around them, all of it real.
type bed struct {
	*testbed.Site
	database store.Config
	store    *store.Store // of the API, so to speak: not the workers' own
	settings result.Settings
	identity string
	sealer   *seal.Sealer
	opener   *seal.Opener
	temp     string // of plugins
	puts     *puts
}

// puts are the tags and manifests that were made visible in the registry.
type puts struct {
	mu   sync.Mutex
	tags []string
	all  int
}

func (p *puts) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if image, tag, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && r.Method == http.MethodPut && !strings.HasPrefix(image, "/v2/base/") {
			p.mu.Lock()
			p.all++
			if !strings.HasPrefix(tag, "sha256:") {
				p.tags = append(p.tags, strings.TrimPrefix(image, "/v2/")+":"+tag)
			}
			p.mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
}

func (p *puts) list() ([]string, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.tags...), p.all
}

func newBed(t *testing.T, database string) *bed {
	t.Helper()
	var config store.Config
	switch database {
	case "postgres":
		config = onPostgres(testbed.Postgres(t))
	case "sqlite":
		config.SQLite = filepath.Join(t.TempDir(), "builds.db")
	}
	return newBedOn(t, config)
}

func onPostgres(d testbed.PostgresDatabase) store.Config {
	return store.Config{Postgres: &store.Postgres{Host: d.Host, Port: d.Port, Name: d.Name, User: d.User, Password: d.Password, SSLMode: "disable"}}
}

func newBedOn(t *testing.T, database store.Config) *bed {
	t.Helper()
	p := &puts{}
	b := &bed{database: database, puts: p, Site: testbed.NewSite(t, testbed.RegistryOptions{Middleware: p.middleware})}
	_, err := testbed.PushBases(t.Context(), b.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	b.settings = result.Settings{Engine: "buildkit", BuildKitHost: testbed.NewEngine(t), CacheDir: b.CacheDir}
	b.store = b.open(t)
	require.NoError(t, b.store.Migrate(t.Context()))
	identity, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	b.identity = identity
	b.sealer, err = seal.NewSealer(recipient)
	require.NoError(t, err)
	b.opener, err = seal.NewOpener(identity)
	require.NoError(t, err)
	b.temp, err = os.MkdirTemp("", "queue-") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() {
		left, err := os.ReadDir(b.temp)
		require.NoError(t, err)
		require.Empty(t, left, "workers leave nothing behind")
		require.NoError(t, os.RemoveAll(b.temp))
	})
	return b
}

func (b *bed) open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), b.database)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// dockerfile makes a repository of a Dockerfile on busybox, and gives a document that builds it as app:1. Its steps are in no cache.
func (b *bed) dockerfile(t *testing.T, lines ...string) string {
	t.Helper()
	name := uuid.NewString() + ".git"
	url, _ := b.Repository(t, name, fstest.MapFS{"Dockerfile": {Data: []byte("FROM busybox\nENV UNIQUE=" + name + "\n" + strings.Join(lines, "\n") + "\n"), Mode: 0o644}})
	return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":%q},"images":[{"image":"app","tag":"1","base":"%s/base/busybox:1"}]}}`,
		url, b.Registry.Host, b.Registry.Host)
}

// submit submits a document as the API does, and gives its id.
func (b *bed) submit(t *testing.T, document string, change ...func(*store.Submission)) string {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	s := store.Submission{
		ID: id.String(), Subject: "somebody", BuildParams: json.RawMessage(`{"masked":true}`), Images: []string{b.Registry.Host + "/app:1"},
		TraceParent: "",
	}
	s.Sealed, err = b.sealer.Seal(s.ID, []byte(document))
	require.NoError(t, err)
	for _, c := range change {
		c(&s)
	}
	_, created, err := b.store.Submit(t.Context(), s)
	require.NoError(t, err)
	require.True(t, created)
	return s.ID
}

// work runs a worker in this process until the test ends, or until stop is called, which waits.
func (b *bed) work(t *testing.T, change ...func(*queue.Config)) (stop func()) {
	t.Helper()
	config := queue.Config{
		Store: b.open(t), Opener: b.opener, PluginPath: pluginPath, PluginSettings: b.settings, Environment: os.Environ(), TempDir: b.temp,
		Grace: 10 * time.Second, Logger: testLogger(t),
	}
	for _, c := range change {
		c(&config)
	}
	w, err := queue.New(config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func testLogger(t *testing.T) *slog.Logger {
	t.Helper()
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// until waits for an invocation to be as a test wants it.
func (b *bed) until(t *testing.T, id, what string, ok func(store.Invocation) bool) store.Invocation {
	t.Helper()
	var inv store.Invocation
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		inv, err = b.store.Get(t.Context(), id)
		if err == nil && ok(inv) { // the database may be away
			return inv
		}
	}
	require.Failf(t, "the invocation does not come there", "%s: it is %s, attempt %d: %s", what, inv.State, inv.Attempt, inv.Response)
	return inv
}

func (b *bed) ended(t *testing.T, id string) store.Invocation {
	t.Helper()
	return b.until(t, id, "ended", func(v store.Invocation) bool { return v.State.Ended() })
}

// says waits until the log's output has a text.
func (b *bed) says(t *testing.T, id, text string) {
	t.Helper()
	b.until(t, id, "says "+text, func(store.Invocation) bool {
		entries, err := b.store.LogKindEntries(t.Context(), id, store.LogOut)
		if err != nil {
			return false
		}
		var all []byte
		for _, e := range entries {
			all = append(all, e.Data...)
		}
		return bytes.Contains(all, []byte(text))
	})
}

// log reads a whole log, which must have no gap.
func (b *bed) log(t *testing.T, id string) []store.LogEntry {
	t.Helper()
	var all []store.LogEntry
	for {
		entries, err := b.store.Log(t.Context(), id, int64(len(all)), 1<<20)
		require.NoError(t, err)
		if len(entries) == 0 {
			return all
		}
		for _, e := range entries {
			require.EqualValues(t, len(all)+1, e.Seq, "no gap")
			all = append(all, e)
		}
	}
}

// outputOf joins the output of the step whose name has a text.
func outputOf(t *testing.T, entries []store.LogEntry, name string) []byte {
	t.Helper()
	steps := map[string]bool{}
	for _, e := range entries {
		if e.Kind == store.LogStep && bytes.Contains(e.Data, []byte(name)) {
			steps[e.Step] = true
		}
	}
	var all []byte
	for _, e := range entries {
		if e.Kind == store.LogOut && steps[e.Step] {
			all = append(all, e.Data...)
		}
	}
	return all
}

// watcher is an observer that keeps what it hears.
type watcher struct {
	deliver   func(error)
	claimed   func(store.Invocation)
	finished  func(store.Invocation, queue.Ending)
	sawEvents func(event.Event)
}

func (w watcher) Claimed(ctx context.Context, inv store.Invocation, _ time.Duration) context.Context {
	if w.claimed != nil {
		w.claimed(inv)
	}
	return ctx
}

func (w watcher) Event(_ context.Context, e event.Event) {
	if w.sawEvents != nil {
		w.sawEvents(e)
	}
}

func (w watcher) Ended(_ context.Context, inv store.Invocation, end queue.Ending) {
	if w.finished != nil {
		w.finished(inv, end)
	}
}

func (w watcher) Delivered(_ context.Context, err error) {
	if w.deliver != nil {
		w.deliver(err)
	}
}

func (watcher) Reaped(context.Context, store.ReapResult) {}
