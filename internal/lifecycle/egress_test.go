package lifecycle_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// guarded are the settings of a service for strangers: its own registry and git server are on loopback.
func (b *bed) guarded(allow ...string) *result.Settings {
	return &result.Settings{
		Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Force: true,
		Egress: &result.Egress{Refuse: true, Allow: allow},
	}
}

// unreachable is a server on another address of loopback. It fails the test when it is reached.
func unreachable(t *testing.T) string {
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

func TestGuardedCreate(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": twoStages, "greeting": "hello"})
	document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"}]}}`, url)
	_, _, err := b.createWith(t, t.Context(), document, b.guarded())
	require.Equal(t, fault.Denied, fault.KindOf(err))
	require.ErrorIs(t, err, egress.ErrRefused)
	_, _, err = b.createWith(t, t.Context(), document, b.guarded("nonsense"))
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	out, _, err := b.createWith(t, t.Context(), document, b.guarded("127.0.0.1"))
	require.NoError(t, err)
	require.NotEmpty(t, out.Images[0].Digest)
}

// TestGuardedEngine: what a Dockerfile would have the engine fetch is looked at as BuildKit's frontend understands it.
func TestGuardedEngine(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	secret := unreachable(t)
	host := strings.TrimPrefix(secret, "http://")
	tests := map[string]string{
		"add":              "FROM @REG/base/busybox:1\nADD " + secret + "/latest /x\n",
		"add, argument":    "FROM @REG/base/busybox:1\nARG FROM_ARG\nADD ${FROM_ARG}/latest /x\n",
		"add, assembled":   "FROM @REG/base/busybox:1\nARG A=http\nENV B=://" + host + "\nADD ${A}${B}/latest /x\n",
		"add, metadata":    "FROM @REG/base/busybox:1\nADD http://169.254.169.254/latest /x\n",
		"add, IPv6":        "FROM @REG/base/busybox:1\nADD http://[::1]:1/latest /x\n",
		"add, old form":    "FROM @REG/base/busybox:1\nADD http://127.2:" + host[strings.LastIndex(host, ":")+1:] + "/latest /x\n",
		"add, git":         "FROM @REG/base/busybox:1\nADD " + secret + "/app.git /x\n",
		"add, git scp":     "FROM @REG/base/busybox:1\nADD git@127.0.0.2:app.git /x\n",
		"in another stage": "FROM @REG/base/busybox:1 AS a\nADD " + secret + "/latest /x\nFROM @REG/base/busybox:1\nCOPY --from=a /x /x\n",
		"from":             "FROM " + host + "/base/busybox:1\n",
		"copy from":        "FROM @REG/base/busybox:1\nCOPY --from=" + host + "/base/busybox:1 /bin /x\n",
		"mount from":       "FROM @REG/base/busybox:1\nRUN --mount=from=" + host + "/base/busybox:1,target=/x true\n",
	}
	i := 0
	for name, text := range tests {
		i++
		url, _ := b.repository(t, fmt.Sprintf("app%d.git", i), map[string]string{"Dockerfile": strings.ReplaceAll(text, "@REG", b.registry.Host)})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"app","tag":"1","build_args":{"FROM_ARG":%q}}]}}`, url, secret), b.guarded("127.0.0.1"))
			require.Error(t, err)
			if name == "add, old form" {
				require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
				return
			}
			require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
			require.Contains(t, err.Error(), "this service does not connect to")
		})
	}
}

// TestGuardedCache: a build cache is read and written by the engine.
func TestGuardedCache(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	host := strings.TrimPrefix(unreachable(t), "http://")
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": twoStages, "greeting": "hello"})
	_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"}]},"options":{"cache":{"mode":"registry","ref":"%s/cache"}}}`, url, host), b.guarded("127.0.0.1"))
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.Contains(t, err.Error(), "for the build cache")
}

// TestGuardedByName: a registry by a name that may stand for another address the next time is left to our own connections.
func TestGuardedByName(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	require.NoError(t, err)
	addresses, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", name)
	require.NoError(t, err, "the host's own name is to be in /etc/hosts")
	var asked agents
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Address: net.JoinHostPort(addresses[0].Unmap().String(), "0"), Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			asked.Store(q.UserAgent(), true)
			next.ServeHTTP(w, q)
		})
	}})
	_, port, err := net.SplitHostPort(r.Host)
	require.NoError(t, err)
	b := newBed(t, testbed.RegistryOptions{})
	byName := net.JoinHostPort(name, port)
	pushNew(t, &testbed.Registry{Host: r.Host}, "", "", "base/own:1", "base/replaced:1")
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM busybox:1.36 AS a\nFROM " + byName + "/base/own:1\nCOPY --from=a /unique /other\nRUN echo made >/made\n",
	})
	settings := b.guarded("127.0.0.0/8")
	for _, a := range addresses {
		settings.Egress.Allow = append(settings.Egress.Allow, a.Unmap().String())
	}
	asked.Clear()
	document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"http://%s"},
		"images":[{"image":"app","tag":"1","bases":{"busybox:1.36":"%s/base/replaced:1"}}]}}`, url, byName, byName)
	out, _, err := b.createWith(t, t.Context(), document, settings)
	require.NoError(t, err)
	require.NotEmpty(t, out.Images[0].Digest)
	require.Contains(t, asked.all(), "image-builder")
	require.False(t, slices.ContainsFunc(asked.all(), isEngine), "%v", asked.all())

	settings.Registries = map[string]result.RegistrySettings{byName: {PlainHTTP: true}} // which is to trust it
	_, _, err = b.createWith(t, t.Context(), document, settings)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(asked.all(), isEngine), "%v", asked.all())
}

func isEngine(agent string) bool { return strings.HasPrefix(agent, "buildkit/") }

// agents are those who asked a server for something, by how they call themselves.
type agents struct{ sync.Map }

func (a *agents) all() (names []string) {
	a.Range(func(name, _ any) bool {
		names = append(names, name.(string))
		return true
	})
	return names
}
