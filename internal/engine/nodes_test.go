package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/staticfs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

// The platforms that these tests build. This machine's daemons run the first two without emulation.
var (
	amd64 = platforms.MustParse("linux/amd64")
	i386  = platforms.MustParse("linux/386")
	arm64 = platforms.MustParse("linux/arm64")
)

// nodesBed is two daemons and a registry with base images.
type nodesBed struct {
	main, node string // addresses
	registry   *testbed.Registry
	client     *registry.Client
	base       engine.Override
}

func newNodesBed(t *testing.T) *nodesBed {
	t.Helper()
	b := &nodesBed{main: testbed.NewEngine(t), node: testbed.NewNode(t), registry: testbed.NewRegistry(t, testbed.RegistryOptions{})}
	bases, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{
		Platforms: []string{"linux/amd64", "linux/386", "linux/arm64"},
	})
	require.NoError(t, err)
	b.base = engine.Override{Key: "busybox", Ref: b.registry.Host + "/base/busybox:1@" + bases["base/busybox:1"]}
	b.client, err = registry.New(registry.Config{Host: b.registry.Host})
	require.NoError(t, err)
	t.Cleanup(b.client.Close)
	return b
}

func dialer(address string) func(context.Context) (engine.Engine, error) {
	return func(ctx context.Context) (engine.Engine, error) {
		eng, err := engine.Dial(ctx, "buildkit", address, engine.TLS{}, nil)
		if err != nil {
			return nil, err
		}
		return eng, nil
	}
}

// notes collects what is told to people.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) add(e event.Event) {
	if e.Note == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, e.Note.Text)
}

func (b *nodesBed) open(t *testing.T, wanted []ocispecs.Platform, change func(*engine.NodesOptions), nodes ...engine.Node) (engine.Engine, *notes) {
	t.Helper()
	said := &notes{}
	opts := engine.NodesOptions{
		Main: engine.Node{Name: "buildkit", Open: dialer(b.main)}, Nodes: nodes, Wanted: wanted, Manifests: b.client, Emit: said.add,
	}
	if change != nil {
		change(&opts)
	}
	eng, err := engine.OpenNodes(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = eng.Close() })
	return eng, said
}

// build builds a Dockerfile on an engine, from a context with one file.
func (b *nodesBed) build(t *testing.T, eng engine.Engine, said *notes, dockerfile string, v engine.Variant) (*engine.Image, error) {
	t.Helper()
	files := staticfs.NewFS()
	files.Add("file", &fstypes.Stat{Mode: 0o644, ModTime: 1}, []byte("content"))
	session, err := eng.Open(t.Context(), engine.Source{Context: files, ContextKey: t.Name(), Dockerfile: []byte(dockerfile), Credentials: nobody})
	require.NoError(t, err)
	defer session.Close()
	v.Name, v.Repository, v.Overrides = b.registry.Host+"/app:1", b.registry.Host+"/app", []engine.Override{b.base}
	epoch := time.Unix(1_700_000_000, 0)
	v.Epoch = &epoch // or equal builds would differ
	emit := event.Sink(event.Discard)
	if said != nil {
		emit = said.add
	}
	return session.Build(t.Context(), v, emit)
}

func nobody(context.Context, string) (string, string, error) { return "", "", nil }

const reproducible = "FROM busybox\nCOPY file /file\nENV A=b\n"

// TestNodesMakeTheSameIndex: what two daemons built is, byte for byte, the index that one would have made.
func TestNodesMakeTheSameIndex(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	wanted := []ocispecs.Platform{i386, amd64, arm64}
	alone, err := dialer(b.main)(t.Context())
	require.NoError(t, err)
	defer alone.Close()
	want, err := b.build(t, alone, nil, reproducible, engine.Variant{Platforms: wanted})
	require.NoError(t, err)
	wantIndex, err := b.client.Manifest(t.Context(), b.registry.Host+"/app@"+want.Digest.String())
	require.NoError(t, err)

	for name, claims := range map[string][]ocispecs.Platform{
		"one of the node's in the middle": {amd64},
		"most on the node":                {arm64, i386},
		"all on the node":                 wanted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng, _ := b.open(t, wanted, nil, engine.Node{Name: "node", Platforms: claims, Open: dialer(b.node)})
			got, err := b.build(t, eng, nil, reproducible, engine.Variant{Platforms: wanted})
			require.NoError(t, err)
			index, err := b.client.Manifest(t.Context(), b.registry.Host+"/app@"+got.Digest.String())
			require.NoError(t, err)
			require.Equal(t, string(wantIndex), string(index))
			require.Equal(t, want.Digest, got.Digest)
			require.Equal(t, want.Sources, got.Sources)

			// And as a layout, which somebody else pushes.
			dir := t.TempDir()
			got, err = b.build(t, eng, nil, reproducible, engine.Variant{Platforms: wanted, Layout: dir})
			require.NoError(t, err)
			require.Equal(t, want.Digest, got.Digest)
			left, err := filepath.Glob(filepath.Join(dir, "*"))
			require.NoError(t, err)
			require.Len(t, left, 3, "index.json, oci-layout and blobs")
			pushed, err := b.client.PushLayout(t.Context(), dir, b.registry.Host+"/layouts")
			require.NoError(t, err)
			require.Equal(t, want.Digest.String(), pushed)
		})
	}
}

// TestNodeBuildsOnePlatform: an image of one platform has no index, and the main engine is not even opened.
func TestNodeBuildsOnePlatform(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	one := []ocispecs.Platform{i386}
	alone, err := dialer(b.main)(t.Context())
	require.NoError(t, err)
	defer alone.Close()
	want, err := b.build(t, alone, nil, reproducible, engine.Variant{Platforms: one})
	require.NoError(t, err)
	eng, _ := b.open(t, one, func(o *engine.NodesOptions) {
		o.Main.Open = func(context.Context) (engine.Engine, error) { return nil, errors.New("the main engine was opened") }
	}, engine.Node{Name: "node", Platforms: one, Open: dialer(b.node)})
	got, err := b.build(t, eng, nil, reproducible, engine.Variant{Platforms: one})
	require.NoError(t, err)
	require.Equal(t, want.Digest, got.Digest)
	require.Equal(t, "buildkit", eng.Name())
}

// TestContextIsSentOnceToEachNode: as often as there are nodes that build something, however many variants there are.
func TestContextIsSentOnceToEachNode(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	wanted := []ocispecs.Platform{amd64, i386}
	eng, _ := b.open(t, wanted, nil,
		engine.Node{Name: "node", Platforms: []ocispecs.Platform{i386}, Open: dialer(b.node)},
		engine.Node{Name: "idle", Platforms: []ocispecs.Platform{arm64}, Open: dialer("tcp://127.0.0.1:1")})
	files := staticfs.NewFS()
	name := fmt.Sprint("file", time.Now().UnixNano())
	files.Add(name, &fstypes.Stat{Mode: 0o644, ModTime: 1}, []byte("content"))
	counted := &countingFS{FS: files}
	session, err := eng.Open(t.Context(), engine.Source{Context: counted, ContextKey: name, Dockerfile: []byte("FROM busybox\nARG N\nCOPY . /file$N\n"), Credentials: nobody})
	require.NoError(t, err)
	defer session.Close()
	for i := range 3 {
		_, err := session.Build(t.Context(), engine.Variant{
			Name: fmt.Sprintf("%s/app:%d", b.registry.Host, i), Repository: b.registry.Host + "/app", Platforms: wanted,
			Overrides: []engine.Override{b.base}, BuildArgs: map[string]string{"N": fmt.Sprint(i)},
		}, event.Discard)
		require.NoError(t, err)
	}
	require.Equal(t, 2, counted.opened)
}

// countingFS counts how often a file is read.
type countingFS struct {
	fsutil.FS
	mu     sync.Mutex
	opened int
}

func (c *countingFS) Open(name string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened++
	return c.FS.Open(name)
}

// TestNodeThatDoesNotAnswer: another one that claims the platform takes its place; without one, the error names it.
func TestNodeThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	const nowhere = "unix:///nowhere/buildkitd.sock"
	wanted := []ocispecs.Platform{amd64, i386}
	dead := engine.Node{Name: "node " + nowhere, Platforms: []ocispecs.Platform{i386}, Open: dialer(nowhere)}

	eng, said := b.open(t, wanted, nil, dead, engine.Node{Name: "second", Platforms: []ocispecs.Platform{i386}, Open: dialer(b.node)})
	require.Len(t, said.all, 1)
	require.Contains(t, said.all[0], nowhere)
	_, err := b.build(t, eng, said, reproducible, engine.Variant{Platforms: wanted})
	require.NoError(t, err)

	eng, _ = b.open(t, wanted, nil, dead)
	_, err = b.build(t, eng, nil, reproducible, engine.Variant{Platforms: wanted})
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	require.ErrorContains(t, err, nowhere)
	require.ErrorContains(t, err, "linux/386")

	// The main engine stands in where it is known that it can.
	eng, _ = b.open(t, wanted, func(o *engine.NodesOptions) {
		o.MayMove = func(_ context.Context, _ engine.Variant, p, _, _ ocispecs.Platform, main engine.Engine) bool {
			return main != nil && platforms.Format(p) == "linux/386"
		}
	}, dead)
	_, err = b.build(t, eng, nil, reproducible, engine.Variant{Platforms: wanted})
	require.NoError(t, err)
}

// TestBuildThatFailsOnANode is no reason to try it elsewhere.
func TestBuildThatFailsOnANode(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	wanted := []ocispecs.Platform{amd64, i386}
	eng, said := b.open(t, wanted, nil,
		engine.Node{Name: "first", Platforms: []ocispecs.Platform{i386}, Open: dialer(b.node)},
		engine.Node{Name: "second", Platforms: []ocispecs.Platform{i386}, Open: dialer(b.main)})
	_, err := b.build(t, eng, said, "FROM busybox\nARG TARGETARCH\nRUN [ $TARGETARCH = amd64 ] || exit 9\n", engine.Variant{Platforms: wanted})
	require.Equal(t, fault.BuildFailed, fault.KindOf(err))
	require.ErrorContains(t, err, "(linux/386)")
	require.ErrorContains(t, err, "exit code: 9")
	require.Empty(t, said.all)
}

// TestCachesOfNodesStandApart: each place writes a build cache of its own, and finds it again.
func TestCachesOfNodesStandApart(t *testing.T) {
	t.Parallel()
	b := newNodesBed(t)
	wanted := []ocispecs.Platform{amd64, i386}
	eng, said := b.open(t, wanted, nil, engine.Node{Name: "node", Platforms: []ocispecs.Platform{i386}, Open: dialer(b.node)})
	ref := b.registry.Host + "/app:cache-HEAD-0123"
	v := engine.Variant{
		Platforms: wanted,
		CacheTo:   []engine.Cache{{Type: "registry", Attrs: map[string]string{"ref": ref, "mode": "max"}}},
		CacheFrom: []engine.Cache{{Type: "registry", Attrs: map[string]string{"ref": ref}}},
	}
	for range 2 {
		_, err := b.build(t, eng, said, "FROM busybox\nRUN echo made >/made\n", v)
		require.NoError(t, err)
	}
	tags, err := b.client.Tags(t.Context(), b.registry.Host+"/app")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"cache-HEAD-0123", "cache-HEAD-0123_linux_386"}, tags)
	require.Equal(t, ref, v.CacheTo[0].Attrs["ref"], "the caller's own is left alone")
}
