package lifecycle_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// requests notes what a registry is asked for.
type requests struct {
	mu  sync.Mutex
	all []string
}

func (r *requests) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.all = append(r.all, q.Method+" "+q.URL.Path)
		r.mu.Unlock()
		next.ServeHTTP(w, q)
	})
}

// count is how many requests have a text in them.
func (r *requests) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, line := range r.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// newBase is an image that no engine has seen before.
func newBase(name string) testbed.BaseImage {
	return testbed.BaseImage{Name: name, Files: map[string]string{"/unique": rand.Text()}, Platforms: []string{"linux/amd64", "linux/386"}}
}

// pushNew pushes new images to a registry that may have https, and gives their digests by name.
func pushNew(t *testing.T, r *testbed.Registry, user, password string, names ...string) map[string]string {
	t.Helper()
	options := testbed.BaseOptions{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if user != "" {
		options.Options = []remote.Option{remote.WithAuth(&authn.Basic{Username: user, Password: password})}
	}
	for _, name := range names {
		options.Images = append(options.Images, newBase(name))
	}
	digests, err := testbed.PushBases(t.Context(), r.Host, options)
	require.NoError(t, err)
	return digests
}

func caFile(t *testing.T, r *testbed.Registry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(path, r.CAPEM, 0o600))
	return path
}

// offline are two registries that do not exist: one whose images stay, one whose images are replaced.
const offline = `ARG TOOLS=tools.invalid/base/tools:1
FROM ${TOOLS} AS tools
RUN echo made >/made
FROM apps.invalid/base/app:1
COPY --from=tools /made /unique /from-tools/
COPY --from=files.invalid/base/files:1 /unique /from-files
RUN cp /unique /from-base
`

// TestMirrors: a site without internet builds what names registries that it cannot reach, by plain http, with an authority that
// only the configuration knows, and with certificates that nobody vouches for. Results name the original.
func TestMirrors(t *testing.T) {
	t.Parallel()
	open := func(*testing.T, *testbed.Registry) result.RegistrySettings { return result.RegistrySettings{} }
	trusted := func(t *testing.T, r *testbed.Registry) result.RegistrySettings {
		return result.RegistrySettings{CA: caFile(t, r)}
	}
	insecure := func(*testing.T, *testbed.Registry) result.RegistrySettings {
		return result.RegistrySettings{Insecure: true}
	}
	plain := func(*testing.T, *testbed.Registry) result.RegistrySettings {
		return result.RegistrySettings{PlainHTTP: true}
	}
	outside := testbed.OutsideAddress(t)
	tests := []struct {
		name    string
		engine  string
		options testbed.RegistryOptions
		mirror  func(t *testing.T, r *testbed.Registry) result.RegistrySettings
		through bool // its content goes through our hands
	}{
		{"plain http", "buildkit", testbed.RegistryOptions{}, open, false},
		{"plain http from outside", "buildkit", testbed.RegistryOptions{Address: outside}, plain, true},
		{"own authority", "buildkit", testbed.RegistryOptions{TLS: true}, trusted, true},
		{"insecure", "buildkit", testbed.RegistryOptions{TLS: true}, insecure, true},
		{"plain http from outside, managed", "managed", testbed.RegistryOptions{Address: outside}, plain, true},
		{"own authority, managed", "managed", testbed.RegistryOptions{TLS: true}, trusted, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.RegistryOptions{})
			asked := &requests{}
			tt.options.Middleware = asked.middleware
			mirror := testbed.NewRegistry(t, tt.options)
			digests := pushNew(t, mirror, "", "", "proxy/base/tools:1", "proxy/base/app:1", "proxy/base/files:1", "proxy/base/other:1")
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": offline})
			settings := b.on(t, tt.engine)
			settings.Registries = map[string]result.RegistrySettings{mirror.Host: tt.mirror(t, mirror)}
			for _, host := range []string{"apps.invalid", "tools.invalid", "files.invalid"} {
				settings.Registries[host] = result.RegistrySettings{Mirrors: []string{closedPort(t), mirror.Host + "/proxy"}}
			}
			document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
				{"image":"app","tag":"plain","platforms":["linux/amd64","linux/386"]},
				{"image":"app","tag":"tools","bases":{"tools.invalid/base/tools:1":"apps.invalid/base/other:1"}},
				{"image":"app","tag":"under","bases":{"apps.invalid/base/app:1":"apps.invalid/base/other:1"}}]}}`, url)
			out, seen, err := b.createWith(t, t.Context(), document, settings)
			require.NoError(t, err)
			require.Equal(t, tt.engine, out.Engine)
			require.Contains(t, seen.text(t), "asking elsewhere", "the first mirror does not answer")
			want := func(tools, app string) map[string]string {
				return map[string]string{
					"tools.invalid/base/tools:1": tools, "apps.invalid/base/app:1": app, "files.invalid/base/files:1": digests["proxy/base/files:1"],
				}
			}
			used := func(image result.ImageResult) map[string]string {
				all := map[string]string{}
				for _, base := range image.Bases {
					all[base.From] = base.Digest
				}
				return all
			}
			other := digests["proxy/base/other:1"]
			require.Equal(t, want(digests["proxy/base/tools:1"], digests["proxy/base/app:1"]), used(out.Images[0]))
			require.Equal(t, want(other, digests["proxy/base/app:1"]), used(out.Images[1]))
			require.Equal(t, want(digests["proxy/base/tools:1"], other), used(out.Images[2]))
			for _, arch := range []string{"amd64", "386"} {
				files := contents(t, b.pull(t, "@REG/app:plain", "linux", arch))
				require.Equal(t, "made\n", files["from-tools/made"])
				require.NotEqual(t, files["from-tools/unique"], files["from-base"])
				require.NotEqual(t, files["from-files"], files["from-base"])
			}
			image, err := b.pull(t, "@REG/app:plain", "linux", "amd64").ConfigFile()
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprint(image.Config.Labels), mirror.Host)

			before := asked.count("/blobs/")
			again, _, err := b.createWith(t, t.Context(), strings.ReplaceAll(document, `"image":"app"`, `"image":"again"`), settings)
			require.NoError(t, err)
			require.Equal(t, out.Images[0].Digest, again.Images[0].Digest)
			if tt.through {
				require.LessOrEqual(t, asked.count("/blobs/")-before, 24, "configs of eight images, read by us and by the daemon; no layer")
			}
		})
	}
}

// on are the settings of an engine: the tests' own by its address, or one that is started for the test.
func (b *bed) on(t *testing.T, engine string) *result.Settings {
	t.Helper()
	if engine == "buildkit" {
		return &result.Settings{Engine: engine, BuildKitHost: b.address, CacheDir: b.cacheDir}
	}
	state := t.TempDir()
	t.Cleanup(func() { require.NoError(t, managed.Stop(context.Background(), managed.Config{StateDir: state})) })
	return &result.Settings{Engine: engine, StateDir: state, IdleSeconds: 60, CacheDir: b.cacheDir}
}

// TestPlainHTTPOutside: a registry that speaks http and is not on loopback is pulled from and pushed to, when the document or the
// configuration says that it does; otherwise the error says how to.
func TestPlainHTTPOutside(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"buildkit", "managed"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.RegistryOptions{Address: testbed.OutsideAddress(t)})
			pushNew(t, b.registry, "", "", "base/one:1", "base/two:1")
			url, _ := b.repository(t, "app.git", map[string]string{
				"Dockerfile": "FROM " + b.registry.Host + "/base/one:1 AS one\nRUN cp /unique /one\nFROM busybox\nCOPY --from=one /one /\nRUN cp /unique /two\n"})
			document := func(registry string) string {
				return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":%s,
					"images":[{"image":"app","tag":"1","bases":{"busybox":"@REG/base/two:1"},"platforms":["linux/amd64","linux/386"]}]},"options":{"no_cache":true}}`, url, registry)
			}
			settings := b.on(t, engine)
			for _, registry := range []string{`{"url":"http://@REG"}`, `{"url":"@REG","insecure":true}`} {
				out, _, err := b.createWith(t, t.Context(), document(registry), settings)
				require.NoError(t, err, registry)
				require.Equal(t, engine, out.Engine)
				require.Len(t, out.Images[0].Bases, 2)
				files := contents(t, b.pull(t, "@REG/app:1", "linux", "386"))
				require.NotEmpty(t, files["one"])
				require.NotEqual(t, files["one"], files["two"])
			}
			_, _, err := b.createWith(t, t.Context(), document(`{"url":"@REG"}`), settings)
			require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
			require.ErrorContains(t, err, "speaks plain http, not https")
			settings.Registries = map[string]result.RegistrySettings{b.registry.Host: {PlainHTTP: true}}
			_, _, err = b.createWith(t, t.Context(), document(`{"url":"@REG"}`), settings)
			require.NoError(t, err)
		})
	}
}

// TestMirrorHasNot: what a mirror has not is had from the next place; where nobody has it, all of them are named.
func TestMirrorHasNot(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	empty := testbed.NewRegistry(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM " + b.registry.Host + "/base/busybox:1\nCOPY Dockerfile /\n"})
	gone, _ := b.repository(t, "gone.git", map[string]string{"Dockerfile": "FROM gone.invalid/base/busybox:1\nCOPY Dockerfile /\n"})
	settings := &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Registries: map[string]result.RegistrySettings{
		b.registry.Host: {Mirrors: []string{empty.Host}}, "gone.invalid": {Mirrors: []string{"http://" + empty.Host}},
	}}
	document := `{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[{"image":"app","tag":"1"}]}}`
	_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(document, url), settings)
	require.NoError(t, err)
	_, _, err = b.createWith(t, t.Context(), fmt.Sprintf(document, gone), settings)
	require.Error(t, err)
	require.ErrorContains(t, err, "gone.invalid")
	require.ErrorContains(t, err, empty.Host+"/base/busybox:1: not found")
}

// TestBasesOfTarget: a base from the document's own registry, which the engine's daemon cannot reach by itself.
func TestBasesOfTarget(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{TLS: true, Basic: map[string]string{"robot": "right-pass"}})
	pushNew(t, b.registry, "robot", "right-pass", "base/one:1", "base/two:1")
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM " + b.registry.Host + "/base/one:1 AS one\nRUN cp /unique /one\nFROM busybox\nCOPY --from=one /one /\nRUN cp /unique /two\n"})
	for _, trust := range []string{fmt.Sprintf(`"ca_cert":"file:%s"`, caFile(t, b.registry)), `"insecure":true`} {
		out, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG","username":"robot","password":"right-pass",%s},
			"images":[{"image":"app","tag":"1","bases":{"busybox":"@REG/base/two:1"},"platforms":["linux/amd64","linux/386"]}]},"options":{"no_cache":true}}`, url, trust))
		require.NoError(t, err, trust)
		require.Len(t, out.Images[0].Bases, 2)
		for _, base := range out.Images[0].Bases {
			require.NotEmpty(t, base.Digest)
		}
	}
}

// TestWrongAuthority: the error names the authority that was expected, and where to give it.
func TestWrongAuthority(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{TLS: true})
	other := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	for _, ca := range []string{"", fmt.Sprintf(`,"ca_cert":"file:%s"`, caFile(t, other))} {
		_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"%s},
			"images":[{"image":"a","tag":"1"}]}}`, url, ca))
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
		require.ErrorContains(t, err, `signed by "CN=testbed authority"`)
		require.Contains(t, fault.As(err).Hint, "target.registry.ca_cert")
	}
}

// TestCredentialsByPath: each repository is read and written with the credentials of the longest path that fits, though they are of one
// host, and the daemon is told only one of them.
func TestCredentialsByPath(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: map[string]testbed.TokenUser{
		"reader": {Password: "reader-pass", Access: map[string][]string{"base/*": {"pull", "push"}}},
		"writer": {Password: "writer-pass", Access: map[string][]string{"team/app": {"pull", "push"}}},
		"second": {Password: "second-pass", Access: map[string][]string{"team/other": {"pull", "push"}}},
	}}})
	pushNew(t, b.registry, "reader", "reader-pass", "base/one:1", "base/two:1")
	entry := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	path := filepath.Join(t.TempDir(), "auth.json")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q},%q:{"auth":%q},%q:{"auth":%q}}}`,
		b.registry.Host+"/base", entry("reader:reader-pass"),
		b.registry.Host+"/team", entry("writer:writer-pass"),
		b.registry.Host+"/team/other", entry("second:second-pass")), 0o600))
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM " + b.registry.Host + "/base/one:1\nRUN cp /unique /one\n"})
	settings := &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir,
		Registries: map[string]result.RegistrySettings{b.registry.Host: {Credentials: path}}}
	out, seen, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"team/app","tag":"1"},{"image":"team/other","tag":"1","base":"@REG/base/two:1"}]}}`, url), settings)
	require.NoError(t, err)
	require.Len(t, out.Images, 2)
	for _, secret := range []string{"reader-pass", "writer-pass", "second-pass"} {
		require.NotContains(t, seen.text(t), secret)
	}
	_, _, err = b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"base/new","tag":"1"},{"image":"elsewhere","tag":"1"}]}}`, url), settings)
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, b.registry.Host+"/elsewhere")
}
