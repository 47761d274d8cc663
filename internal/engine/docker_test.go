package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/docker/cli/cli/config"
	docker "github.com/docker/docker/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
)

// TestFindDocker goes through the ways to say which Engine is meant. What the Engines then do is tested in package enginetest.
func TestFindDocker(t *testing.T) { // sets the environment, so that it is not parallel
	folder := t.TempDir()
	was := config.Dir()
	config.SetDir(folder)
	t.Cleanup(func() { config.SetDir(was) })
	for _, name := range []string{docker.EnvOverrideHost, contextVariable, tlsVariable, tlsVerifyVariable, certPathVariable} {
		t.Setenv(name, "")
	}
	write := func(t *testing.T, name, text string) {
		t.Helper()
		path := filepath.Join(folder, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	// As `docker context create` writes them: the folder is the name's SHA-256.
	for name, host := range map[string]string{"far": "tcp://far.example.com:2376", "near": "unix:///near.sock"} {
		meta, err := json.Marshal(map[string]any{"Name": name, "Metadata": map[string]any{},
			"Endpoints": map[string]any{"docker": map[string]any{"Host": host, "SkipTLSVerify": name == "far"}}})
		require.NoError(t, err)
		write(t, "contexts/meta/"+digest.FromString(name).Encoded()+"/meta.json", string(meta))
	}
	write(t, "config.json", `{"currentContext": "near"}`)

	tests := []struct {
		name, setting string
		env           map[string]string
		host          string
		tls, skips    bool
		problem       string
	}{
		{name: "current context", host: "unix:///near.sock"},
		{name: "DOCKER_CONTEXT", env: map[string]string{contextVariable: "far"}, host: "tcp://far.example.com:2376", tls: true, skips: true},
		{name: "default context", env: map[string]string{contextVariable: "default"}, host: docker.DefaultDockerHost},
		{name: "DOCKER_HOST before DOCKER_CONTEXT", env: map[string]string{docker.EnvOverrideHost: "unix:///env.sock", contextVariable: "far"}, host: "unix:///env.sock"},
		{name: "setting before all", setting: "unix:///set.sock", env: map[string]string{docker.EnvOverrideHost: "unix:///env.sock"}, host: "unix:///set.sock"},
		{name: "verified", setting: "tcp://a:2376", env: map[string]string{tlsVerifyVariable: "1"}, host: "tcp://a:2376", tls: true},
		{name: "unverified", setting: "tcp://a:2376", env: map[string]string{tlsVariable: "1"}, host: "tcp://a:2376", tls: true, skips: true},
		{name: "no TLS on a socket", setting: "unix:///a", env: map[string]string{tlsVerifyVariable: "1"}, host: "unix:///a"},
		{name: "no such context", env: map[string]string{contextVariable: "nowhere"}, problem: `docker context "nowhere"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			at, err := findDocker(test.setting)
			if test.problem != "" {
				require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
				require.ErrorContains(t, err, test.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.host, at.host)
			require.Equal(t, test.tls, at.tls != nil)
			if test.tls {
				require.Equal(t, test.skips, at.tls.InsecureSkipVerify)
			}
			_, err = at.client()
			require.NoError(t, err)
		})
	}
	t.Run("broken authority", func(t *testing.T) {
		write(t, "ca.pem", "no certificate")
		t.Setenv(tlsVerifyVariable, "1")
		_, err := findDocker("tcp://a:2376")
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "ca.pem")
	})
}

func TestDockerIsAway(t *testing.T) {
	t.Parallel()
	_, err := DialDocker(t.Context(), "unix://"+filepath.Join(t.TempDir(), "no.sock"))
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "no.sock")
}

// entry is an entry of an archive.
type entry struct{ name, data, link string }

func archive(t *testing.T, entries ...entry) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Size: int64(len(e.data)), Mode: 0o644}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return &b
}

func TestReadSaved(t *testing.T) {
	t.Parallel()
	configOf := func(layers ...string) string {
		image := ocispecs.Image{RootFS: ocispecs.RootFS{Type: "layers"}}
		for _, l := range layers {
			image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromString(l))
		}
		data, err := json.Marshal(image)
		require.NoError(t, err)
		return string(data)
	}
	manifest := func(config string, layers ...string) entry {
		data, err := json.Marshal([]map[string]any{{"Config": config, "Layers": layers}})
		require.NoError(t, err)
		return entry{name: "manifest.json", data: string(data)}
	}
	two := configOf("one", "two")
	blob := func(text string) string { return "blobs/sha256/" + digest.FromString(text).Encoded() }
	tests := map[string]struct {
		config  string
		entries []entry
		problem string
	}{
		"before 25": {config: two, entries: []entry{
			{name: "b/layer.tar", data: "two"}, {name: "a/", link: "x"}, {name: "a/layer.tar", data: "one"},
			{name: "c.json", data: two}, manifest("c.json", "a/layer.tar", "b/layer.tar"),
		}},
		"layer twice": {config: configOf("one", "one"), entries: []entry{
			{name: "a/layer.tar", data: "one"}, {name: "b/layer.tar", link: "../a/layer.tar"},
			{name: "c.json", data: configOf("one", "one")}, manifest("c.json", "a/layer.tar", "b/layer.tar"),
		}},
		"since 25": {config: two, entries: []entry{
			{name: blob("one"), data: "one"}, {name: blob("two"), data: "two"}, {name: blob(two), data: two},
			manifest(blob(two), blob("one"), blob("two")), {name: "index.json", data: "{}"},
		}},
		"other bytes": {config: two, problem: "belongs there", entries: []entry{
			{name: "a", data: "one"}, {name: "b", data: "three"}, {name: "c.json", data: two}, manifest("c.json", "a", "b"),
		}},
		"layer missing": {config: two, problem: "b is missing", entries: []entry{
			{name: "a", data: "one"}, {name: "c.json", data: two}, manifest("c.json", "a", "b"),
		}},
		"link to itself": {config: two, problem: "b is missing", entries: []entry{
			{name: "a", data: "one"}, {name: "b", link: "b"}, {name: "c.json", data: two}, manifest("c.json", "a", "b"),
		}},
		"other image": {config: configOf("one"), problem: "another image", entries: []entry{
			{name: "a", data: "one"}, {name: "b", data: "two"}, {name: "c.json", data: two}, manifest("c.json", "a", "b"),
		}},
		"too few layers": {config: two, problem: "1 layers", entries: []entry{
			{name: "a", data: "one"}, {name: "c.json", data: two}, manifest("c.json", "a"),
		}},
		"nothing": {config: two, problem: "manifest.json"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			saved, err := readSaved(archive(t, test.entries...), digest.FromString(test.config), t.TempDir(),
				func(diff digest.Digest) bool { return diff == digest.FromString("one") })
			if test.problem != "" {
				require.ErrorContains(t, err, test.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.config, string(saved.config))
			require.Len(t, saved.layers, 2)
			require.Equal(t, digest.FromString("one"), saved.layers[0].diff)
			if name == "since 25" {
				require.Empty(t, saved.layers[0].path, "its name told that nobody wants it")
				data, err := os.ReadFile(saved.layers[1].path)
				require.NoError(t, err)
				require.Equal(t, "two", string(data))
			}
		})
	}
}

func TestPackRewritesTimes(t *testing.T) {
	t.Parallel()
	epoch := time.Unix(1700000000, 0)
	old, late := epoch.Add(-time.Hour), epoch.Add(time.Hour)
	layer := func(at time.Time, mode int64, user string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "old", Typeflag: tar.TypeReg, ModTime: old, Mode: 0o644}))
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "new", Typeflag: tar.TypeReg, ModTime: at, Mode: mode, Uname: user}))
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "a/.wh.gone", Typeflag: tar.TypeReg, ModTime: at, Mode: mode & 0o600}))
		require.NoError(t, w.Close())
		path := filepath.Join(t.TempDir(), "layer")
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
		return path
	}
	out := &layout{dir: t.TempDir()}
	require.NoError(t, out.create())
	for _, kind := range []string{"gzip", "zstd"} {
		as := packing{kind: kind, epoch: epoch.Unix()}
		one, err := out.pack(t.Context(), layer(late, 0o644, ""), as)
		require.NoError(t, err)
		two, err := out.pack(t.Context(), layer(late.Add(time.Hour), 0o100644, "root"), as)
		require.NoError(t, err)
		require.Equal(t, one, two)
		require.FileExists(t, out.path(one.blob.Digest))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := out.pack(ended, layer(late, 0o644, ""), packing{kind: "gzip"})
	require.ErrorIs(t, err, context.Canceled)
}
