package endtoend_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
	"imagebuilder/plugin/conformance"
)

// TestConformance runs our own plugin through the suite that every plugin has to pass.
func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	good := w.input(t, "FROM busybox\nRUN echo conformance >/n\n")
	_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte("FROM busybox\nRUN echo waiting; sleep 161803\n")}},
		filepath.Join(w.gitRoot, "slow.git"), testbed.RepoOptions{})
	require.NoError(t, err)
	slow := w.document(t, w.git.URL+"/slow.git")
	missing := w.document(t, w.git.URL+"/missing.git")

	settings, err := json.Marshal(result.Settings{Engine: "buildkit", BuildKitHost: w.engine, CacheDir: t.TempDir()})
	require.NoError(t, err)
	create := func(inputs []byte) plugin.Request {
		return plugin.Request{NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, Inputs: inputs, Settings: settings, WorkDir: t.TempDir()}
	}
	conformance.Run(t, filepath.Join(bin, "image-builder-plugin"), conformance.Config{
		Samples: []conformance.Sample{
			{Name: "an image", Request: create(read(t, good))},
			{Name: "a missing repository", Request: create(read(t, missing)), Fails: plugin.NotFound},
			{Name: "a document with a mistake", Request: create([]byte(`{"source":{"git_repo":{"url":"https://git.example.com/a.git"}},
				"target":{"registry":{"url":"registry.example.com"},"images":[{"image":"a","tagg":"1"}]}}`)), Fails: plugin.Invalid, Pointer: "/target/images/0/tagg"},
		},
		Slow:         create(read(t, slow)),
		CancelWithin: 10 * time.Second, // the contract's 2 s hold on a machine that does nothing else
		Env:          []string{"DOCKER_CONFIG=" + t.TempDir()},
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}
