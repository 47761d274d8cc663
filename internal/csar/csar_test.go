package csar_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/csar"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// tree is a template with a library of two folders that import each other, and things that do not belong into an archive.
func tree() fstest.MapFS {
	return fstest.MapFS{
		"service.yaml":                file("imports: [library/a/types.yaml, {file: more.yaml}]\n"),
		"more.yaml":                   file("node_types: {}\n"),
		"other.yaml":                  file("inputs of somebody\n"),
		".opera/inputs":               file("password"),
		"library/a/types.yaml":        file("imports:\n  - data.yaml\n"),
		"library/a/data.yaml":         file("imports: [../b/types.yaml]\n"),
		"library/a/playbooks/run.yml": file("- hosts: all\n"),
		"library/a/playbooks/callback_plugins/c.py":                          file("print()\n"),
		"library/a/playbooks/callback_plugins/__pycache__/c.cpython-311.pyc": file("x"),
		"library/a/.opera/inputs":                                            file("password"),
		"library/a/.image-builder/st":                                        file("password"),
		"library/b/types.yaml":                                               file("imports: [../a/types.yaml]\n"),
		"library/c/types.yaml":                                               file("{}\n"),
	}
}

func write(t *testing.T, tree fs.FS) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, csar.Write(&out, tree, "service.yaml", "image-builder 1.0"))
	return out.Bytes()
}

func TestWrite(t *testing.T) {
	t.Parallel()
	data := write(t, tree())
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Name)
	}
	require.Equal(t, []string{
		"TOSCA-Metadata/", "TOSCA-Metadata/TOSCA.meta", "library/",
		"library/a/", "library/a/data.yaml", "library/a/playbooks/", "library/a/playbooks/callback_plugins/",
		"library/a/playbooks/callback_plugins/c.py", "library/a/playbooks/run.yml", "library/a/types.yaml",
		"library/b/", "library/b/types.yaml", "more.yaml", "service.yaml",
	}, names)
	meta, err := fs.ReadFile(archive, "TOSCA-Metadata/TOSCA.meta")
	require.NoError(t, err)
	require.Equal(t, "TOSCA-Meta-File-Version: 1.1\nCSAR-Version: 1.1\nCreated-By: image-builder 1.0\nEntry-Definitions: service.yaml\n", string(meta))
}

// TestWriteIsReproducible: the bytes are those that they have always been.
func TestWriteIsReproducible(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256(write(t, tree()))
	require.Equal(t, "314aa1b02f3d3d75a273dc4afdc9129db6a91f46a12646e4143157bf7a992dd4", hex.EncodeToString(sum[:]))
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tree fstest.MapFS
		want string
	}{
		"no such template":          {fstest.MapFS{}, "pack service.yaml: open service.yaml"},
		"no such import":            {fstest.MapFS{"service.yaml": file("imports: [a/b.yaml]")}, "service.yaml: import a/b.yaml:"},
		"an import above the entry": {fstest.MapFS{"service.yaml": file("imports: [../b.yaml]")}, "outside of the template's folder"},
		"an import without a file":  {fstest.MapFS{"service.yaml": file("imports: [{repository: r}]")}, "an import without file"},
		"broken YAML":               {fstest.MapFS{"service.yaml": file("imports: [")}, "service.yaml: [1:"},
		"a link": {fstest.MapFS{"service.yaml": file("imports: [a/b.yaml]"), "a/b.yaml": file("{}"),
			"a/c": &fstest.MapFile{Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink}}, "a/c is no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.ErrorContains(t, csar.Write(&bytes.Buffer{}, c.tree, "service.yaml", "x"), c.want)
		})
	}
}
