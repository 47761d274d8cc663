package registry_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

// TestDeleteTag removes one of two tags of a manifest: the other one still pulls.
func TestDeleteTag(t *testing.T) {
	t.Parallel()
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	client, err := registry.New(registry.Config{Host: server.Host, DockerConfigDir: t.TempDir()})
	require.NoError(t, err)
	defer client.Close()
	pushTwice(t, server, client)
	tags, err := client.Tags(t.Context(), server.Host+"/app")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"one", "two"}, tags)
	require.NoError(t, client.DeleteTag(t.Context(), server.Host+"/app:one"))
	tags, err = client.Tags(t.Context(), server.Host+"/app")
	require.NoError(t, err)
	require.Equal(t, []string{"two"}, tags)
	_, err = client.Resolve(t.Context(), server.Host+"/app:two")
	require.NoError(t, err)
	require.Equal(t, fault.NotFound, fault.KindOf(client.DeleteTag(t.Context(), server.Host+"/app:one")))
	_, err = client.Tags(t.Context(), server.Host+"/nothing")
	require.Equal(t, fault.NotFound, fault.KindOf(err), "%v", err)
}

// undeletable is a registry that answers to some deletions as older ones do.
func undeletable(t *testing.T, tags, digests *atomic.Int32) *testbed.Registry {
	t.Helper()
	return testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status := int32(0)
			if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/manifests/") {
				if status = tags.Load(); strings.Contains(r.URL.Path, "/manifests/sha256:") {
					status = digests.Load()
				}
			}
			if status == 0 {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(int(status))
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`))
		})
	}})
}

// TestDeleteTagOfOlderRegistries: some remove digests alone, some nothing.
func TestDeleteTagOfOlderRegistries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tags, digests int32
		kind          fault.Kind
	}{
		"distribution 2":                      {http.StatusBadRequest, 0, ""},
		"no tags":                             {http.StatusMethodNotAllowed, 0, ""},
		"nothing":                             {http.StatusMethodNotAllowed, http.StatusMethodNotAllowed, fault.Denied},
		"distribution 2 without deletion":     {http.StatusBadRequest, http.StatusMethodNotAllowed, fault.Denied},
		"not for us":                          {http.StatusForbidden, http.StatusForbidden, fault.Denied},
		"tags not by name, digests not by us": {http.StatusMethodNotAllowed, http.StatusForbidden, fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tags, digests atomic.Int32
			server := undeletable(t, &tags, &digests)
			client, err := registry.New(registry.Config{Host: server.Host, DockerConfigDir: t.TempDir()})
			require.NoError(t, err)
			defer client.Close()
			before := pushTwice(t, server, client)
			tags.Store(c.tags)
			digests.Store(c.digests)

			err = client.DeleteTag(t.Context(), server.Host+"/app:one")
			require.Equal(t, c.kind, fault.KindOf(err), "%v", err)
			if err == nil {
				require.Equal(t, fault.NotFound, fault.KindOf(client.DeleteTag(t.Context(), server.Host+"/app:one")))
			} else {
				require.NotEmpty(t, fault.As(err).Hint)
				after, err := client.Digest(t.Context(), server.Host+"/app:one")
				require.NoError(t, err)
				require.Equal(t, before, after, "the tag stands as it stood")
			}
			after, err := client.Digest(t.Context(), server.Host+"/app:two")
			require.NoError(t, err)
			require.Equal(t, before, after)
		})
	}
}

// TestDeleteTagHalfWay: a registry that changes its mind in the middle leaves the tag what it was.
func TestDeleteTagHalfWay(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && (!strings.Contains(r.URL.Path, "/manifests/sha256:") || asked.Add(1) > 1) {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	client, err := registry.New(registry.Config{Host: server.Host, DockerConfigDir: t.TempDir()})
	require.NoError(t, err)
	defer client.Close()
	before := pushTwice(t, server, client)
	require.Error(t, client.DeleteTag(t.Context(), server.Host+"/app:one"))
	require.Greater(t, asked.Load(), int32(1))
	after, err := client.Digest(t.Context(), server.Host+"/app:one")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// pushTwice pushes an image under two tags and gives its digest.
func pushTwice(t *testing.T, server *testbed.Registry, client *registry.Client) string {
	t.Helper()
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	for _, tag := range []string{"one", "two"} {
		ref, err := name.ParseReference(server.Host + "/app:" + tag)
		require.NoError(t, err)
		require.NoError(t, remote.Write(ref, image))
	}
	digest, err := client.Digest(t.Context(), server.Host+"/app:one")
	require.NoError(t, err)
	return digest
}
