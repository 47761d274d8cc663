package lifecycle_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// TestUnchanged goes through the ways in which the inputs of an image change, and do not.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM busybox\nARG A\nCOPY . /app/\n", ".dockerignore": "notes\n", "code": "1", "notes": "1", "docs/readme": "1",
	})
	commit := func(files map[string]string) {
		_, err := testbed.CommitTo(filepath.Join(b.gitRoot, "app.git"), testbed.GitCommit{Files: mapFS(files)})
		require.NoError(t, err)
	}
	doc := document(url, "")
	first := b.mustCreate(t, doc)
	require.False(t, first.Unchanged)

	again := b.mustCreate(t, doc)
	require.True(t, again.Unchanged)
	require.Equal(t, first.Digest, again.Digest)
	require.Equal(t, first.Platforms, again.Platforms)
	require.Equal(t, first.Bases, again.Bases)
	require.Zero(t, again.Times.Build)

	commit(map[string]string{"notes": "2"})
	require.True(t, b.mustCreate(t, doc).Unchanged, "the build does not see what is ignored")
	commit(map[string]string{"code": "2"})
	require.False(t, b.mustCreate(t, doc).Unchanged, "a file has changed")
	require.True(t, b.mustCreate(t, doc).Unchanged)
	commit(map[string]string{".dockerignore": "nothing\n"})
	require.False(t, b.mustCreate(t, doc).Unchanged, "the ignore file has changed")

	for what, more := range map[string]string{
		"an argument": `,"build_args":{"A":"1"}`, "a label": `,"labels":{"l":"1"}`, "a platform": `,"platforms":["linux/amd64","linux/386"]`,
	} {
		require.False(t, b.mustCreate(t, document(url, more)).Unchanged, what)
		require.True(t, b.mustCreate(t, document(url, more)).Unchanged, what)
		require.False(t, b.mustCreate(t, doc).Unchanged, "and back")
	}
	forced := b.createForced(t, doc)
	require.False(t, forced.Unchanged)
	require.True(t, b.mustCreate(t, doc).Unchanged)
}

// TestMovedBase: the tag of a base names another image than before.
func TestMovedBase(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	// once by override, once as the Dockerfile names it
	override, _ := b.repository(t, "override.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n"})
	own, _ := b.repository(t, "own.git", map[string]string{"Dockerfile": "FROM " + b.registry.Host + "/base/busybox:1\nCOPY . /app/\n"})
	for from, doc := range map[string]string{
		"busybox": document(override, ""),
		b.registry.Host + "/base/busybox:1": fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"own","tag":"1"}]}}`, own),
	} {
		before := b.mustCreate(t, doc)
		b.retag(t, "base/other:1", "base/busybox:1")
		after := b.mustCreate(t, doc)
		require.False(t, after.Unchanged)
		require.Equal(t, []result.MovedBase{{From: from, Old: before.Bases[0].Digest, New: after.Bases[0].Digest}}, after.Moved)
		require.NotEqual(t, before.Bases[0].Digest, after.Bases[0].Digest)
		require.Equal(t, "other", contents(t, b.pull(t, after.Ref, "linux", "amd64"))["other"])
		again := b.mustCreate(t, doc)
		require.True(t, again.Unchanged)
		require.Empty(t, again.Moved)
		b.pushBases(t)
	}
}

// TestReproducible: two engines that have never heard of each other give the same digest.
func TestReproducible(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN date +%s%N >/dev/null; touch /made; mkdir -p /a/b\nCOPY . /app/\n"})
	digests := map[string]bool{}
	for tag, address := range map[string]string{"1": b.address, "2": b.otherMachine(t)} {
		doc := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"repro","tag":%q,"base":"@REG/base/busybox:1"}]},"options":{"source_date_epoch":"commit","no_cache":true}}`, url, tag)
		out, _, err := b.createWith(t, t.Context(), doc, &result.Settings{Engine: "buildkit", BuildKitHost: address, CacheDir: b.cacheDir})
		require.NoError(t, err)
		digests[out.Images[0].Digest] = true
	}
	require.Len(t, digests, 1)
}

func TestCompression(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	for _, kind := range []string{"gzip", "zstd"} {
		url, _ := b.repository(t, kind+".git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /" + kind + "\n"})
		b.mustCreate(t, fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"compressed","tag":%q,"base":"@REG/base/busybox:1"}]},"options":{"compression":%q,"compression_level":2}}`, url, kind, kind))
		manifest, err := b.pull(t, "@REG/compressed:"+kind, "linux", "amd64").Manifest()
		require.NoError(t, err)
		last := manifest.Layers[len(manifest.Layers)-1]
		require.True(t, strings.HasSuffix(string(last.MediaType), kind), last.MediaType)
	}
}

func (b *bed) mustCreate(t *testing.T, document string) result.ImageResult {
	t.Helper()
	out, _, err := b.create(t, t.Context(), document)
	require.NoError(t, err)
	require.Len(t, out.Images, 1)
	return out.Images[0]
}

func (b *bed) createForced(t *testing.T, document string) result.ImageResult {
	t.Helper()
	out, _, err := b.createWith(t, t.Context(), document, &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Force: true})
	require.NoError(t, err)
	return out.Images[0]
}

// retag makes a tag name what another one names.
func (b *bed) retag(t *testing.T, from, to string) {
	t.Helper()
	source, err := name.ParseReference(b.registry.Host + "/" + from)
	require.NoError(t, err)
	index, err := remote.Index(source)
	require.NoError(t, err)
	target, err := name.ParseReference(b.registry.Host + "/" + to)
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(target, index))
}

// TestBuiltOnOurs: somebody builds on our image and puts what comes of it under our tag. It has inherited all of our labels.
func TestBuiltOnOurs(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n", "code": "1"})
	doc := document(url, "")
	first := b.mustCreate(t, doc)
	ours := b.pull(t, first.Ref, "linux", "amd64")
	config, err := ours.ConfigFile()
	require.NoError(t, err)
	layers, err := ours.Layers()
	require.NoError(t, err)

	theirs, err := mutate.AppendLayers(empty.Image, append(layers, layers[0])...)
	require.NoError(t, err)
	built, err := theirs.ConfigFile()
	require.NoError(t, err)
	built.Config, built.OS, built.Architecture = config.Config, config.OS, config.Architecture
	theirs, err = mutate.ConfigFile(theirs, built)
	require.NoError(t, err)
	tag, err := name.NewTag(first.Ref)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, theirs))

	again := b.mustCreate(t, doc)
	require.False(t, again.Unchanged, "the tag named another image")
	require.Equal(t, first.Digest, again.Digest)
}
