package source_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

func runGit(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestKindsOfLocalRepository(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	b.init("app.git", app())
	b.commit("app.git", testbed.GitCommit{Branch: "main", Files: fstest.MapFS{"main.txt": file("two\n")}, Annotated: "v1"})
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	runGit(t, "clone", "-q", b.path("app.git"), in("work"))
	runGit(t, "clone", "-q", "--shared", b.path("app.git"), in("shared"))
	runGit(t, "clone", "-q", "--depth=1", "file://"+b.path("app.git"), in("shallow"))
	runGit(t, "clone", "-q", "--bare", b.path("app.git"), in("packed"))
	runGit(t, "--git-dir="+in("packed"), "gc", "-q")
	runGit(t, "-C", in("work"), "worktree", "add", "-q", "--detach", in("linked"), "HEAD~1")
	require.NoError(t, os.WriteFile(in("work/main.txt"), []byte("not committed\n"), 0o600))
	for name, main := range map[string]string{"work": "two\n", "shared": "two\n", "shallow": "two\n", "packed": "two\n", "linked": "one\n", "work/.git": "two\n"} {
		for _, look := range []func(string) (string, error){nil, withoutGit} {
			b.fetcher.LookPath = look
			require.Equal(t, main, read(t, b.fetch(gitRepo(in(name), ""), nil).Context, "main.txt"), name)
		}
	}
	require.Equal(t, "two\n", read(t, b.fetch(gitRepo(in("packed"), "v1"), nil).Context, "main.txt"))
	b.fails(fault.NotFound, gitRepo(in("work/src"), ""), nil)
	runGit(t, "init", "-q", "--object-format=sha256", in("sha256"))
	b.fails(fault.Invalid, gitRepo(in("sha256"), ""), nil)
}

func TestGitOverTLS(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{TLS: true})
	id := b.init("app.git", app())
	b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
	f := b.fails(fault.Unavailable, gitRepo(b.url("app.git"), ""), nil)
	require.Contains(t, f.Message, "TLS")
	b.fetcher.HTTPClient = b.server.Client()
	require.Equal(t, "two\n", read(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context, "main.txt"))
	// The git executable knows nothing of this client's trust: what it cannot fetch go-git does.
	require.Equal(t, id, b.fetch(gitRepo(b.url("app.git"), id), nil).Commit)
}
