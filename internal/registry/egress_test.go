package registry_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

func guard(t *testing.T, allow ...string) *egress.Guard {
	t.Helper()
	prefixes, err := egress.Parse(allow)
	require.NoError(t, err)
	return egress.New(true, prefixes)
}

// inside is a server on an address that is not allowed. It fails the test when it is reached.
func inside(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	require.NoError(t, err)
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("reached: %s %s", r.Method, r.URL)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func requireRefused(t *testing.T, err error, texts ...string) {
	t.Helper()
	requireFault(t, err, fault.Denied, append(texts, "this service does not connect to", "--allow-egress")...)
	require.ErrorIs(t, err, egress.ErrRefused)
}

func TestGuardedRegistry(t *testing.T) {
	t.Parallel()
	tr := &traffic{}
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
	_, port, err := net.SplitHostPort(r.Host)
	require.NoError(t, err)
	for _, host := range []string{r.Host, "127.0.0.1:" + port, "[::1]:" + port, "169.254.169.254", "10.0.0.1:5000", "[fd00:ec2::254]:80"} {
		c := newClient(t, registry.Config{Host: host, PlainHTTP: true, Egress: guard(t)})
		requireRefused(t, c.CheckPush(t.Context(), host+"/app"), "connect to "+host, "for the registry "+host)
		_, err := c.ResolveBase(t.Context(), host+"/base/busybox:1")
		requireRefused(t, err)
		_, err = c.Digest(t.Context(), host+"/app:1")
		requireRefused(t, err)
		requireRefused(t, c.DeleteTag(t.Context(), host+"/app:1"))
	}
	require.Empty(t, tr.requests)
	c := newClient(t, registry.Config{Host: r.Host, Egress: guard(t, "127.0.0.0/8", "::1")})
	require.NoError(t, c.CheckPush(t.Context(), r.Host+"/app"))
}

// TestGuardedTokenService: a registry that may be reached names a token service that may not.
func TestGuardedTokenService(t *testing.T) {
	t.Parallel()
	secret := inside(t)
	for _, realm := range []string{secret + "/token", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/token", "http://[fd00:ec2::254]/token"} {
		tr := &traffic{match: func(*http.Request) bool { return true }, instead: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
		c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary, Egress: guard(t, "127.0.0.1")})
		requireRefused(t, c.CheckPush(t.Context(), r.Host+"/app"))
		_, err := c.ResolveBase(t.Context(), r.Host+"/app:1")
		requireRefused(t, err)
	}
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}})
	c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary, Egress: guard(t, "127.0.0.1")})
	require.NoError(t, c.CheckPush(t.Context(), r.Host+"/team/app"))
}

// TestGuardedRedirects: a registry sends readers and writers of blobs elsewhere.
func TestGuardedRedirects(t *testing.T) {
	t.Parallel()
	secret := inside(t)
	for _, to := range []string{secret, "http://169.254.169.254", "http://[::ffff:169.254.169.254]"} {
		tr := &traffic{match: func(r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/blobs/") || strings.Contains(r.URL.Path, "/manifests/")
		}, instead: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to+"/v2/x", http.StatusTemporaryRedirect)
			return true
		}}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
		c := newClient(t, registry.Config{Host: r.Host, Egress: guard(t, "127.0.0.1")})
		requireRefused(t, c.CheckPush(t.Context(), r.Host+"/app"))
		_, err := c.ResolveBase(t.Context(), r.Host+"/app:1")
		require.Error(t, err) // go-containerregistry follows no such redirect either
	}
}

// TestGuardedMirror: a mirror that may not be reached is one that does not answer.
func TestGuardedMirror(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), r.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	c := newClient(t, registry.Config{Host: r.Host, Egress: guard(t, "127.0.0.1"), Registries: map[string]registry.Site{
		r.Host: {Mirrors: []string{inside(t)}},
	}})
	found, err := c.ResolveBase(t.Context(), r.Host+"/base/busybox:1")
	require.NoError(t, err)
	require.Contains(t, found.At, r.Host)
}
