package builds_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// onBoth runs a test on a database of each kind.
func onBoth(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Helper()
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		at := testbed.Postgres(t)
		test(t, newBed(t, store.Config{Postgres: &store.Postgres{Host: at.Host, Port: at.Port, Name: at.Name, User: at.User, Password: at.Password, MaxConns: 5}}))
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, newBed(t, store.Config{SQLite: filepath.Join(t.TempDir(), "builds.db")}))
	})
}

// bed is a service on a real database, with real seals and no workers: tests are those.
type bed struct {
	store   *store.Store
	config  builds.Config
	service *builds.Service
	opener  *seal.Opener
}

func newBed(t *testing.T, config store.Config) *bed {
	t.Helper()
	ctx := t.Context()
	s, err := store.Open(ctx, config)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.Migrate(ctx))
	identity, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	sealer, err := seal.NewSealer(recipient)
	require.NoError(t, err)
	b := &bed{store: s}
	b.opener, err = seal.NewOpener(identity)
	require.NoError(t, err)
	hub := follow.New(s)
	watch, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = hub.Run(watch)
	}()
	t.Cleanup(func() { stop(); <-done })
	b.config = builds.Config{Store: s, Hub: hub, Sealer: sealer}
	b.service = builds.New(b.config)
	return b
}

// with is the bed with another configuration of its service.
func (b *bed) with(change func(*builds.Config)) *builds.Service {
	config := b.config
	change(&config)
	return builds.New(config)
}

var (
	ann   = auth.Principal{Subject: "user:ann", Groups: []string{"web"}, Scopes: []string{auth.ScopeSubmit}}
	ben   = auth.Principal{Subject: "user:ben", Groups: []string{"web", "ops"}, Scopes: []string{auth.ScopeSubmit}}
	eve   = auth.Principal{Subject: "user:eve", Groups: []string{"others"}, Scopes: []string{auth.ScopeSubmit}}
	peer  = auth.Principal{Subject: "user:peer", Groups: []string{"web"}, Scopes: []string{auth.ScopeRead}}
	audit = auth.Principal{Subject: "key:audit", Scopes: []string{auth.ScopeReadAll}}
	root  = auth.Principal{Subject: "key:root", Scopes: []string{auth.ScopeAdmin}}
	none  = auth.Principal{Subject: "user:none", Groups: []string{"web"}}
)

const plain = `{"source":{"git_repo":{"url":"https://git.example.com/a.git"}},"target":{"registry":{"url":"registry.example.com"},"images":[{"image":"shop/web","tag":"v1"}]}}`

const secretive = `
source: {git_repo: {url: "https://git.example.com/a.git", username: u, password: canary-git}}
target: {registry: {url: registry.example.com, username: u, password: canary-registry}, images: [{image: shop/web, tag: v1, build_args: {NPM_TOKEN: canary-argument}}]}
options: {secrets: {a/b: canary-secret}, timeout: 30m}
`

var secretsOf = map[string]string{
	"/source/git_repo/password": "canary-git", "/target/registry/password": "canary-registry",
	"/target/images/0/build_args/NPM_TOKEN": "canary-argument", "/options/secrets/a~1b": "canary-secret",
}

func (b *bed) submit(t *testing.T, p auth.Principal, document string) store.Invocation {
	t.Helper()
	inv, created, err := b.service.Submit(t.Context(), p, builds.Request{Document: []byte(document)})
	require.NoError(t, err)
	require.True(t, created)
	return inv
}

// run is a worker that has claimed what comes next.
func (b *bed) run(t *testing.T) *worker {
	t.Helper()
	lease, err := b.store.Claim(t.Context(), "test", time.Minute, 0)
	require.NoError(t, err)
	require.NotNil(t, lease)
	return &worker{b, lease}
}

type worker struct {
	*bed
	lease *store.Lease
}

// log writes entries; their numbers are filled in.
func (w *worker) log(t *testing.T, entries ...store.LogEntry) {
	t.Helper()
	for i := range entries {
		entries[i].Seq, entries[i].Attempt = w.lease.NextSeq+int64(i), w.lease.Invocation.Attempt
	}
	require.NoError(t, w.store.AppendLog(t.Context(), w.lease, entries))
}

func (w *worker) finish(t *testing.T, outcome store.Outcome) {
	t.Helper()
	require.NoError(t, w.store.Finish(t.Context(), w.lease, outcome))
}

// epoch is when the builds of tests begin.
var epoch = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func after(seconds float64) *time.Time {
	at := epoch.Add(time.Duration(seconds * float64(time.Second)))
	return &at
}

func step(s event.Step) store.LogEntry { return entry(store.LogStep, s.ID, after(0), s) }

func note(level event.Level, text string) store.LogEntry {
	return entry(store.LogNote, "", after(0), event.Note{Level: level, Text: text})
}

func out(step string, at *time.Time, data string) store.LogEntry {
	return store.LogEntry{Kind: store.LogOut, Step: step, At: *at, Data: []byte(data)}
}

func entry(kind store.LogKind, step string, at *time.Time, v any) store.LogEntry {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return store.LogEntry{Kind: kind, Step: step, At: *at, Data: data}
}
