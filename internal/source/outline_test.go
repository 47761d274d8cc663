package source_test

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestOutline: whether the context has changed is told without a checkout, and whatever a build can see of it shows.
func TestOutline(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{".dockerignore": file("docs\n"), "a-b": file("1"), "a/c": file("2")}})
	outline := func() map[string]string {
		t.Helper()
		tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
		require.NotNil(t, tree.Outline)
		got := walkTree(t, tree.Outline)
		checkedOut := func() []string {
			found, err := filepath.Glob(filepath.Join(b.dir, "*", "checkout"))
			require.NoError(t, err)
			return found
		}
		require.Empty(t, checkedOut(), "nothing is checked out")
		whole := walkTree(t, tree.Context)
		require.NotEmpty(t, checkedOut())
		require.Equal(t, slices.Sorted(maps.Keys(whole)), slices.Sorted(maps.Keys(got)))
		for name, is := range whole {
			require.Equal(t, is[:3], got[name][:3], name) // kind or mode
		}
		require.Equal(t, whole[".dockerignore"], got[".dockerignore"])
		require.NoError(t, tree.Close())
		return got
	}
	before := outline()
	require.Equal(t, before, outline())
	b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("another\n")}})
	after := outline()
	require.NotEqual(t, before["main.txt"], after["main.txt"])
	after["main.txt"] = before["main.txt"]
	require.Equal(t, before, after)
}

// TestOutlineOfConvertedFiles: where attributes change files as they are checked out, their objects do not tell.
func TestOutlineOfConvertedFiles(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", fstest.MapFS{"Dockerfile": file("FROM scratch\n"), ".gitattributes": file("*.txt eol=crlf\n"), "a.txt": file("one\n")})
	tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
	require.Nil(t, tree.Outline)
	require.Equal(t, "one\r\n", read(t, tree.Context, "a.txt"))
}

// TestClosedBeforeItWasRead: a tree that nobody walked leaves nothing, and is not checked out any more.
func TestClosedBeforeItWasRead(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	tree := b.fetch(gitRepo(b.url("app.git"), ""), nil)
	require.NoError(t, tree.Close())
	require.Error(t, tree.Context.Walk(t.Context(), "", nil))
	left, err := filepath.Glob(filepath.Join(b.dir, "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
