package testbed_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

func TestGitServerServesWhatWasCommitted(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	bare := filepath.Join(root, "app.git")
	first, err := testbed.InitRepo(fstest.MapFS{
		"a.txt":  {Data: []byte("a\n")},
		"run.sh": {Data: []byte("#!/bin/sh\n"), Mode: 0o755},
	}, bare, testbed.RepoOptions{})
	require.NoError(t, err)
	require.Equal(t, "05b619bfec53f2f7b6c1c3137cb62cd017a75ad9", first, "the same on every machine")
	second, err := testbed.CommitTo(bare, testbed.GitCommit{Files: fstest.MapFS{"b.txt": {Data: []byte("b\n")}}, Tag: "v1"})
	require.NoError(t, err)

	server, err := testbed.StartGit(root, testbed.GitOptions{User: "ann", Password: "pw"})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	res, err := http.Get(server.URL + "/app.git/info/refs?service=git-upload-pack")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusUnauthorized, res.StatusCode)

	cmd := exec.Command("git", "ls-remote", "http://ann:pw@"+server.URL[len("http://"):]+"/app.git", "refs/tags/v1")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, second+"\trefs/tags/v1\n", string(out))
	asked := server.Requests()
	require.Equal(t, 1, asked.InfoRefs)
	require.Positive(t, asked.Denied)
}
