package lifecycle_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/event"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// bed is what a build needs around it, all of it real: a registry with base images, a git server, an engine.
type bed struct {
	*testbed.Site
	registry *testbed.Registry
	git      *testbed.GitServer
	gitRoot  string
	cacheDir string
	address  string // of the engine
}

func newBed(t *testing.T, options testbed.RegistryOptions) *bed {
	t.Helper()
	site := testbed.NewSite(t, options)
	return &bed{Site: site, registry: site.Registry, git: site.Git, gitRoot: site.GitRoot, cacheDir: site.CacheDir, address: testbed.NewEngine(t)}
}

// pushBases pushes base/busybox:1 and base/other:1 for two platforms that this machine runs without emulation.
func (b *bed) pushBases(t *testing.T) {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/386"}})
	require.NoError(t, err)
}

// repository makes a git repository of files and gives its URL and commit.
func (b *bed) repository(t *testing.T, name string, files map[string]string) (url, commit string) {
	t.Helper()
	return b.Repository(t, name, mapFS(files))
}

func mapFS(files map[string]string) fs.FS {
	m := fstest.MapFS{}
	for path, text := range files {
		m[path] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return m
}

// events collects what a build tells.
type events struct {
	mu  sync.Mutex
	all []plugin.Event
}

func (e *events) add(event plugin.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

// text is everything that was told, for a search.
func (e *events) text(t *testing.T) string {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, event := range e.all {
		data, err := json.Marshal(event)
		require.NoError(t, err)
		b.Write(data)
		if event.Log != nil {
			b.Write(event.Log.Data)
		}
	}
	return b.String()
}

// create runs the operation; @REG in the document stands for the bed's registry.
func (b *bed) create(t *testing.T, ctx context.Context, document string) (*result.Result, *events, error) {
	t.Helper()
	return b.createWith(t, ctx, document, &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir})
}

func (b *bed) createWith(t *testing.T, ctx context.Context, document string, with *result.Settings) (*result.Result, *events, error) {
	t.Helper()
	settings, err := json.Marshal(with)
	require.NoError(t, err)
	seen := &events{}
	data, err := lifecycle.New("test").Execute(ctx, plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: settings,
		Inputs: json.RawMessage(strings.ReplaceAll(document, "@REG", b.registry.Host)),
	}, seen.add)
	if data == nil {
		return nil, seen, err
	}
	out := &result.Result{}
	require.NoError(t, json.Unmarshal(data, out))
	return out, seen, err
}

// otherMachine is an engine with a state of its own, empty at first.
func (b *bed) otherMachine(t *testing.T) string {
	t.Helper()
	cfg, err := testbed.EngineConfig(t.Context())
	require.NoError(t, err)
	cfg.StateDir, cfg.Idle = t.TempDir(), time.Millisecond
	lease, err := managed.Acquire(t.Context(), cfg, event.Discard)
	require.NoError(t, err)
	t.Cleanup(func() {
		lease.Release()
		require.NoError(t, managed.Stop(context.Background(), cfg))
	})
	return lease.Address
}

// pull is the image under a reference, for a platform.
func (b *bed) pull(t *testing.T, ref, os, arch string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(strings.ReplaceAll(ref, "@REG", b.registry.Host), name.Insecure) // plain http or not
	require.NoError(t, err)
	image, err := remote.Image(parsed, remote.WithPlatform(v1.Platform{OS: os, Architecture: arch}))
	require.NoError(t, err)
	return image
}

func (b *bed) tags(t *testing.T, repository string) []string { return b.Tags(t, repository) }
