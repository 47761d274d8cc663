package tosca_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
	"imagebuilder/tosca"
)

// digest stands for what a registry would have made of an image.
const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// scripted performs jobs by noting them. What it really takes to perform them is tested where there is a registry.
type scripted struct {
	mu      sync.Mutex
	running int
	most    int                                            // that ran at once
	done    []string                                       // NODE.OPERATION, as they ended
	inputs  map[string]map[string]any                      // by NODE.OPERATION, the last
	during  func(ctx context.Context, job tosca.Job) error // may be nil
}

func (s *scripted) Check(tosca.Job) error { return nil }

func (s *scripted) Run(ctx context.Context, job tosca.Job) (tosca.Result, error) {
	s.mu.Lock()
	s.running++
	s.most = max(s.most, s.running)
	name := job.Node + "." + job.Operation
	if s.inputs == nil {
		s.inputs = map[string]map[string]any{}
	}
	var inputs map[string]any
	err := json.Unmarshal(job.Inputs, &inputs)
	s.inputs[name] = inputs
	s.mu.Unlock()
	if err == nil && s.during != nil {
		err = s.during(ctx, job)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if err != nil {
		return tosca.Result{}, err
	}
	s.done = append(s.done, name)
	if job.Operation != "create" {
		return tosca.Result{Notes: []string{"gone"}}, nil
	}
	ref := "registry.example.com/" + job.Node
	return tosca.Result{Attributes: map[string]any{
		"image_ref": ref + "@" + digest, "image_refs": []any{ref + ":v1"},
		"images": []any{map[string]any{"ref": ref + ":v1", "digest": digest, "pinned_ref": ref + "@" + digest, "size": int64(12)}},
	}}, nil
}

// take gives what was done and forgets it.
func (s *scripted) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := s.done
	s.done = nil
	return done
}

const head = `tosca_definitions_version: tosca_simple_yaml_1_3
imports: [ library/image/types.yaml ]
topology_template:
  inputs:
    registry: { type: imagebuilder.datatypes.Registry }
    version: { type: string, default: main }
    source: { type: imagebuilder.datatypes.Source, default: { git_repo: { url: "https://git.example.com/x.git" } } }
  node_templates:
    here: { type: tosca.nodes.Compute, attributes: { public_address: localhost } }
`

// image is a node of an image, on another one unless base is "".
func image(name, base string) string {
	typ, requirement := "imagebuilder.nodes.Image", ""
	if base != "" {
		typ, requirement = "imagebuilder.nodes.DerivedImage", "\n        - base: "+base
	}
	return "    " + name + ":\n      type: " + typ + "\n      requirements:\n        - host: here" + requirement + `
      properties:
        source: { get_input: source }
        target: { registry: { get_input: registry }, images: [ { image: ` + name + `, tag: v1 } ] }
`
}

const secretText = "hunter2-is-secret"

const plainInputs = "registry: { url: registry.example.com, username: me, password: " + secretText + " }\n"

// folder is where a template is deployed from.
type folder struct {
	t      *testing.T
	path   string
	runner *scripted
}

func newFolder(t *testing.T, nodes ...string) *folder {
	t.Helper()
	f := &folder{t, t.TempDir(), &scripted{}}
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(f.path, "library")))
	f.template(nodes...)
	f.write("inputs.yaml", plainInputs)
	return f
}

func (f *folder) write(name, text string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(filepath.Join(f.path, name), []byte(text), 0o600))
}

func (f *folder) template(nodes ...string) { f.write("template.yaml", head+strings.Join(nodes, "")) }

func (f *folder) bind() (*tosca.Topology, error) {
	template, err := tosca.Read(filepath.Join(f.path, "template.yaml"))
	if err != nil {
		return nil, err
	}
	inputs, err := tosca.LoadInputs(filepath.Join(f.path, "inputs.yaml"))
	if err != nil {
		return nil, err
	}
	return template.Bind(inputs)
}

func (f *folder) deployment() *tosca.Deployment {
	return &tosca.Deployment{Folder: f.path, Runner: f.runner, Workers: 3}
}

func (f *folder) deploy(ctx context.Context) (*tosca.Report, error) {
	f.t.Helper()
	top, err := f.bind()
	require.NoError(f.t, err)
	return f.deployment().Deploy(ctx, top, filepath.Join(f.path, "inputs.yaml"))
}

func (f *folder) undeploy() (*tosca.Report, error) {
	f.t.Helper()
	return f.deployment().Undeploy(f.t.Context(), f.bind)
}

// states are the states of nodes in a report.
func states(r *tosca.Report) map[string]string {
	all := map[string]string{}
	for _, n := range r.Nodes {
		all[n.Name] = n.State
	}
	return all
}

// requireNoSecret looks into everything that is kept.
func (f *folder) requireNoSecret() {
	f.t.Helper()
	require.NoError(f.t, filepath.WalkDir(filepath.Join(f.path, tosca.StateFolder), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		require.NotContains(f.t, string(data), secretText, path)
		info, statErr := d.Info()
		require.NoError(f.t, statErr)
		require.Zero(f.t, info.Mode().Perm()&0o077, path)
		return err
	}))
}
