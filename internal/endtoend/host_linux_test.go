package endtoend_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
	"imagebuilder/tosca"
)

// graph is a template of four images: b and c stand on a, d on b.
const graph = `tosca_definitions_version: tosca_simple_yaml_1_3
imports: [ library/image/types.yaml ]
topology_template:
  inputs:
    registry: { type: imagebuilder.datatypes.Registry }
    source: { type: imagebuilder.datatypes.Source }
  node_templates:
    here: { type: tosca.nodes.Compute, attributes: { public_address: localhost } }
`

// graphSecret is a literal password that may stand in no file that a deployment leaves.
const graphSecret = "s3cret-canary"

// graphFolder is a folder with that template and inputs; its images are below a repository of its own.
func (w *world) graphFolder(t *testing.T, below string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(dir, "library")))
	text := graph
	for _, n := range [][2]string{{"a", ""}, {"b", "a"}, {"c", "a"}, {"d", "b"}} {
		typ, requirements, base := "imagebuilder.nodes.DerivedImage", "{ host: here }, { base: "+n[1]+" }", ""
		if n[1] == "" {
			typ, requirements, base = "imagebuilder.nodes.Image", "{ host: here }", ", base: \""+w.registry.Host+"/base/busybox:1\""
		}
		text += fmt.Sprintf(`    %s:
      type: %s
      requirements: [ %s ]
      properties:
        source: { get_input: source }
        target: { registry: { get_input: registry }, images: [ { image: %s/%s, tag: v1, labels: { of: %s-%s }%s } ] }
`, n[0], typ, requirements, below, n[0], below, n[0], base)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "template.yaml"), []byte(text), 0o600))
	inputs := fmt.Sprintf("registry: { url: %q, username: me, password: %s }\nsource: { git_repo: { url: %q } }\n",
		w.registry.Host, graphSecret, w.git.URL+"/app.git")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inputs.yaml"), []byte(inputs), 0o600))
	return dir
}

// TestHostIsKilled kills deployments and undeployments of a graph at many moments: whatever the moment, the state can be
// read, nothing is left running, and a rerun comes to the same end.
func TestHostIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte("FROM busybox\nCOPY . /app\n")}},
		filepath.Join(w.gitRoot, "app.git"), testbed.RepoOptions{})
	require.NoError(t, err)
	s := newStage(t)
	deploy := []string{"deploy", "-i", "inputs.yaml", "template.yaml", "--engine", "buildkit", "--buildkit-host", w.engine}
	undeploy := []string{"undeploy", "--engine", "buildkit", "--buildkit-host", w.engine}
	took := func(dir string, args []string) time.Duration {
		began := time.Now()
		p := s.startIn(t, dir, args...)
		require.Equal(t, fault.ExitOK, p.wait(), p.said())
		return time.Since(began)
	}
	whole := w.graphFolder(t, "whole")
	deployTime, undeployTime := took(whole, deploy), took(whole, undeploy)

	const moments = 6
	killed := 0
	for i := range moments {
		below := fmt.Sprintf("moment%d", i)
		dir := w.graphFolder(t, below)
		kill := func(args []string, after time.Duration) {
			p := s.startIn(t, dir, args...)
			timer := time.AfterFunc(after, func() { _ = p.Process.Kill() })
			defer timer.Stop()
			if p.wait() < 0 {
				killed++
			}
			requireState(t, dir)
		}
		kill(deploy, deployTime*time.Duration(i)/moments)
		kill(deploy, deployTime*time.Duration(moments-i)/(2*moments))
		took(dir, deploy)
		w.requireGraph(t, below)
		kill(undeploy, undeployTime*time.Duration(i)/moments)
		took(dir, undeploy)
		for _, n := range []string{"a", "b", "c", "d"} {
			_, err := remote.Head(w.ref(t, below, n))
			require.Error(t, err, "%s/%s is gone", below, n)
		}
	}
	require.GreaterOrEqual(t, killed, moments, "the moments are within the runs")
	s.requireNothingLeft(t)
}

func (w *world) ref(t *testing.T, below, image string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(w.registry.Host + "/" + below + "/" + image + ":v1")
	require.NoError(t, err)
	return ref
}

// requireGraph wants each image to begin with the layers of the one that it stands on.
func (w *world) requireGraph(t *testing.T, below string) {
	t.Helper()
	layers := map[string][]v1.Hash{}
	for _, n := range []string{"a", "b", "c", "d"} {
		image, err := remote.Image(w.ref(t, below, n))
		require.NoError(t, err)
		config, err := image.ConfigFile()
		require.NoError(t, err)
		layers[n] = config.RootFS.DiffIDs
	}
	for n, base := range map[string]string{"b": "a", "c": "a", "d": "b"} {
		require.Len(t, layers[n], len(layers[base])+1, "%s stands on %s", n, base)
		require.Equal(t, layers[base], layers[n][:len(layers[base])], "%s stands on %s", n, base)
	}
}

// requireState wants what a killed process left to be readable, private and without the secret.
func requireState(t *testing.T, dir string) {
	t.Helper()
	_, err := tosca.LoadInfo(dir)
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(filepath.Join(dir, tosca.StateFolder), func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, path)
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		require.NotContains(t, string(data), graphSecret, path)
		return err
	}))
}

// TestHostFails: one image of the graph cannot be built. What stands on it does not begin, the others are built, and a rerun
// with the mended source builds what is missing.
func TestHostFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	repository := filepath.Join(w.gitRoot, "app.git")
	commit := func(dockerfile string) {
		require.NoError(t, os.RemoveAll(repository))
		_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}, repository, testbed.RepoOptions{})
		require.NoError(t, err)
	}
	// The label of b is the only one that the step takes offence at.
	commit("FROM busybox\nARG FAIL=\nRUN test -z \"$FAIL\" || { echo broken on purpose; exit 7; }\n")
	dir := w.graphFolder(t, "fails")
	text, err := os.ReadFile(filepath.Join(dir, "template.yaml"))
	require.NoError(t, err)
	broken := strings.Replace(string(text), "labels: { of: fails-b }", "build_args: { FAIL: yes }", 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "template.yaml"), []byte(broken), 0o600))
	s := newStage(t)
	p := s.startIn(t, dir, "deploy", "-i", "inputs.yaml", "template.yaml", "--buildkit-host", w.engine)
	require.Equal(t, fault.ExitFailed, p.wait(), p.said())
	require.Contains(t, p.said(), "error: deploy b: build "+w.registry.Host+"/fails/b:v1: ")
	require.Contains(t, p.said(), "broken on purpose")
	require.Contains(t, p.said(), "not begun, as it needs what failed: d")
	var report tosca.Report
	require.NoError(t, json.NewDecoder(bytes.NewReader(p.stdout.Bytes())).Decode(&report))
	states := map[string]string{}
	for _, n := range report.Nodes {
		states[n.Name] = n.State
	}
	require.Equal(t, map[string]string{"here": "created", "a": "created", "b": "failed", "c": "created", "d": "cancelled"}, states)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "template.yaml"), text, 0o600))
	p = s.startIn(t, dir, "deploy", "-i", "inputs.yaml", "template.yaml", "--buildkit-host", w.engine)
	require.Equal(t, fault.ExitOK, p.wait(), p.said())
	require.NotContains(t, p.said(), "fails/a:v1", "a is there")
	w.requireGraph(t, "fails")
	s.requireNothingLeft(t)
}

// TestOwnHostPage: an error looks as the page shows it.
func TestOwnHostPage(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "own-host.md"))
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "$ image-builder validate docker_image_definition.yaml -i wrong.yaml\n")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "```")
	dir := filepath.Join(root, "tosca")
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	require.NoError(t, os.WriteFile(wrong, []byte(`target: { registry: { url: registry.example.com }, images: [ { image: app, tag: v1 } ] }
source: { git_repo: { version: main, ulr: x, url: "https://git.example.com/app.git" } }
`), 0o600))
	s := newStage(t)
	p := s.startIn(t, dir, "validate", "docker_image_definition.yaml", "-i", wrong)
	require.Equal(t, fault.ExitInvalid, p.wait())
	require.Equal(t, text, strings.ReplaceAll(p.said(), filepath.Dir(wrong)+"/", ""))
}
