package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
)

// site is the API with everything below it but workers: tests do their work through the store, as workers do.
type site struct {
	t      testing.TB
	url    string
	store  *store.Store
	hub    *follow.Hub
	keys   map[string]string // by name
	routes []operation       // of the served document
}

// setup is what a test may change.
type setup struct {
	api    api.Config
	builds builds.Config
}

// callers are the names of API keys and what their owners may do.
var callers = []auth.KeyEntry{
	{Name: "alice", Scopes: []string{auth.ScopeSubmit}},
	{Name: "bob", Scopes: []string{auth.ScopeSubmit}, Groups: []string{"shop"}},
	{Name: "carol", Scopes: []string{auth.ScopeSubmit}, Groups: []string{"shop"}},
	{Name: "reader", Scopes: []string{auth.ScopeRead}},
	{Name: "admin", Scopes: []string{auth.ScopeAdmin}},
}

func start(t testing.TB, changes ...func(*setup)) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	folder := t.TempDir()
	s := &site{t: t, keys: map[string]string{}}

	var err error
	s.store, err = store.Open(ctx, store.Config{SQLite: filepath.Join(folder, "builds.db")})
	require.NoError(t, err)
	require.NoError(t, s.store.Migrate(ctx))

	entries := make([]auth.KeyEntry, len(callers))
	for i, entry := range callers {
		s.keys[entry.Name], entries[i], err = auth.NewKey(rand.Reader, entry)
		require.NoError(t, err)
	}
	file, err := yaml.Marshal(entries)
	require.NoError(t, err)
	keysFile := filepath.Join(folder, "keys.yaml")
	require.NoError(t, os.WriteFile(keysFile, file, 0o600))
	who, err := auth.New(ctx, auth.Config{APIKeysFile: keysFile})
	require.NoError(t, err)

	_, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	sealer, err := seal.NewSealer(recipient)
	require.NoError(t, err)

	s.hub = follow.New(s.store)
	running := make(chan error, 1)
	go func() { running <- s.hub.Run(ctx) }()

	c := setup{
		builds: builds.Config{Store: s.store, Hub: s.hub, Sealer: sealer},
		api:    api.Config{Auth: who, Limits: api.Limits{PerCaller: -1}, Version: "test"},
	}
	for _, change := range changes {
		change(&c)
	}
	if c.api.Builds == nil {
		c.api.Builds = builds.New(c.builds)
	}
	handler, err := api.New(c.api)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	s.url = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
		<-running
		s.store.Close()
	})
	return s
}

// plainDocument is one without secrets.
func plainDocument(image string) string {
	return fmt.Sprintf(`{"source":{"git_repo":{"url":"https://git.example.com/shop/web.git"}},
		"target":{"registry":{"url":"registry.example.com"},"images":[{"image":%q,"tag":"v1"}]}}`, image)
}

// reply is an answer that has been read.
type reply struct {
	*http.Response
	body string
}

// call sends a request of a caller ("" is nobody) and sees to it that the answer is one that the document has.
func (s *site) call(caller, method, path, body string, header ...string) reply {
	s.t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, s.url+path, from)
	require.NoError(s.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if caller != "" {
		r.Header.Set("X-API-Key", s.keys[caller])
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	s.documented(r, answer, data)
	return reply{Response: answer, body: string(data)}
}

// want is call with the status that is wanted.
func (s *site) want(status int, caller, method, path, body string, header ...string) reply {
	s.t.Helper()
	answer := s.call(caller, method, path, body, header...)
	require.Equal(s.t, status, answer.StatusCode, answer.body)
	return answer
}

// into decodes an answer.
func into[T any](t testing.TB, answer reply) (value T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(answer.body), &value), answer.body)
	return value
}

// operation is one of the served document.
type operation struct {
	path  *regexp.Regexp
	route *routers.Route
}

var braces = regexp.MustCompile(`\\\{[^}]*\\\}`)

func (s *site) operations() []operation {
	if s.routes != nil {
		return s.routes
	}
	answer, err := http.Get(s.url + "/openapi.json")
	require.NoError(s.t, err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	doc, err := openapi3.NewLoader().LoadFromData(data)
	require.NoError(s.t, err)
	for path, item := range doc.Paths.Map() {
		pattern := regexp.MustCompile("^" + braces.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+") + "$")
		for method, op := range item.Operations() {
			s.routes = append(s.routes, operation{path: pattern, route: &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op}})
		}
	}
	return s.routes
}

// documented compares an answer with the document that the service serves.
func (s *site) documented(r *http.Request, answer *http.Response, body []byte) {
	s.t.Helper()
	for _, op := range s.operations() {
		if op.route.Method != r.Method || !op.path.MatchString(r.URL.EscapedPath()) {
			continue
		}
		mediaType, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
		input := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: op.route},
			Status:                 answer.StatusCode, Header: answer.Header,
			Body: io.NopCloser(bytes.NewReader(body)),
			Options: &openapi3filter.Options{
				IncludeResponseStatus: true, MultiError: true,
				ExcludeResponseBody: !strings.HasSuffix(mediaType, "json"),
			},
		}
		require.NoError(s.t, openapi3filter.ValidateResponse(context.Background(), input), "%s %s: %d %s", r.Method, r.URL, answer.StatusCode, body)
		if len(body) > 0 {
			response := op.route.Operation.Responses.Value(fmt.Sprint(answer.StatusCode)).Value
			require.Contains(s.t, response.Content, mediaType, "%s %s: %d", r.Method, r.URL, answer.StatusCode)
		}
		return
	}
}

// submit puts a build into the queue.
func (s *site) submit(caller, body string, header ...string) api.BuildSummary {
	s.t.Helper()
	return into[api.BuildSummary](s.t, s.want(http.StatusAccepted, caller, "POST", "/v1/invocations", body, header...))
}

// claim does what a worker does that takes the next build.
func (s *site) claim() *store.Lease {
	s.t.Helper()
	lease, err := s.store.Claim(context.Background(), "test", time.Minute, 0)
	require.NoError(s.t, err)
	require.NotNil(s.t, lease, "nothing can be claimed")
	return lease
}

// log does what a worker does that has output.
func (s *site) log(lease *store.Lease, kind store.LogKind, step, data string) {
	s.t.Helper()
	entry := store.LogEntry{Seq: lease.NextSeq, Attempt: lease.Invocation.Attempt, Kind: kind, Step: step, At: time.Now(), Data: []byte(data)}
	require.NoError(s.t, s.store.AppendLog(context.Background(), lease, []store.LogEntry{entry}))
}

func (s *site) finish(lease *store.Lease, outcome store.Outcome) {
	s.t.Helper()
	require.NoError(s.t, s.store.Finish(context.Background(), lease, outcome))
}

// prefixes are addresses.
func prefixes(t testing.TB, texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		require.NoError(t, err)
		all = append(all, p)
	}
	return all
}
