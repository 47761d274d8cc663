package opera_test

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/csar"
	"imagebuilder/internal/testbed"
)

// pack makes an archive of a folder's docker_image_definition.yaml.
func pack(t *testing.T, folder string) []byte {
	t.Helper()
	var archive bytes.Buffer
	require.NoError(t, csar.Write(&archive, os.DirFS(folder), single, "image-builder test"))
	return archive.Bytes()
}

// ours is the archive as "make csar" makes it.
func ours(t *testing.T) []byte {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	return pack(t, filepath.Join(root, "tosca"))
}

// TestArchive: opera deploys the archive as it is, from a folder that has nothing else but inputs.
func TestArchive(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		p.folder = t.TempDir()
		p.single(t, "FROM busybox\nRUN echo archive >/a\n", nil)
		p.write(t, "image-builder.csar", string(ours(t)))
		p.opera(t, "validate", "-i", singleInput, "image-builder.csar")
		p.opera(t, "deploy", "-i", singleInput, "image-builder.csar")
		_, digest := p.served(t, "app:1")
		require.Equal(t, digest, p.images(t)[0].Digest)
		p.opera(t, "undeploy", "--force")
		require.Empty(t, p.Tags(t, "app"))
	})
}

// TestArchiveOfAUsedFolder: what a deployment leaves in a folder is in no archive that is made there.
func TestArchiveOfAUsedFolder(t *testing.T) {
	t.Parallel()
	p := newProject(t, testbed.Operas(t, false)[0])
	p.record(t)
	p.inputs(t, singleInput, map[string]any{"source": map[string]any{"git_repo": map[string]any{"url": "https://git.example.com/a.git"}}, "target": map[string]any{
		"registry": map[string]any{"url": "registry.example.com", "password": canary}, "images": []any{image("a", "b")},
	}})
	p.opera(t, "deploy", "-i", singleInput, single)
	require.FileExists(t, filepath.Join(p.folder, ".opera", "inputs"))
	archive := pack(t, p.folder)
	require.Equal(t, ours(t), archive, "the same bytes as of a clean folder")
	read, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	require.NoError(t, err)
	for _, f := range read.File {
		require.False(t, strings.HasPrefix(f.Name, ".") || strings.Contains(f.Name, "/."), f.Name)
		r, err := f.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NotContains(t, string(data), canary)
	}
}
