package registry_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

func parsePlatforms(t *testing.T, names ...string) []ocispecs.Platform {
	t.Helper()
	all, err := platforms.ParseAll(names)
	require.NoError(t, err)
	return all
}

func TestInspectBases(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	digests, err := testbed.PushBases(t.Context(), r.Host, testbed.BaseOptions{Images: []testbed.BaseImage{
		{Name: "base/busybox:1"},
		{Name: "base/other:1", Files: map[string]string{"/other": "other"}, Platforms: []string{"linux/amd64", "linux/arm/v6"}},
	}})
	require.NoError(t, err)
	c := newClient(t, registry.Config{Host: r.Host})

	resolved, err := c.Resolve(t.Context(), r.Host+"/base/busybox:1")
	require.NoError(t, err)
	require.Equal(t, digests["base/busybox:1"], resolved.Digest)
	require.Equal(t, ocispecs.MediaTypeImageIndex, resolved.MediaType)

	// In another order than the index has them.
	names := []string{"linux/s390x", "linux/ppc64le", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/386", "linux/amd64"}
	image, err := c.Inspect(t.Context(), r.Host+"/base/busybox:1", parsePlatforms(t, names...))
	require.NoError(t, err)
	require.Equal(t, digests["base/busybox:1"], image.Digest)
	require.Len(t, image.Platforms, len(names))
	seen := map[string]bool{}
	for n, p := range image.Platforms {
		require.Equal(t, names[n], platforms.Format(p.Platform))
		require.Len(t, p.DiffIDs, 1)
		require.Greater(t, p.Size, int64(500_000), "a busybox program")
		seen[p.Digest], seen[p.DiffIDs[0]] = true, true
	}
	require.Len(t, seen, 2*len(names), "each platform has its own")

	other, err := c.Inspect(t.Context(), r.Host+"/base/other:1", parsePlatforms(t, "linux/amd64", "linux/arm/v7"))
	require.NoError(t, err)
	require.Equal(t, image.Platforms[6].DiffIDs, other.Platforms[0].DiffIDs[:1], "it stands on busybox")
	require.Len(t, other.Platforms[0].DiffIDs, 2)
	require.Equal(t, "linux/arm/v7", platforms.Format(other.Platforms[1].Platform), "what runs on v6 runs on v7")

	_, err = c.Inspect(t.Context(), r.Host+"/base/other:1", parsePlatforms(t, "linux/amd64", "linux/s390x", "linux/386"))
	requireFault(t, err, fault.NotFound, "image "+r.Host+"/base/other:1 has no linux/s390x, linux/386; it has linux/amd64, linux/arm/v6")
	_, err = c.Inspect(t.Context(), r.Host+"/base/other:2", nil)
	requireFault(t, err, fault.NotFound, "inspect "+r.Host+"/base/other:2", "MANIFEST_UNKNOWN")
	_, err = c.Resolve(t.Context(), r.Host+"/base/none")
	requireFault(t, err, fault.NotFound, "resolve "+r.Host+"/base/none")

	all, err := c.Inspect(t.Context(), r.Host+"/base/busybox@"+digests["base/busybox:1"], nil)
	require.NoError(t, err)
	require.Len(t, all.Platforms, 7)
}

func TestInspectSingle(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	c := newClient(t, registry.Config{})
	dir, digest := newLayout(t, 1000, 2, v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	_, err := c.PushLayout(t.Context(), dir, r.Host+"/one")
	require.NoError(t, err)
	image, err := c.Resolve(t.Context(), r.Host+"/one@"+digest)
	require.NoError(t, err)
	require.Equal(t, digest, image.Digest)
	require.Len(t, image.Platforms, 1)
	require.Equal(t, "linux/arm64", platforms.Format(image.Platforms[0].Platform))

	image, err = c.Inspect(t.Context(), r.Host+"/one@"+digest, parsePlatforms(t, "linux/arm64"))
	require.NoError(t, err)
	require.Equal(t, digest, image.Platforms[0].Digest)
	require.Len(t, image.Platforms[0].DiffIDs, 2)
	require.Equal(t, "linux/arm64/v8", image.Platforms[0].Labels["for"])
	_, err = c.Inspect(t.Context(), r.Host+"/one@"+digest, parsePlatforms(t, "linux/amd64"))
	requireFault(t, err, fault.NotFound, "has no linux/amd64; it has linux/arm64")
}

// TestInspectForeign meets what other programs put into indexes.
func TestInspectForeign(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	c := newClient(t, registry.Config{})
	attestation := v1.Platform{OS: "unknown", Architecture: "unknown"}
	dir, digest := newLayout(t, 1000, 1, v1.Platform{OS: "linux", Architecture: "386"}, attestation, v1.Platform{OS: "linux", Architecture: "arm", Variant: "v5"})
	_, err := c.PushLayout(t.Context(), dir, r.Host+"/many")
	require.NoError(t, err)
	image, err := c.Inspect(t.Context(), r.Host+"/many@"+digest, nil)
	require.NoError(t, err)
	require.Len(t, image.Platforms, 2)
	_, err = c.Inspect(t.Context(), r.Host+"/many@"+digest, parsePlatforms(t, "linux/amd64"))
	requireFault(t, err, fault.NotFound, "has no linux/amd64; it has linux/386, linux/arm/v5")
	_, err = c.Inspect(t.Context(), r.Host+"/many@"+digest, parsePlatforms(t, "linux/arm64"))
	requireFault(t, err, fault.NotFound, "has no linux/arm64")
}

func TestTagAndDigest(t *testing.T) {
	t.Parallel()
	tr := &traffic{}
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware, Tokens: &testbed.TokenOptions{Users: tokenUsers()}})
	c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary})
	repository := r.Host + "/team/app"
	first, firstDigest := newLayout(t, 1000, 1, amd64(), arm64())
	second, secondDigest := newLayout(t, 1000, 1, amd64())
	for _, dir := range []string{first, second} {
		_, err := c.PushLayout(t.Context(), dir, repository)
		require.NoError(t, err)
	}
	_, err := c.Digest(t.Context(), repository+":v1")
	requireFault(t, err, fault.NotFound, "ask for "+repository+":v1")

	for _, digest := range []string{firstDigest, secondDigest, firstDigest} { // made, moved, moved back
		require.NoError(t, c.Tag(t.Context(), repository+"@"+digest, "v1"))
		served, err := c.Digest(t.Context(), repository+":v1")
		require.NoError(t, err)
		require.Equal(t, digest, served)
	}
	missing := repository + "@sha256:" + strings.Repeat("0", 64)
	requireFault(t, c.Tag(t.Context(), missing, "v1"), fault.NotFound, "tag "+missing+" as v1")
}

// TestDigestWithoutHead asks registries that answer HEAD poorly.
func TestDigestWithoutHead(t *testing.T) {
	t.Parallel()
	answers := map[string]func(int, http.ResponseWriter, *http.Request) bool{
		"not allowed": status(http.StatusMethodNotAllowed),
		"no digest": func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", ocispecs.MediaTypeImageManifest)
			w.Header().Set("Content-Length", "3")
			return true
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &traffic{match: method("HEAD", "/manifests/"), instead: answer}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
			c := newClient(t, registry.Config{})
			dir, digest := newLayout(t, 100, 1, amd64())
			_, err := c.PushLayout(t.Context(), dir, r.Host+"/app")
			require.NoError(t, err)
			require.NoError(t, c.Tag(t.Context(), r.Host+"/app@"+digest, "v1"))
			served, err := c.Digest(t.Context(), r.Host+"/app:v1")
			require.NoError(t, err)
			require.Equal(t, digest, served)
			require.Equal(t, 1, tr.count("HEAD /v2/app/manifests"))
		})
	}
}

func TestPushLayout(t *testing.T) {
	t.Parallel()
	tr := &traffic{}
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware, Basic: map[string]string{user: canary}})
	var mu sync.Mutex
	var events []event.Event
	c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary, Emit: func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}})
	dir, digest := newLayout(t, 3<<20, 2, amd64(), arm64())
	pushed, err := c.PushLayout(t.Context(), dir, r.Host+"/app")
	require.NoError(t, err)
	require.Equal(t, digest, pushed)

	image, err := c.Inspect(t.Context(), r.Host+"/app@"+digest, nil)
	require.NoError(t, err)
	require.Len(t, image.Platforms, 2)
	require.Equal(t, 6, tr.count("PATCH"), "two images of two layers and a config")
	require.NotContains(t, get(t, "http://"+user+":"+url.QueryEscape(canary)+"@"+r.Host+"/v2/app/tags/list"), "latest", "no tag is made")

	ended := map[string]bool{}
	var moved int64
	for _, e := range events {
		switch {
		case e.Step != nil && e.Step.Completed != nil:
			require.Empty(t, e.Step.Error)
			ended["step"] = true
		case e.Progress != nil && e.Progress.Completed != nil:
			require.Equal(t, e.Progress.Total, e.Progress.Current)
			ended[e.Progress.Name] = true
			moved += e.Progress.Current
		}
	}
	require.Len(t, ended, 7)
	require.Equal(t, image.Platforms[0].Size+image.Platforms[1].Size, moved)

	_, err = c.PushLayout(t.Context(), dir, r.Host+"/app")
	require.NoError(t, err)
	require.Equal(t, 6, tr.count("PATCH"), "what is there is not sent again")
}

// TestPushLayoutFaults pushes over a registry with bad moments.
func TestPushLayoutFaults(t *testing.T) {
	t.Parallel()
	uploadPut := func(r *http.Request) bool {
		return r.Method == "PUT" && strings.Contains(r.URL.Path, "/blobs/uploads/")
	}
	once := func(code int, body string) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n != 1 {
				return false
			}
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	tests := map[string]struct {
		match   func(*http.Request) bool
		instead func(int, http.ResponseWriter, *http.Request) bool
		kind    fault.Kind
		text    string
	}{
		"HEAD 503":             {match: method("HEAD", "/blobs/"), instead: once(503, "")},
		"PATCH 502":            {match: method("PATCH", "/"), instead: once(502, "<html>")},
		"PATCH, upload lost":   {match: method("PATCH", "/"), instead: once(404, `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`)},
		"commit, mixed up":     {match: uploadPut, instead: once(400, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}`)},
		"manifest 503":         {match: method("PUT", "/manifests/"), instead: once(503, "")},
		"cut in the middle":    {match: method("PATCH", "/"), instead: cut},
		"no space":             {match: method("PATCH", "/"), instead: status(507), kind: fault.Unavailable, text: "status 507"},
		"may not write":        {match: method("POST", "/"), instead: status(403), kind: fault.Denied, text: "denies access"},
		"manifest refused":     {match: method("PUT", "/manifests/"), instead: status(400), kind: fault.Invalid, text: "status 400"},
		"body is over a limit": {match: method("PATCH", "/"), instead: status(413), kind: fault.Denied, text: "transfer of this size"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &traffic{match: test.match, instead: test.instead}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: tr.middleware})
			c := newClient(t, registry.Config{})
			dir, digest := newLayout(t, 1<<20, 1, amd64())
			pushed, err := c.PushLayout(t.Context(), dir, r.Host+"/app")
			if test.kind != "" {
				requireFault(t, err, test.kind, "push "+r.Host+"/app", test.text)
				return
			}
			require.NoError(t, err)
			require.Equal(t, digest, pushed)
			image, err := c.Inspect(t.Context(), r.Host+"/app@"+digest, nil)
			require.NoError(t, err)
			require.Equal(t, digest, image.Digest)
		})
	}
}

// cut reads some of the first body, and drops the connection.
func cut(n int, _ http.ResponseWriter, r *http.Request) bool {
	if n != 1 {
		return false
	}
	_, _ = r.Body.Read(make([]byte, 1000))
	panic(http.ErrAbortHandler)
}

func TestPushLayoutBroken(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	c := newClient(t, registry.Config{})
	push := func(t *testing.T, dir, text string) {
		t.Helper()
		_, err := c.PushLayout(within(t, 30e9), dir, r.Host+"/app")
		requireFault(t, err, fault.Internal, text)
	}
	t.Run("no folder", func(t *testing.T) { push(t, filepath.Join(t.TempDir(), "none"), "no such file") })
	t.Run("no layout", func(t *testing.T) { push(t, t.TempDir(), "index.json") })
	t.Run("two images", func(t *testing.T) {
		dir, _ := newLayout(t, 100, 1, amd64())
		editIndex(t, dir, func(index *ocispecs.Index) {
			two := index.Manifests[0]
			two.Digest = "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
			index.Manifests = append(index.Manifests, two)
		})
		push(t, dir, "more than one image")
	})
	t.Run("a blob's name leads out", func(t *testing.T) {
		dir, _ := newLayout(t, 100, 1, amd64())
		editIndex(t, dir, func(index *ocispecs.Index) { index.Manifests[0].Digest = "../../../../etc:passwd" })
		push(t, dir, "digest")
	})
	t.Run("changed manifest", func(t *testing.T) {
		dir, digest := newLayout(t, 100, 1, amd64())
		path := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, bytes.Replace(data, []byte("{"), []byte("{ "), 1), 0o600))
		push(t, dir, "another digest")
	})
	t.Run("missing layer", func(t *testing.T) {
		dir, digest := newLayout(t, 100, 1, amd64())
		for _, path := range filesIn(t, filepath.Join(dir, "blobs")) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			if !json.Valid(data) {
				require.NoError(t, os.Remove(path))
			}
		}
		push(t, dir, "no such file")
		_, err := c.Digest(t.Context(), r.Host+"/app@"+digest)
		requireFault(t, err, fault.NotFound)
	})
}

func editIndex(t *testing.T, dir string, edit func(*ocispecs.Index)) {
	t.Helper()
	path := filepath.Join(dir, ocispecs.ImageIndexFile)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var index ocispecs.Index
	require.NoError(t, json.Unmarshal(data, &index))
	edit(&index)
	data, err = json.Marshal(index)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o600))
}
