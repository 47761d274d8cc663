//go:build docker

package wrapper_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestGitRepository builds a repository behind a password and pushes to a registry behind another, as two users: root, and
// somebody who owns their files alone. One secret is a variable, the other a file.
func TestGitRepository(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]int{"root": 0, "somebody": 4242} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := newPerson(t, id)
			p.env = append(p.env, "GIT_PASSWORD="+gitPassword)
			p.file(t, "private/registry", registryPassword+"\n")
			input := p.document(t, "documents/app.json", s.repository(t, "FROM busybox\nRUN echo \"$(id -u)\" >/made\n"), s.target("file:../private/registry"))
			out := p.folder(t, "out")
			if id == 0 {
				require.NoError(t, os.Chmod(out, 0o777)) // the container's user is not root
			}
			r := p.start(t, "", input, "--result-file", "out/result.json")
			require.Equal(t, fault.ExitOK, r.wait(), r.said())
			require.Equal(t, "managed", s.requireServed(t, r.stdout.Bytes()).Engine)
			file, err := os.ReadFile(filepath.Join(out, "result.json"))
			require.NoError(t, err)
			require.JSONEq(t, r.stdout.String(), string(file))
			if id != 0 {
				info, err := os.Stat(filepath.Join(out, "result.json"))
				require.NoError(t, err)
				require.EqualValues(t, id, info.Sys().(*syscall.Stat_t).Uid)
			}
			p.requireNothingLeft(t)
		})
	}
}

// TestLocalFolder builds a Dockerfile and a context of this machine, with names that want quotes, and the document from standard input too.
func TestLocalFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "REGISTRY_PASSWORD="+registryPassword)
	dockerfile := p.file(t, `recipes, old "and" new/Dockerfile`, "FROM busybox\nCOPY . /app\nRUN test \"$(cat /app/sub/file)\" = content && test ! -e /app/private\n")
	p.file(t, "context, with comma/sub/file", "content")
	p.file(t, "context, with comma/private", "")
	p.file(t, "context, with comma/.dockerignore", "private\n")
	source := map[string]any{
		"dockerfile":    map[string]any{"url": "file://" + strings.NewReplacer(" ", "%20", `"`, "%22").Replace(dockerfile)},
		"build_context": map[string]any{"path": "./context, with comma"},
	}
	input := p.document(t, "app.json", source, s.target("env:REGISTRY_PASSWORD"))
	r := p.start(t, "", "app.json", "--result-file", "result.json") // a folder to write, with what is only read below it
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	first := s.requireServed(t, r.stdout.Bytes()).Images[0]
	require.False(t, first.Unchanged)
	require.FileExists(t, filepath.Join(p.home, "result.json"))

	document, err := os.ReadFile(input)
	require.NoError(t, err)
	r = p.start(t, string(document), "-", "--set", "target.images[0].tag=2")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	second := s.requireServed(t, r.stdout.Bytes()).Images[0]
	require.True(t, strings.HasSuffix(second.Ref, "app:2"), second.Ref)
	p.requireNothingLeft(t)
}

// TestForeignPlatform: what the machine emulates is emulated in the container, which cannot see what that is.
func TestForeignPlatform(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword)
	target := s.target("env:REGISTRY_PASSWORD")
	target["images"].([]any)[0].(map[string]any)["platforms"] = []any{"linux/amd64", "linux/arm64"}
	p.document(t, "app.json", s.repository(t, "FROM busybox\nRUN uname -m >/made\n"), target)
	r := p.start(t, "", "app.json")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	require.Len(t, s.requireServed(t, r.stdout.Bytes()).Images[0].Platforms, 2)
}

// TestConfiguration: the configuration file is read, and the files that it names: here the credentials of the registry.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword)
	auth, err := json.Marshal(map[string]any{"auths": map[string]any{s.registry.Host: map[string]any{"username": registryUser, "password": registryPassword}}})
	require.NoError(t, err)
	p.file(t, "elsewhere/auth.json", string(auth))
	p.file(t, "elsewhere/config.yaml", "registries:\n  "+s.registry.Host+":\n    credentials: auth.json\n    plain_http: true\n")
	target := s.target("")
	target["registry"] = map[string]any{"url": s.registry.Host, "insecure": true}
	p.document(t, "app.json", s.repository(t, "FROM busybox\nRUN true\n"), target)
	r := p.start(t, "", "app.json", "--config", "elsewhere/config.yaml")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	s.requireServed(t, r.stdout.Bytes())

	// ~/.docker/config.json says the same.
	p.file(t, ".docker/config.json", string(auth))
	r = p.start(t, "", "app.json", "--set", "target.images[0].tag=2")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	s.requireServed(t, r.stdout.Bytes())
}

// TestExitCodes: what image-builder ends with is what the script ends with.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword)
	good := s.repository(t, "FROM busybox\nRUN echo what went wrong; exit 7\n")
	for name, test := range map[string]struct {
		args []string
		code int
		said string
	}{
		"build failed":      {[]string{"app.json"}, fault.ExitFailed, "what went wrong"},
		"a mistake":         {[]string{"app.json", "--set", "target.images[0].tagg=1"}, fault.ExitInvalid, "/target/images/0/tagg"},
		"a flag":            {[]string{"app.json", "--no-such-flag"}, fault.ExitInvalid, "--no-such-flag"},
		"no document":       {[]string{"missing.json"}, fault.ExitInvalid, "missing.json: no such file"},
		"no argument":       {nil, fault.ExitInvalid, "IMAGE_BUILDER_IMAGE"},
		"a context's root":  {[]string{"app.json", "--cache-dir", "/usr"}, fault.ExitInvalid, "/usr"},
		"no such variable":  {[]string{"app.json", "--set", "target.registry.password=env:NO_SUCH"}, fault.ExitInvalid, "NO_SUCH is not set"},
		"denied":            {[]string{"app.json", "--set", "target.registry.password=env:GIT_PASSWORD"}, fault.ExitDenied, ""},
		"nobody answers":    {[]string{"app.json", "--set", "target.registry.url=" + gateway + ":1"}, fault.ExitUnavailable, "connection refused"},
		"errors as JSON":    {[]string{"app.json", "--progress", "json", "--set", "target.images[0].tagg=1"}, fault.ExitInvalid, `"pointer":"/target/images/0/tagg"`},
		"a dry run, denied": {[]string{"app.json", "--dry-run", "--set", "target.registry.password=env:GIT_PASSWORD"}, fault.ExitDenied, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPerson(t, 4242)
			p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword)
			p.document(t, "app.json", good, s.target("env:REGISTRY_PASSWORD"))
			r := p.start(t, "", test.args...)
			require.Equal(t, test.code, r.wait(), r.said())
			require.Contains(t, r.said(), test.said)
			require.NotContains(t, r.said(), "hunter2")
			require.NotContains(t, r.stdout.String(), "digest", "no image may be told of")
			p.requireNothingLeft(t)
		})
	}
}

// TestEngineIsMissing: no Engine, no image.
func TestEngineIsMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ variable, said string }{
		"no engine":        {"DOCKER_HOST=unix:///nowhere.sock", "docker does not answer"},
		"no image":         {"IMAGE_BUILDER_IMAGE=" + gateway + ":1/image-builder:1", "there is no image"},
		"no default image": {"IMAGE_BUILDER_IMAGE=", "make images"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPerson(t, 4242)
			p.file(t, "app.json", "{}")
			p.env = append(p.env, test.variable)
			if name == "no default image" {
				docker(t, "image", "rm", "image-builder:latest")
			}
			r := p.start(t, "", "app.json")
			require.Equal(t, fault.ExitUnavailable, r.wait(), r.said())
			require.Contains(t, r.said(), test.said)
			entries, err := os.ReadDir(filepath.Join(p.home, "tmp"))
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

// TestProxy: a host that only the proxy knows is reached through it.
func TestProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var asked atomic.Int64
	proxy := serve(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		asked.Add(1)
		r.Out.URL.Host = strings.TrimPrefix(s.git, "http://")
	}})
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword, "http_proxy="+proxy, "no_proxy="+gateway)
	source := s.repository(t, "FROM busybox\nRUN true\n")
	source["git_repo"].(map[string]any)["url"] = "http://git.invalid/app.git"
	p.document(t, "app.json", source, s.target("env:REGISTRY_PASSWORD"))
	r := p.start(t, "", "app.json")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	require.Positive(t, asked.Load())
	s.requireServed(t, r.stdout.Bytes())
}

// TestSocket: with --docker-socket, the machine's Engine builds.
func TestSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword)
	p.document(t, "app.json", s.repository(t, "FROM busybox\nRUN echo by the Engine >/made\n"), s.target("env:REGISTRY_PASSWORD"))
	r := p.start(t, "", "app.json", "--docker-socket")
	require.Equal(t, fault.ExitOK, r.wait(), r.said())
	require.Equal(t, "docker", s.requireServed(t, r.stdout.Bytes()).Engine)
	p.requireNothingLeft(t)

	r = p.start(t, "", "app.json", "--engine", "docker")
	require.NotEqual(t, fault.ExitOK, r.wait(), "without --docker-socket there is no Engine for the container")
}

// TestVolume: a cache that is kept spares the second build its steps.
func TestVolume(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPerson(t, 4242)
	p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "REGISTRY_PASSWORD="+registryPassword, "IMAGE_BUILDER_VOLUME=wrapper-test")
	t.Cleanup(func() { docker(t, "volume", "rm", "wrapper-test") })
	p.document(t, "app.json", s.repository(t, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid >/made\n"), s.target("env:REGISTRY_PASSWORD"))
	var digests []string
	for range 2 {
		r := p.start(t, "", "app.json", "--force", "--set", "options.source_date_epoch=1790000000")
		require.Equal(t, fault.ExitOK, r.wait(), r.said())
		digests = append(digests, s.requireServed(t, r.stdout.Bytes()).Images[0].Digest)
	}
	require.Equal(t, digests[0], digests[1], "the step was carried out once")
	p.requireNothingLeft(t)
}

// TestBase makes the image on one from a registry, as IMAGE_BASE does: one with /usr merged, as Debian's.
func TestBase(t *testing.T) {
	t.Parallel()
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{})
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "usr/bin/", Mode: 0o755}))
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin", Linkname: "usr/bin"}))
	require.NoError(t, w.Close())
	layer := static.NewLayer(text.Bytes(), types.OCIUncompressedLayer)
	base, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	require.NoError(t, err)
	config, err := base.ConfigFile()
	require.NoError(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	base, err = mutate.ConfigFile(base, config)
	require.NoError(t, err)
	from, err := name.NewTag(registry.Host + "/debian:12")
	require.NoError(t, err)
	require.NoError(t, remote.Write(from, base))

	// Little of the image is enough to see where it stands.
	little, whole := t.TempDir(), filepath.Join(root, ".work/images-test/context")
	arch := runtime.GOARCH
	for _, part := range []string{"root/builder/" + arch + "/usr/bin", "bin/" + arch} {
		require.NoError(t, os.MkdirAll(filepath.Join(little, part), 0o755))
	}
	require.NoError(t, os.CopyFS(filepath.Join(little, "tools", arch), os.DirFS(filepath.Join(whole, "tools", arch))))
	for _, program := range []string{"root/builder/" + arch + "/usr/bin/newuidmap", "root/builder/" + arch + "/usr/bin/newgidmap",
		"bin/" + arch + "/buildkitd", "bin/" + arch + "/rootlesskit", "bin/" + arch + "/image-builder-plugin", "bin/" + arch + "/image-builder"} {
		require.NoError(t, os.WriteFile(filepath.Join(little, program), []byte("#!/bin/sh\n"), 0o755))
	}
	require.NoError(t, testbed.MakeOwnImages(t.Context(), []string{"image-builder"}, "-context", little, "-registry", registry.Host, "-prefix", "tools/", "-base", from.Name()))
	to, err := name.NewTag(registry.Host + "/tools/image-builder:test")
	require.NoError(t, err)
	image, err := remote.Image(to)
	require.NoError(t, err)
	layers, err := image.Layers()
	require.NoError(t, err)
	require.Greater(t, len(layers), 1)
	first, err := layers[0].DiffID()
	require.NoError(t, err)
	want, err := layer.DiffID()
	require.NoError(t, err)
	require.Equal(t, want, first)
}
