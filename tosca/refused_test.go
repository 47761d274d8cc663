package tosca_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/internal/testbed"
	"imagebuilder/tosca"
)

// TestRefused has templates and inputs with something wrong in them, and all that is told about each: file, line and column of
// every problem. Each archive holds template.yaml, perhaps inputs.yaml and what is imported, and what is told as
// want; with the environment variable UPDATE set, want is written anew.
func TestRefused(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/refused/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, archives)
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			require.NoError(t, err)
			err = check(unpack(t, archive))
			require.Error(t, err)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			var b strings.Builder
			for _, p := range fault.As(err).Problems {
				require.Regexp(t, `^[a-z/_]+\.yaml:\d+:\d+: `, p.String(), "every problem has its place")
				b.WriteString(p.String() + "\n")
			}
			for i, f := range archive.Files {
				if f.Name == "want" && os.Getenv("UPDATE") == "" {
					require.Equal(t, string(f.Data), b.String())
					return
				}
				if f.Name == "want" {
					archive.Files[i].Data = []byte(b.String())
					require.NoError(t, os.WriteFile(path, txtar.Format(archive), 0o600))
					return
				}
			}
			t.Fatal("there is no want")
		})
	}
}

// unpack writes the files of an archive below a folder, beside the library.
func unpack(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(dir, f.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o600))
	}
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(dir, "library")))
	return dir
}

// check does with template.yaml and inputs.yaml of a folder what validate does. Places are told relative to the folder.
func check(dir string) error {
	err := checkIn(dir)
	var f *fault.Error
	if errors.As(err, &f) {
		for i := range f.Problems {
			f.Problems[i].Message = strings.ReplaceAll(f.Problems[i].Message, dir+"/", "")
			f.Problems[i].Hint = strings.ReplaceAll(f.Problems[i].Hint, dir+"/", "")
		}
	}
	return err
}

func checkIn(dir string) error {
	template, err := tosca.Read(filepath.Join(dir, "template.yaml"))
	if err != nil {
		return err
	}
	var inputs *tosca.Inputs
	file := filepath.Join(dir, "inputs.yaml")
	if _, missing := os.Stat(file); missing == nil {
		if inputs, err = tosca.LoadInputs(file); err != nil {
			return err
		}
	}
	top, err := template.Bind(inputs)
	if err != nil {
		return err
	}
	return top.Check(func(job tosca.Job) error {
		_, err := imagenode.Request(imagenode.Operation{
			Node: job.Node, NodeType: job.Type, Name: job.Operation, Folder: dir, Host: "here", Inputs: job.Inputs,
		})
		return err
	})
}
