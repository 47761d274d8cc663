//go:build engines

package enginetest

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/contentkey"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// bed is a registry with base images, and sources.
type bed struct{ *testbed.Site }

func newBed(t *testing.T, options testbed.RegistryOptions) *bed {
	t.Helper()
	return &bed{testbed.NewSite(t, options)}
}

// files makes a git repository of files and gives its URL.
func (b *bed) files(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	m := fstest.MapFS{}
	for path, text := range files {
		m[path] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return b.tree(t, name, m)
}

func (b *bed) tree(t *testing.T, name string, files fs.FS) string {
	t.Helper()
	url, _ := b.Repository(t, name, files)
	return url
}

// heard collects what a build tells.
type heard struct {
	mu    sync.Mutex
	steps map[string]string
	notes []string
}

func (h *heard) add(event plugin.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case event.Step != nil:
		h.steps[event.Step.ID] = event.Step.Name
	case event.Note != nil:
		h.notes = append(h.notes, event.Note.Text)
	}
}

// text is everything that was told, for a search.
func (h *heard) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Concat(h.notes, slices.Collect(maps.Values(h.steps))), "\n")
}

// create builds a document; @REG in it stands for the bed's registry.
func (b *bed) create(t *testing.T, ctx context.Context, settings result.Settings, document string) (*result.Result, *heard, error) {
	t.Helper()
	return b.createWith(t, ctx, settings, document, func(plugin.Event) {})
}

func (b *bed) createWith(t *testing.T, ctx context.Context, settings result.Settings, document string, also func(plugin.Event)) (*result.Result, *heard, error) {
	t.Helper()
	settings.CacheDir = b.CacheDir
	set, err := json.Marshal(settings)
	require.NoError(t, err)
	seen := &heard{steps: map[string]string{}}
	data, err := lifecycle.New("test").Execute(ctx, plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: set,
		Inputs: json.RawMessage(strings.ReplaceAll(document, "@REG", b.Registry.Host)),
	}, func(e plugin.Event) {
		seen.add(e)
		also(e)
	})
	if data == nil {
		return nil, seen, err
	}
	out := &result.Result{}
	require.NoError(t, json.Unmarshal(data, out))
	return out, seen, err
}

// look is an image for a platform as two engines must agree on it: what its layers change, and its config. Times are left
// out, as they are those of the build.
type look struct {
	layers []map[string]string // path → what it becomes
	config string              // JSON
}

// gone is what a path becomes that a layer removes.
const gone = "gone"

func (b *bed) look(t *testing.T, pinned, platform string) look {
	t.Helper()
	ref, err := name.ParseReference(pinned)
	require.NoError(t, err)
	p := platforms.MustParse(platform)
	image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}))
	require.NoError(t, err)
	manifest, err := image.Manifest()
	require.NoError(t, err)
	require.Equal(t, owner, manifest.Annotations[contentkey.OwnerLabel])
	var l look
	layers, err := image.Layers()
	require.NoError(t, err)
	below := map[string]string{}
	for _, layer := range layers {
		changes := contents(t, layer)
		// A layer may name a folder just because something in it changes.
		maps.DeleteFunc(changes, func(path, what string) bool { return below[path] == what })
		maps.Copy(below, changes)
		l.layers = append(l.layers, changes)
	}
	raw, err := image.RawConfigFile()
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal(raw, &config))
	delete(config, "created")
	delete(config, "rootfs")
	history, _ := config["history"].([]any)
	for _, h := range history {
		delete(h.(map[string]any), "created")
	}
	text, err := json.MarshalIndent(config, "", " ")
	require.NoError(t, err)
	l.config = string(text)
	return l
}

// requireSame compares what two engines made of an image. stubs allows what Engines of old leave: an empty folder at the
// place of each mount of a RUN.
func requireSame(t *testing.T, want, got look, stubs bool) {
	t.Helper()
	require.Equal(t, want.config, got.config)
	require.Len(t, got.layers, len(want.layers))
	for i := range want.layers {
		var differences []string
		for path := range merged(want.layers[i], got.layers[i]) {
			w, g := want.layers[i][path], got.layers[i][path]
			if w != g && !(stubs && w == "" && strings.HasPrefix(g, "5 755 0:0")) {
				differences = append(differences, fmt.Sprintf("%s: want %q, got %q", path, w, g))
			}
		}
		slices.Sort(differences)
		require.Empty(t, differences[:min(len(differences), 20)], "layer %d", i)
	}
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// contents lists what a layer says.
func contents(t *testing.T, layer v1.Layer) map[string]string {
	t.Helper()
	stream, err := layer.Uncompressed()
	require.NoError(t, err)
	defer stream.Close()
	files := map[string]string{}
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		full := path.Clean("/" + h.Name)
		if removed, ok := strings.CutPrefix(path.Base(full), ".wh."); ok {
			files[path.Join(path.Dir(full), removed)] = gone
			continue
		}
		sum := sha256.New()
		_, err = io.Copy(sum, archive)
		require.NoError(t, err)
		extended := maps.Clone(h.PAXRecords)
		maps.DeleteFunc(extended, func(key, _ string) bool { return !strings.HasPrefix(key, "SCHILY.xattr.") })
		files[full] = fmt.Sprintf("%c %o %d:%d %d %s %s %v",
			h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Size, h.Linkname, hex.EncodeToString(sum.Sum(nil))[:16], extended)
	}
}

// TestMain keeps the tests away from the configuration of whoever runs them, and lets the test binary be the supervisor of the
// managed engine, as the plugin is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lifecycle.SupervisorCommand {
		os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start Docker Engines, which takes root")
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		panic(err)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	root, err := testbed.RepoRoot()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "engine-test-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for name, value := range map[string]string{
		"DOCKER_CONFIG": dir, "DOCKER_HOST": "", "DOCKER_CONTEXT": "", "DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": "",
		"PATH": filepath.Join(root, "bin") + ":" + os.Getenv("PATH"), // buildkitd is there
	} {
		if err := os.Setenv(name, value); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}
