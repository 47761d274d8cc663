package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

func entry(user, password string) string {
	return fmt.Sprintf(`{"auth":%q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// TestCredentialsForPaths: the longest path wins, in a registry's own file and in the user's; build_params go before both.
func TestCredentialsForPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{
		"r.example.com":%s,"r.example.com/team":%s,"r.example.com/team/app":%s,"https://index.docker.io/v1/":%s,"docker.io/team":%s,
		"only.example.com/team":%s,"https://old.example.com/v1/":%s}}`,
		entry("host", "p1"), entry("team", "p2"), entry("app", "p3"), entry("hub", "p4"), entry("hubteam", "p5"),
		entry("onlyteam", "p6"), entry("old", "p7")), 0o600))
	file := filepath.Join(dir, "auth.json")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `{"auths":{"r.example.com/team/lib":%s}}`, entry("lib", "p8")), 0o600))
	tests := []struct{ repository, user string }{
		{"r.example.com/other", "host"},
		{"r.example.com/team/x", "team"},
		{"r.example.com/team/app", "app"},
		{"r.example.com/team/app/deep/er", "app"},
		{"r.example.com/teamwork", "host"},
		{"r.example.com/team/lib/x", "lib"},
		{"library/alpine", "hub"},
		{"team/alpine", "hubteam"},
		{"only.example.com/team/a", "onlyteam"},
		{"only.example.com/other", ""},
		{"old.example.com/a", "old"},
		{"own.example.com/a", "params"},
	}
	for _, tt := range tests {
		t.Run(tt.repository, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, registry.Config{
				Host: "own.example.com", Username: "params", Password: "p0-secret", DockerConfigDir: dir,
				Registries: map[string]registry.Site{"r.example.com": {Credentials: file}},
			})
			same, err := c.AnswerFor(t.Context(), tt.repository)
			require.NoError(t, err)
			require.True(t, same, "the first one is what is answered")
			host, _, _ := strings.Cut(tt.repository, "/")
			if !strings.Contains(host, ".") {
				host = "registry-1.docker.io" // as containerd asks
			}
			user, _, err := c.Credentials(t.Context(), host)
			require.NoError(t, err)
			require.Equal(t, tt.user, user)
		})
	}
	c := newClient(t, registry.Config{DockerConfigDir: dir})
	for repository, want := range map[string]bool{"r.example.com/team/x": true} {
		same, err := c.AnswerFor(t.Context(), repository)
		require.NoError(t, err)
		require.Equal(t, want, same)
	}
	for repository, want := range map[string]bool{"r.example.com/team/y": true, "r.example.com/team/app": false, "r.example.com/a": false} {
		same, err := c.AnswerFor(t.Context(), repository)
		require.NoError(t, err)
		require.Equal(t, want, same, repository)
	}
}

func TestBadSites(t *testing.T) {
	t.Parallel()
	for _, site := range []registry.Site{
		{Mirrors: []string{""}}, {Mirrors: []string{"ftp://a"}}, {Mirrors: []string{"https://u:p@a.example.com"}}, {Mirrors: []string{"a b"}},
		{Mirrors: []string{"a.example.com/Capital"}}, {Mirrors: []string{"https://a.example.com?x=y"}}, {CA: []byte("no certificate")},
	} {
		_, err := registry.New(registry.Config{Registries: map[string]registry.Site{"docker.io": site}})
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", site)
	}
}

// TestMirrorOrder: mirrors are asked in their order, and one that does not answer only once.
func TestMirrorOrder(t *testing.T) {
	t.Parallel()
	var down atomic.Int32
	broken := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			down.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	}})
	denied := testbed.NewRegistry(t, testbed.RegistryOptions{Basic: map[string]string{"u": "p"}})
	empty, full := testbed.NewRegistry(t, testbed.RegistryOptions{}), testbed.NewRegistry(t, testbed.RegistryOptions{})
	digests := pushRandom(t, full, "lib/a:1", "lib/b:1")
	var warnings []string
	c := newClient(t, registry.Config{
		Registries: map[string]registry.Site{"up.invalid": {Mirrors: []string{broken.Host, denied.Host, "http://" + empty.Host + "/path", "http://" + full.Host}}},
		Emit: func(e event.Event) {
			if e.Note != nil {
				warnings = append(warnings, e.Note.Text)
			}
		},
	})
	for _, repository := range []string{"lib/a", "lib/b"} {
		for _, ref := range []string{"up.invalid/" + repository + ":1", "up.invalid/" + repository + "@" + digests[repository+":1"]} {
			found, err := c.InspectBase(t.Context(), ref, nil)
			require.NoError(t, err)
			require.Equal(t, ref, found.Ref)
			require.Equal(t, full.Host+"/"+repository+"@"+digests[repository+":1"], found.At)
		}
	}
	const tries = 4 // the one question, as often as any
	require.Equal(t, int32(tries), down.Load())
	require.Contains(t, strings.Join(warnings, "\n"), broken.Host)
	require.Contains(t, strings.Join(warnings, "\n"), denied.Host)

	_, err := c.ResolveBase(t.Context(), "up.invalid/lib/none:1")
	require.Equal(t, fault.Denied, fault.KindOf(err), "the registry is out of reach, and one mirror may have it: %v", err)
	for _, host := range []string{"up.invalid", broken.Host, denied.Host, empty.Host + "/path/lib/none:1", full.Host} {
		require.ErrorContains(t, err, host)
	}
}

// TestUntrustedMirror: a mirror that shows a certificate of nobody that we trust is no reason to go elsewhere.
func TestUntrustedMirror(t *testing.T) {
	t.Parallel()
	mirror, full := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true}), testbed.NewRegistry(t, testbed.RegistryOptions{})
	pushRandom(t, full, "lib/a:1")
	c := newClient(t, registry.Config{Registries: map[string]registry.Site{full.Host: {Mirrors: []string{mirror.Host}}}})
	_, err := c.InspectBase(t.Context(), full.Host+"/lib/a:1", nil)
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.ErrorContains(t, err, `signed by "CN=testbed authority"`)
	require.Contains(t, fault.As(err).Hint, fmt.Sprintf(`registries.%q.ca`, mirror.Host))
}

func pushRandom(t *testing.T, r *testbed.Registry, names ...string) map[string]string {
	t.Helper()
	digests := map[string]string{}
	for _, text := range names {
		index, err := random.Index(1<<20, 2, 2)
		require.NoError(t, err)
		ref, err := name.ParseReference(r.Host + "/" + text)
		require.NoError(t, err)
		require.NoError(t, remote.WriteIndex(ref, index))
		hash, err := index.Digest()
		require.NoError(t, err)
		digests[text] = hash.String()
	}
	return digests
}

// TestStore: a store gives every part of an image, whichever is asked for first, fetches each once, and begins again where a transfer breaks.
func TestStore(t *testing.T) {
	t.Parallel()
	var blobs atomic.Int32
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") && blobs.Add(1)%2 == 1 {
				w = &cutWriter{w}
			}
			next.ServeHTTP(w, q)
		})
	}})
	root := digest.Digest(pushRandom(t, r, "lib/a:1")["lib/a:1"])
	c := newClient(t, registry.Config{})
	parts := walk(t, c, r.Host+"/lib/a@"+root.String(), root, nil)
	require.Len(t, parts, 1+2*4)
	fetched := blobs.Load()
	require.Equal(t, int32(2*6), fetched, "each blob: once cut off, once whole")

	backwards, err := c.NewStore(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, backwards.Add(r.Host+"/lib/a@"+root.String()))
	for i := len(parts) - 1; i >= 0; i-- {
		require.Equal(t, parts[i].Digest, digest.FromBytes(read(t, backwards, parts[i])))
	}
	_, err = backwards.Info(t.Context(), digest.FromString("something else"))
	require.ErrorContains(t, err, "not found")
	require.Error(t, backwards.Add(r.Host+"/lib/a:1"), "a store is for pinned images")
}

// walk reads an image from its root, as a daemon does, and lists its parts.
func walk(t *testing.T, c *registry.Client, pinned string, root digest.Digest, parts []ocispecs.Descriptor) []ocispecs.Descriptor {
	t.Helper()
	store, err := c.NewStore(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, store.Add(pinned))
	info, err := store.Info(t.Context(), root)
	require.NoError(t, err)
	queue := []ocispecs.Descriptor{{Digest: root, Size: info.Size, MediaType: ocispecs.MediaTypeImageIndex}}
	for len(queue) > 0 {
		part := queue[0]
		queue = append(queue[1:], children(t, read(t, store, part), part)...)
		parts = append(parts, part)
	}
	return parts
}

func read(t *testing.T, store *registry.Store, part ocispecs.Descriptor) []byte {
	t.Helper()
	info, err := store.Info(context.WithoutCancel(t.Context()), part.Digest)
	require.NoError(t, err)
	require.Equal(t, part.Size, info.Size)
	reader, err := store.ReaderAt(t.Context(), part)
	require.NoError(t, err)
	defer reader.Close()
	var data bytes.Buffer
	_, err = io.Copy(&data, io.NewSectionReader(reader, 0, reader.Size()))
	require.NoError(t, err)
	require.Equal(t, part.Digest, digest.FromBytes(data.Bytes()))
	return data.Bytes()
}

// cutWriter ends the connection in the middle of a body.
type cutWriter struct{ http.ResponseWriter }

// Write sends half of what it is given.
func (c *cutWriter) Write(data []byte) (int, error) {
	_, _ = c.ResponseWriter.Write(data[:len(data)/2])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func children(t *testing.T, data []byte, part ocispecs.Descriptor) []ocispecs.Descriptor {
	t.Helper()
	if !strings.Contains(part.MediaType, "index") && !strings.Contains(part.MediaType, "manifest") {
		return nil
	}
	var names struct {
		Manifests []ocispecs.Descriptor
		Config    *ocispecs.Descriptor
		Layers    []ocispecs.Descriptor
	}
	require.NoError(t, json.Unmarshal(data, &names))
	all := append(names.Manifests, names.Layers...)
	if names.Config != nil {
		all = append(all, *names.Config)
	}
	return all
}
