package auth_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// clock goes as fast as the machine's, and forward when told to.
type clock struct {
	mu     sync.Mutex
	ahead  time.Duration
	frozen time.Time // where it stands still
}

func frozen() *clock { return &clock{frozen: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frozen.IsZero() {
		return c.frozen.Add(c.ahead)
	}
	return time.Now().Add(c.ahead)
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newAuthenticator(t *testing.T, config auth.Config) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(t.Context(), config)
	require.NoError(t, err)
	return a
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/status/1", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func withKey(key string) *http.Request     { return request("X-API-Key", key) }
func withToken(token string) *http.Request { return request("Authorization", "Bearer "+token) }
func logger(b *buffer) *slog.Logger        { return slog.New(slog.NewTextHandler(b, nil)) }
func kindOf(_ any, err error) fault.Kind   { return fault.KindOf(err) }
func errorOf(_ any, err error) error       { return err }
func scopesOf(p auth.Principal) []string   { return p.Scopes }
func requireDenied(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	require.Equal(t, fault.Denied, fault.KindOf(err))
}

func TestNobodyConfiguredMeansNobodyGetsIn(t *testing.T) {
	t.Parallel()
	var log buffer
	a := newAuthenticator(t, auth.Config{Logger: logger(&log)})
	require.False(t, a.Configured())
	require.Contains(t, log.String(), "nobody is let in")
	for _, r := range []*http.Request{request(), withKey("0123456789012345678901234567890123456789"), withToken("abc"), withToken("a.b.c"), withKey("")} {
		p, err := a.Authenticate(r)
		require.Equal(t, fault.Denied, fault.KindOf(err))
		require.Empty(t, p)
		require.NotEmpty(t, a.Challenge(err), "a 401 without WWW-Authenticate is none")
	}
	require.ErrorIs(t, errorOf(a.Authenticate(request())), auth.ErrNoCredentials)
}

func TestScopes(t *testing.T) {
	t.Parallel()
	all := []string{auth.ScopeSubmit, auth.ScopeRead, auth.ScopeReadAll, auth.ScopeAdmin}
	for _, c := range []struct {
		has string
		may []string
	}{
		{auth.ScopeSubmit, []string{auth.ScopeSubmit, auth.ScopeRead}},
		{auth.ScopeRead, []string{auth.ScopeRead}},
		{auth.ScopeReadAll, []string{auth.ScopeRead, auth.ScopeReadAll}},
		{auth.ScopeAdmin, all},
		{"email", nil},
	} {
		var may []string
		for _, scope := range append(all, "email", "") {
			if (auth.Principal{Subject: "key:a", Scopes: []string{c.has}}).May(scope) {
				may = append(may, scope)
			}
			require.False(t, auth.Principal{Scopes: []string{c.has}}.May(scope), "nobody may do anything")
		}
		require.Equal(t, c.may, may, c.has)
	}
	require.False(t, auth.Principal{Subject: "key:a", Groups: []string{""}}.InGroup(""), "what belongs to no group is no group's")
	_, known := auth.FromContext(t.Context())
	require.False(t, known)
	p, known := auth.FromContext(auth.ContextWith(t.Context(), auth.Principal{Subject: "key:a"}))
	require.True(t, known)
	require.Equal(t, "key:a", p.Subject)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	const key = "k-0123456789-0123456789"
	a := newAuthenticator(t, auth.Config{APIKey: key})
	for name, r := range map[string]*http.Request{
		"two keys":       request("X-API-Key", key, "X-API-Key", key),
		"empty":          withKey(""),
		"long":           withKey(string(bytes.Repeat([]byte("x"), 600))),
		"wrong":          withKey(key + "x"),
		"basic":          request("Authorization", "Basic YTpi"),
		"two tokens":     request("Authorization", "Bearer a", "Authorization", "Bearer b"),
		"empty token":    request("Authorization", "Bearer "),
		"scheme only":    request("Authorization", "Bearer"),
		"control":        request("Authorization", "Bearer a\x01b"),
		"long token":     withToken(string(bytes.Repeat([]byte("x"), 20_000))),
		"as a parameter": withToken(key),
	} {
		p, err := a.Authenticate(r)
		require.ErrorIs(t, err, auth.ErrBadCredentials, name)
		require.Equal(t, fault.Denied, fault.KindOf(err), name)
		require.Empty(t, p, name)
		require.NotContains(t, err.Error(), key, name)
	}
	r := httptest.NewRequest(http.MethodGet, "/status/1?X-API-Key="+key+"&access_token="+key, nil)
	require.ErrorIs(t, errorOf(a.Authenticate(r)), auth.ErrNoCredentials, "addresses are logged: no key is taken from there")
	p, err := a.Authenticate(request("X-API-Key", key, "Authorization", "Basic YTpi"))
	require.NoError(t, err, "a proxy in front may have its own Authorization")
	require.Equal(t, "key:default", p.Subject)
	require.Equal(t, []string{`ApiKey realm="image-builder", header="X-API-Key"`}, a.Challenge(err))
}
