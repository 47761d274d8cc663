package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

const (
	user   = "builder"
	canary = "Canary-9f3c/+x=" // a password that needs escaping in URLs and stands in no error
)

// newClient makes a client that knows no Docker configuration but the one that a test names.
func newClient(t *testing.T, config registry.Config) *registry.Client {
	t.Helper()
	if config.DockerConfigDir == "" {
		config.DockerConfigDir = t.TempDir()
	}
	c, err := registry.New(config)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// requireFault checks an error's kind and text, and that it gives no secret away in any form.
func requireFault(t *testing.T, err error, kind fault.Kind, texts ...string) {
	t.Helper()
	require.Error(t, err)
	f := fault.As(err)
	require.Equal(t, kind, f.Kind, "%s", err)
	for _, text := range texts {
		require.Contains(t, err.Error()+"\n"+f.Hint, text)
	}
	requireClean(t, err)
}

func requireClean(t *testing.T, err error) {
	t.Helper()
	hint := fault.As(err).Hint
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, secret := range []string{canary, "Canary-9f3c", "Bearer ey", "Basic ", "_state="} {
			require.NotContains(t, e.Error()+hint, secret)
		}
	}
}

// traffic is a middleware that records requests and may answer in place of the registry.
type traffic struct {
	// instead answers the nth request (from 1) of those that match, and returns true if it did.
	instead func(n int, w http.ResponseWriter, r *http.Request) bool
	match   func(r *http.Request) bool

	mu       sync.Mutex
	requests []string // method and path
	matched  int
}

func (tr *traffic) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		tr.requests = append(tr.requests, r.Method+" "+r.URL.Path)
		n := 0
		if tr.match != nil && tr.match(r) {
			tr.matched++
			n = tr.matched
		}
		tr.mu.Unlock()
		if n > 0 && tr.instead != nil && tr.instead(n, w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// count is how many requests began so.
func (tr *traffic) count(prefix string) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := 0
	for _, r := range tr.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func method(name, part string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == name && strings.Contains(r.URL.Path, part) }
}

func status(code int) func(int, http.ResponseWriter, *http.Request) bool {
	return func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(code)
		return true
	}
}

// newLayout writes an OCI layout with an index of images of some layers of the given size, and gives its folder and digest.
func newLayout(t *testing.T, size int64, layers int64, platforms ...v1.Platform) (dir, digest string) {
	t.Helper()
	dir = t.TempDir()
	var adds []mutate.IndexAddendum
	for _, p := range platforms {
		image, err := random.Image(size, layers)
		require.NoError(t, err)
		config, err := image.ConfigFile()
		require.NoError(t, err)
		config = config.DeepCopy()
		config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
		config.Config.Labels = map[string]string{"for": p.String()}
		image, err = mutate.ConfigFile(mutate.MediaType(image, types.OCIManifestSchema1), config)
		require.NoError(t, err)
		adds = append(adds, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &p}})
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...)
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	if len(platforms) == 1 {
		require.NoError(t, path.AppendImage(adds[0].Add.(v1.Image)))
		h, err := adds[0].Add.(v1.Image).Digest()
		require.NoError(t, err)
		return dir, h.String()
	}
	require.NoError(t, path.AppendIndex(index))
	h, err := index.Digest()
	require.NoError(t, err)
	return dir, h.String()
}

func amd64() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }
func arm64() v1.Platform { return v1.Platform{OS: "linux", Architecture: "arm64"} }

// writeDockerConfig writes a Docker configuration and gives its folder.
func writeDockerConfig(t *testing.T, config map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600))
	return dir
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(data)
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestNew(t *testing.T) {
	t.Parallel()
	_, err := registry.New(registry.Config{Host: "registry.example.com", CA: []byte("no certificate")})
	requireFault(t, err, fault.Invalid, "registry.example.com", "ca_cert")
}

func TestReferences(t *testing.T) {
	t.Parallel()
	c := newClient(t, registry.Config{})
	_, err := c.Resolve(t.Context(), "localhost:5000/Upper")
	requireFault(t, err, fault.Invalid, "localhost:5000/Upper", "lowercase")
	requireFault(t, c.CheckPush(t.Context(), "localhost:5000/a:v1"), fault.Invalid, "neither tag nor digest")
	requireFault(t, c.Tag(t.Context(), "localhost:5000/a:v1", "v2"), fault.Internal, "digest")
}

func TestNetwork(t *testing.T) {
	t.Parallel()

	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		r, err := testbed.StartRegistry(testbed.RegistryOptions{})
		require.NoError(t, err)
		require.NoError(t, r.Close())
		c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary})
		requireFault(t, c.CheckPush(t.Context(), r.Host+"/a"), fault.Unavailable, "push "+r.Host+"/a", "connection refused")
		_, err = c.Digest(t.Context(), r.Host+"/a:v1")
		requireFault(t, err, fault.Unavailable, "connection refused")
	})

	t.Run("no such host", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, registry.Config{Timeout: 5 * time.Second})
		_, err := c.Resolve(t.Context(), "registry.invalid/a:v1")
		requireFault(t, err, fault.Unavailable, "resolve registry.invalid/a:v1")
	})

	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		tr := &traffic{match: method("HEAD", "/manifests/"), instead: func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
		c := newClient(t, registry.Config{Timeout: 300 * time.Millisecond})
		_, err := c.Digest(t.Context(), r.Host+"/a:v1")
		requireFault(t, err, fault.Unavailable, "no answer within 300ms")
		require.Equal(t, 1, tr.count("HEAD"), "who waited once is not made to wait again")
	})

	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		tr := &traffic{match: method("GET", "/manifests/"), instead: func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			cancel()
			<-r.Context().Done()
			return true
		}}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
		_, err := newClient(t, registry.Config{}).Resolve(ctx, r.Host+"/a:v1")
		requireFault(t, err, fault.Cancelled, "resolve "+r.Host+"/a:v1")
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestRetries(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answer func(n int, w http.ResponseWriter, r *http.Request) bool
		tries  int
		kind   fault.Kind
		text   string
	}{
		"503 twice": {tries: 3, answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			return n <= 2 && status(503)(n, w, r)
		}},
		"429 once": {tries: 2, answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			return n == 1 && status(429)(n, w, r)
		}},
		"cut once": {tries: 2, answer: func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		}},
		"503 for good": {answer: status(503), tries: 4, kind: fault.Unavailable, text: "status 503 after 4 tries"},
		"401":          {answer: status(401), tries: 1, kind: fault.Denied, text: "without credentials"},
		"403":          {answer: status(403), tries: 1, kind: fault.Denied, text: "without credentials"},
		"404":          {answer: status(404), tries: 1, kind: fault.NotFound, text: "not found"},
		"405":          {answer: status(405), tries: 1, kind: fault.Denied, text: "status 405"},
		"413":          {answer: status(413), tries: 1, kind: fault.Denied, text: "size"},
		"400":          {answer: status(400), tries: 1, kind: fault.Invalid, text: "status 400"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &traffic{match: method("POST", "/blobs/uploads/"), instead: test.answer}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
			err := newClient(t, registry.Config{}).CheckPush(t.Context(), r.Host+"/team/app")
			if test.kind == "" {
				require.NoError(t, err)
			} else {
				requireFault(t, err, test.kind, "push "+r.Host+"/team/app", test.text)
			}
			require.Equal(t, test.tries, tr.count("POST"))
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true, Basic: map[string]string{user: canary}})
	plain := testbed.NewRegistry(t, testbed.RegistryOptions{})
	other := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true})
	tests := map[string]struct {
		config registry.Config
		kind   fault.Kind
		text   string
	}{
		"authority given":      {config: registry.Config{Host: r.Host, CA: r.CAPEM}},
		"no authority":         {config: registry.Config{Host: r.Host}, kind: fault.Invalid, text: "target.registry.ca_cert"},
		"another authority":    {config: registry.Config{Host: r.Host, CA: other.CAPEM}, kind: fault.Invalid, text: "not trusted"},
		"insecure":             {config: registry.Config{Host: r.Host, Insecure: true}},
		"plain http forced":    {config: registry.Config{Host: r.Host, PlainHTTP: true}, kind: fault.Invalid, text: "status 400"},
		"plain registry":       {config: registry.Config{Host: plain.Host}},
		"plain, insecure":      {config: registry.Config{Host: plain.Host, Insecure: true}},
		"plain, by http":       {config: registry.Config{Host: plain.Host, PlainHTTP: true}},
		"plain, with CA given": {config: registry.Config{Host: plain.Host, CA: r.CAPEM}, kind: fault.Invalid, text: "plain http"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.config.Username, test.config.Password = user, canary
			err := newClient(t, test.config).CheckPush(t.Context(), test.config.Host+"/a")
			if test.kind == "" {
				require.NoError(t, err)
				return
			}
			requireFault(t, err, test.kind, test.text)
		})
	}
}
