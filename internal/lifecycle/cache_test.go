package lifecycle_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// TestCache: a second machine, which is an engine with an empty state, takes the steps of the first.
func TestCache(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	second := b.otherMachine(t)
	unique := strconv.FormatInt(time.Now().UnixNano(), 36) // the tests' engine may remember an earlier run
	for _, mode := range []string{"registry", "inline"} {
		url, _ := b.repository(t, mode+".git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo ran-the-step " + mode + "; echo " + unique + " >/n\n"})
		doc := func(tag string) string {
			return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"cached-%s","tag":%q,"base":"@REG/base/busybox:1"}]},"options":{"cache":{"mode":%q}}}`, url, mode, tag, mode)
		}
		_, seen, err := b.create(t, t.Context(), doc("1"))
		require.NoError(t, err)
		require.True(t, strings.Contains(seen.text(t), "ran-the-step "+mode+"\n"), "the step runs once")
		require.False(t, strings.Contains(seen.text(t), `"warning"`), "a cache that is not there yet is no trouble")

		tag := "1"
		if mode == "registry" {
			tag = "2" // a cache of its own serves other tags too
		}
		forced := &result.Settings{Engine: "buildkit", BuildKitHost: second, CacheDir: t.TempDir(), Force: true}
		out, seen, err := b.createWith(t, t.Context(), doc(tag), forced)
		require.NoError(t, err)
		require.False(t, strings.Contains(seen.text(t), "ran-the-step "+mode+"\n"), "the step came from the cache")
		require.NotEmpty(t, out.Images[0].Digest)
	}
	var caches []string
	for _, tag := range b.tags(t, "cached-registry") {
		if strings.HasPrefix(tag, "cache-HEAD-") {
			caches = append(caches, tag)
		}
	}
	require.Len(t, caches, 1)
}

// TestBadCache: a cache that can be neither read nor written is a warning.
func TestBadCache(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo bad-cache >/n\n"})
	out, seen, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"}]},"options":{"cache":{"mode":"registry","ref":"%s/nowhere/cache"}}}`, url, closedPort(t)))
	require.NoError(t, err)
	require.NotEmpty(t, out.Images[0].Digest)
	require.Contains(t, seen.text(t), `"warning"`)
	require.Contains(t, seen.text(t), "the build goes on without it")
}

// TestCacheInOtherRegistries: a cache in a registry that is reached as only our configuration says is used where BuildKit can be told
// how, and otherwise a warning says what to do.
func TestCacheInOtherRegistries(t *testing.T) {
	t.Parallel()
	users := map[string]string{"robot": "right-pass"}
	tests := []struct {
		name    string
		options testbed.RegistryOptions
		reach   func(t *testing.T, r *testbed.Registry) result.RegistrySettings
		advice  string // of the warning; "" where the cache works
	}{
		{"plain http", testbed.RegistryOptions{Address: testbed.OutsideAddress(t)}, func(*testing.T, *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{PlainHTTP: true}
		}, ""},
		{"plain http that nobody told of", testbed.RegistryOptions{Address: testbed.OutsideAddress(t)}, func(*testing.T, *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{}
		}, "registries.HOST.plain_http"},
		{"insecure", testbed.RegistryOptions{TLS: true}, func(*testing.T, *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{Insecure: true}
		}, ""},
		{"own authority", testbed.RegistryOptions{TLS: true, Address: testbed.OutsideAddress(t)}, func(t *testing.T, r *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{CA: caFile(t, r)}
		}, "in its buildkitd.toml"},
		{"own authority on loopback", testbed.RegistryOptions{TLS: true}, func(t *testing.T, r *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{CA: caFile(t, r)}
		}, "in its buildkitd.toml"},
		{"credentials", testbed.RegistryOptions{Basic: users}, func(t *testing.T, r *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{Credentials: authFile(t, r.Host, "robot:right-pass")}
		}, ""},
		{"wrong credentials", testbed.RegistryOptions{Basic: users}, func(t *testing.T, r *testbed.Registry) result.RegistrySettings {
			return result.RegistrySettings{Credentials: authFile(t, r.Host, "robot:wrong-pass")}
		}, "one login for each registry host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.RegistryOptions{})
			b.pushBases(t)
			caches := testbed.NewRegistry(t, tt.options)
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo ran-the-step; echo " + rand.Text() + " >/n\n"})
			settings := &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Force: true,
				Registries: map[string]result.RegistrySettings{caches.Host: tt.reach(t, caches)}}
			document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"}]},"options":{"cache":{"mode":"registry","ref":"%s/caches/app"}}}`, url, caches.Host)
			_, seen, err := b.createWith(t, t.Context(), document, settings)
			require.NoError(t, err)
			require.Contains(t, seen.text(t), "ran-the-step\n", "the step runs once")
			require.NotContains(t, seen.text(t), "-pass")
			if tt.advice != "" {
				require.Contains(t, seen.text(t), `"warning"`)
				require.Contains(t, seen.text(t), tt.advice)
				return
			}
			require.NotContains(t, seen.text(t), `"warning"`)
			settings.BuildKitHost = b.otherMachine(t)
			_, seen, err = b.createWith(t, t.Context(), document, settings)
			require.NoError(t, err)
			require.NotContains(t, seen.text(t), `"warning"`)
			require.NotContains(t, seen.text(t), "ran-the-step\n", "the step came from the cache")
		})
	}
}

// authFile is a file of credentials for a registry.
func authFile(t *testing.T, host, login string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.json")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(login))), 0o600))
	return path
}

// TestPruneCache removes the caches of one scope, and then those that are old; images stay.
func TestPruneCache(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo prune " + strconv.FormatInt(time.Now().UnixNano(), 36) + " >/n\n"})
	for _, scope := range []string{"main", "pr-1", "pr-1-2", "feature/x"} {
		b.mustCreate(t, document(url, "")[:len(document(url, ""))-1]+fmt.Sprintf(`,"options":{"cache":{"mode":"registry","scope":%q}}}`, scope))
		b.deleteTag(t, "app:1") // or the next one would be unchanged
	}
	b.mustCreate(t, document(url, ""))
	require.Len(t, b.tags(t, "app"), 5)

	require.Len(t, b.prune(t, url, `"scope":"pr-1"`).Removed, 1)
	require.Len(t, b.tags(t, "app"), 4)
	require.Len(t, b.prune(t, url, `"scope":"feature/x"`).Removed, 1)
	got := b.prune(t, url, `"older_than":"1h"`)
	require.Empty(t, got.Removed)
	require.Equal(t, 2, got.Kept)
	require.Len(t, b.prune(t, url, `"older_than":"1ns"`).Removed, 2)
	require.Equal(t, []string{"1"}, b.tags(t, "app"))
}

func (b *bed) prune(t *testing.T, url, which string) result.Pruned {
	t.Helper()
	data, err := lifecycle.New("test").Execute(t.Context(), plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: lifecycle.PruneCache, WorkDir: t.TempDir(),
		Inputs: json.RawMessage(strings.ReplaceAll(`{"build_params":`+document(url, "")+","+which+"}", "@REG", b.registry.Host)),
	}, func(plugin.Event) {})
	require.NoError(t, err)
	var out result.Pruned
	require.NoError(t, json.Unmarshal(data, &out))
	return out
}

func (b *bed) deleteTag(t *testing.T, tagged string) {
	t.Helper()
	client, err := registry.New(registry.Config{Host: b.registry.Host})
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.DeleteTag(t.Context(), b.registry.Host+"/"+tagged))
}
