package web_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/service/web"
)

// site is the web page with everything below it. Where a test has no worker, it does a worker's work itself, through the store.
type site struct {
	t        testing.TB
	url      string
	server   *httptest.Server
	store    *store.Store
	sealer   *seal.Sealer
	identity string
	builds   *builds.Service
	keys     map[string]string // by name
}

// callers are the names of API keys and what their owners may do.
func callers() []auth.KeyEntry {
	return []auth.KeyEntry{
		{Name: "alice", Scopes: []string{auth.ScopeSubmit}},
		{Name: "bob", Scopes: []string{auth.ScopeSubmit}},
		{Name: "reader", Scopes: []string{auth.ScopeReadAll}},
		{Name: "admin", Scopes: []string{auth.ScopeAdmin}},
	}
}

func start(t testing.TB, changes ...func(*builds.Config)) *site {
	t.Helper()
	return startWith(t, func(string, *auth.Config) *auth.SignIn { return nil }, changes...)
}

// startWith is start with an OpenID provider, which is told where people come from.
func startWith(t testing.TB, provider func(url string, config *auth.Config) *auth.SignIn, changes ...func(*builds.Config)) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	folder := t.TempDir()
	s := &site{t: t, keys: map[string]string{}}

	var err error
	s.store, err = store.Open(ctx, store.Config{SQLite: filepath.Join(folder, "builds.db")})
	require.NoError(t, err)
	require.NoError(t, s.store.Migrate(ctx))

	entries := callers()
	for i, entry := range entries {
		s.keys[entry.Name], entries[i], err = auth.NewKey(rand.Reader, entry)
		require.NoError(t, err)
	}
	file, err := yaml.Marshal(entries)
	require.NoError(t, err)
	keysFile := filepath.Join(folder, "keys.yaml")
	require.NoError(t, os.WriteFile(keysFile, file, 0o600))
	var recipient string
	s.identity, recipient, err = seal.GenerateKey()
	require.NoError(t, err)
	s.sealer, err = seal.NewSealer(recipient)
	require.NoError(t, err)

	hub := follow.New(s.store)
	running := make(chan error, 1)
	go func() { running <- hub.Run(ctx) }()
	config := builds.Config{Store: s.store, Hub: hub, Sealer: s.sealer}
	for _, change := range changes {
		change(&config)
	}
	s.builds = builds.New(config)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.url = "http://" + listener.Addr().String()
	authConfig := auth.Config{APIKeysFile: keysFile}
	signIn := provider(s.url, &authConfig)
	who, err := auth.New(ctx, authConfig)
	require.NoError(t, err)
	sessions, err := auth.NewSessions(who, auth.SessionsConfig{Store: s.store, PublicURL: s.url, SignIn: signIn})
	require.NoError(t, err)
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	handler, err := web.New(web.Config{Builds: s.builds, Log: s.store, Auth: sessions, Logger: logger, Version: "test", Provider: "Example Ltd"})
	require.NoError(t, err)
	s.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}}
	s.server.Start()
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
		cancel()
		<-running
		s.store.Close()
	})
	return s
}

// principal is the holder of a key.
func (s *site) principal(name string) auth.Principal {
	for _, c := range callers() {
		if c.Name == name {
			return auth.Principal{Subject: "key:" + name, Name: name, Scopes: c.Scopes}
		}
	}
	require.Fail(s.t, "there is no such caller", name)
	return auth.Principal{}
}

// submit submits a document as somebody.
func (s *site) submit(name, document string, labels map[string]string) string {
	s.t.Helper()
	inv, _, err := s.builds.Submit(s.t.Context(), s.principal(name), builds.Request{Document: []byte(document), Labels: labels})
	require.NoError(s.t, err)
	return inv.ID
}

// document builds images for platforms.
func document(images ...string) string {
	type image struct {
		Image     string   `json:"image"`
		Tag       string   `json:"tag"`
		Platforms []string `json:"platforms"`
	}
	var list []image
	for _, name := range images {
		list = append(list, image{name, "v1", []string{"linux/amd64", "linux/arm64"}})
	}
	data, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"source":{"git_repo":{"url":"https://git.example.com/shop/web.git","version":"main"}},`+
		`"target":{"registry":{"url":"registry.example.com"},"images":%s}}`, data)
}

// worker does a worker's work by hand, so that a test can stop in the middle of it.
type worker struct {
	s     *site
	lease *store.Lease
}

func (s *site) claim() *worker {
	s.t.Helper()
	lease, err := s.store.Claim(s.t.Context(), "test", time.Hour, 0)
	require.NoError(s.t, err)
	require.NotNil(s.t, lease, "something is to be done")
	return &worker{s, lease}
}

func (w *worker) append(kind store.LogKind, step string, data []byte) {
	w.s.t.Helper()
	entry := store.LogEntry{Seq: w.lease.NextSeq, Attempt: w.lease.Invocation.Attempt, Kind: kind, Step: step, At: time.Now(), Data: data}
	require.NoError(w.s.t, w.s.store.AppendLog(w.s.t.Context(), w.lease, []store.LogEntry{entry}))
}

func (w *worker) json(kind store.LogKind, step string, value any) {
	w.s.t.Helper()
	data, err := json.Marshal(value)
	require.NoError(w.s.t, err)
	w.append(kind, step, data)
}

// out is output of a step.
func (w *worker) out(step, text string) { w.s.t.Helper(); w.append(store.LogOut, step, []byte(text)) }

// step tells of a step; took is how long it took, less than 0 while it runs.
func (w *worker) step(id, group, name string, begun time.Time, took time.Duration, change ...func(*event.Step)) {
	w.s.t.Helper()
	s := event.Step{ID: id, Name: name, Group: group, Started: &begun}
	if took >= 0 {
		end := begun.Add(took)
		s.Completed = &end
	}
	for _, c := range change {
		c(&s)
	}
	w.json(store.LogStep, id, s)
}

func (w *worker) finish(o store.Outcome) {
	w.s.t.Helper()
	require.NoError(w.s.t, w.s.store.Finish(w.s.t.Context(), w.lease, o))
}

// unseal gives the document with its secrets, as a worker reads it.
func (w *worker) unseal() []byte {
	w.s.t.Helper()
	opener, err := seal.NewOpener(w.s.identity)
	require.NoError(w.s.t, err)
	document, err := opener.Open(w.lease.Invocation.ID, w.lease.Sealed)
	require.NoError(w.s.t, err)
	return document
}

func cached(s *event.Step) { s.Cached = true }

func failed(text string) func(*event.Step) { return func(s *event.Step) { s.Error = text } }
