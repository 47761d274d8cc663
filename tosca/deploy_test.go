package tosca_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/tosca"
)

func TestDeployInOrder(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("c", "b"), image("b", "a"), image("a", ""), image("d", "a"))
	report, err := f.deploy(t.Context())
	require.NoError(t, err)
	done := f.runner.take()
	require.Equal(t, "a.create", done[0])
	require.Less(t, slices.Index(done, "b.create"), slices.Index(done, "c.create"))
	require.Equal(t, map[string]string{"here": "created", "a": "created", "b": "created", "c": "created", "d": "created"}, states(report))
	require.Equal(t, tosca.Deployed, report.Status)
	f.requireNoSecret()

	create := f.runner.inputs["b.create"]
	require.Equal(t, map[string]any{"url": "registry.example.com", "username": "me", "password": secretText},
		create["target"].(map[string]any)["registry"], "the plugin gets the secret")
	require.Equal(t, "registry.example.com/a@"+digest, create["base_images"].([]any)[0].(map[string]any)["pinned_ref"])
	require.NotContains(t, create, "ib_operation")
	require.NotContains(t, f.runner.inputs["a.create"], "base_images")

	report, err = f.undeploy()
	require.NoError(t, err)
	done = f.runner.take()
	require.Equal(t, "a.delete", done[3])
	require.Less(t, slices.Index(done, "c.delete"), slices.Index(done, "b.delete"))
	require.Equal(t, []string{"gone"}, report.Nodes[1].Notes)
	require.Equal(t, tosca.NotDeployed, report.Status)
	require.Equal(t, secretText, f.runner.inputs["a.delete"]["target"].(map[string]any)["registry"].(map[string]any)["password"])
	f.requireNoSecret()

	report, err = f.undeploy()
	require.NoError(t, err)
	require.Empty(t, report.Nodes)
	require.Empty(t, f.runner.take())
}

// TestLongestFirst: what most others wait for begins first, wherever it stands in the template.
func TestLongestFirst(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("x", ""), image("y", ""), image("b", "a"), image("c", "b"), image("a", ""))
	top, err := f.bind()
	require.NoError(t, err)
	d := f.deployment()
	d.Workers = 1
	_, err = d.Deploy(t.Context(), top, "")
	require.NoError(t, err)
	require.Equal(t, []string{"a.create", "b.create", "x.create", "y.create", "c.create"}, f.runner.take())
}

// TestSideBySide has nodes that end in pairs, and only so.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), image("b", ""), image("c", ""), image("d", ""), image("e", ""), image("f", ""))
	meet := make(chan struct{})
	f.runner.during = func(ctx context.Context, _ tosca.Job) error {
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, f.runner.most, 3)
	require.GreaterOrEqual(t, f.runner.most, 2)
}

func TestFailureAndResume(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), image("b", "a"), image("c", "b"), image("d", "c"), image("e", "a"))
	broken := true
	f.runner.during = func(_ context.Context, job tosca.Job) error {
		if job.Node == "b" && broken {
			return fault.New(fault.Denied, "push: denied for %s", secretText).WithHint("mend it")
		}
		return nil
	}
	report, err := f.deploy(t.Context())
	require.Equal(t, fault.Denied, fault.KindOf(err))
	require.Equal(t, "deploy b: push: denied for "+secretText+"\nnot begun, as it needs what failed: c, d", fault.As(err).Message)
	require.Equal(t, "mend it", fault.As(err).Hint)
	require.Equal(t, map[string]string{"here": "created", "a": "created", "b": "failed", "c": "cancelled", "d": "cancelled", "e": "created"}, states(report))
	require.Equal(t, "b", report.Nodes[4].Blocked)
	require.Equal(t, tosca.Failed, report.Status)
	f.requireNoSecret()
	require.ElementsMatch(t, []string{"a.create", "e.create"}, f.runner.take())

	broken = false
	report, err = f.deploy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"b.create", "c.create", "d.create"}, f.runner.take(), "a rerun does what is missing")
	require.Equal(t, map[string]string{"here": "created", "a": "resumed", "b": "created", "c": "created", "d": "created", "e": "resumed"}, states(report))

	_, err = f.deploy(t.Context())
	require.NoError(t, err)
	require.Len(t, f.runner.take(), 5, "a deployment that is complete is done again")
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), image("b", "a"))
	ctx, cancel := context.WithCancel(t.Context())
	f.runner.during = func(ctx context.Context, _ tosca.Job) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	report, err := f.deploy(ctx)
	require.Equal(t, fault.Cancelled, fault.KindOf(err))
	require.Equal(t, map[string]string{"here": "created", "a": "cancelled", "b": "cancelled"}, states(report))
	f.runner.during = nil
	_, err = f.deploy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a.create", "b.create"}, f.runner.take())
}

// TestTwoAtOnce: who comes second is refused and changes nothing.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""))
	f.runner.during = func(context.Context, tosca.Job) error {
		top, err := f.bind()
		require.NoError(t, err)
		other := &tosca.Deployment{Folder: f.path, Runner: &scripted{}}
		_, err = other.Deploy(t.Context(), top, "")
		require.Equal(t, fault.Unavailable, fault.KindOf(err))
		require.Regexp(t, `^another deploy or undeploy works in .* \(process \d+\)$`, err.Error())
		_, err = other.Undeploy(t.Context(), f.bind)
		require.Equal(t, fault.Unavailable, fault.KindOf(err))
		info, err := tosca.LoadInfo(f.path)
		require.NoError(t, err)
		require.Equal(t, tosca.Deploying, info.Status)
		return nil
	}
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
}

func TestChangedTemplate(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), image("b", ""))
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	f.runner.take()
	f.template(strings.ReplaceAll(image("a", ""), "tag: v1", "tag: v2"))
	report, err := f.deploy(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string]string{"here": "created", "a": "created", "b": "left"}, states(report))
	require.Equal(t, []string{"a.create"}, f.runner.take())

	// The password of b, which the template no longer has, is nowhere any more.
	_, err = f.undeploy()
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.Contains(t, err.Error(), "undeploy b: template and inputs no longer have /target/registry/password of registry registry.example.com")
	require.Empty(t, f.runner.take())
	f.template(image("a", ""), image("b", ""))
	_, err = f.undeploy()
	require.NoError(t, err)
	done := f.runner.take()
	slices.Sort(done)
	require.Equal(t, []string{"a.delete", "a.delete", "b.delete"}, done, "both tags of a are taken back")
}

// TestReferences: with references to secrets nothing is needed to undeploy.
func TestReferences(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""))
	f.write("inputs.yaml", "registry: { url: registry.example.com, username: me, password: env:PASSWORD }\n")
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	_, err = f.deployment().Undeploy(t.Context(), func() (*tosca.Topology, error) { return nil, errors.New("it was asked for") })
	require.NoError(t, err)
	require.Equal(t, "env:PASSWORD", f.runner.inputs["a.delete"]["target"].(map[string]any)["registry"].(map[string]any)["password"])
}

func TestUndeployFailsAndGoesOn(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), image("b", "a"), image("c", ""))
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	f.runner.take()
	f.runner.during = func(_ context.Context, job tosca.Job) error {
		if job.Node == "b" {
			return fault.New(fault.Unavailable, "the registry does not answer")
		}
		return nil
	}
	report, err := f.undeploy()
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	require.Equal(t, map[string]string{"here": "cancelled", "a": "cancelled", "b": "failed", "c": "removed"}, states(report))
	require.Equal(t, []string{"c.delete"}, f.runner.take())
	f.runner.during = nil
	_, err = f.undeploy()
	require.NoError(t, err)
	require.Equal(t, []string{"b.delete", "a.delete"}, f.runner.take())
}

func TestInfoAndOutputs(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""), `  outputs:
    ref: { value: { get_attribute: [ a, image_ref ] } }
    registry: { value: { get_input: registry } }
    sentence: { value: { concat: [ "version ", { get_input: version } ] } }
`)
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	info, err := tosca.LoadInfo(f.path)
	require.NoError(t, err)
	require.Equal(t, "registry.example.com/a@"+digest, info.Outputs["ref"])
	require.Equal(t, "version main", info.Outputs["sentence"])
	require.Equal(t, "****", info.Outputs["registry"].(map[string]any)["password"])
	require.Equal(t, "****", info.Inputs["registry"].(map[string]any)["password"])
	require.Equal(t, "me", info.Inputs["registry"].(map[string]any)["username"])
	require.Equal(t, []string{"registry", "source", "version"}, slices.Sorted(maps.Keys(info.Inputs)))
	require.Equal(t, filepath.Join(f.path, "template.yaml"), info.Template)
}

// TestSecretByAnotherName: what a template puts into a password is a secret, whatever the input is called. A short one that
// is part of a name spoils nothing.
func TestSecretByAnotherName(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.write("template.yaml", `tosca_definitions_version: tosca_simple_yaml_1_3
imports: [ library/image/types.yaml ]
topology_template:
  inputs: { word: { type: string }, short: { type: string } }
  node_templates:
    here: { type: tosca.nodes.Compute, attributes: { public_address: localhost } }
    a:
      type: my.Image
      requirements: [ host: here ]
      properties:
        registry: { url: registry.example.com, username: admin, password: { get_input: short } }
        source: { get_property: [ b, source ] }
        target: { registry: { get_property: [ SELF, registry ] }, images: [ { image: admin/a, tag: v1 } ] }
    b:
      type: my.Image
      requirements: [ host: here ]
      properties:
        registry: { url: registry.example.com, username: me, password: { get_input: word } }
        source: { git_repo: { url: "https://git.example.com/x.git" } }
        target: { registry: { get_property: [ SELF, registry ] }, images: [ { image: b, tag: v1 } ] }
  outputs:
    word: { value: { concat: [ "it is ", { get_input: word } ] } }
    short: { value: { get_input: short } }
node_types:
  my.Image:
    derived_from: imagebuilder.nodes.Image
    properties: { registry: { type: imagebuilder.datatypes.Registry } }
`)
	f.write("inputs.yaml", "word: "+secretText+"\nshort: admin\n")
	_, err := f.deploy(t.Context())
	require.NoError(t, err)
	f.requireNoSecret()
	info, err := tosca.LoadInfo(f.path)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"word": "****", "short": "****"}, info.Inputs)
	require.Equal(t, map[string]any{"word": "it is ****", "short": "****"}, info.Outputs)
	_, err = f.undeploy()
	require.NoError(t, err)
	require.Equal(t, map[string]any{"url": "registry.example.com", "username": "admin", "password": "admin"},
		f.runner.inputs["a.delete"]["target"].(map[string]any)["registry"])
}

// TestBrokenState: what cannot be read is told, and not written over.
func TestBrokenState(t *testing.T) {
	t.Parallel()
	f := newFolder(t, image("a", ""))
	require.NoError(t, os.Mkdir(filepath.Join(f.path, tosca.StateFolder), 0o755))
	f.write(tosca.StateFolder+"/state.json", "{")
	_, err := f.deploy(t.Context())
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	f.write(tosca.StateFolder+"/state.json", `{"version": 99}`)
	_, err = f.undeploy()
	require.ErrorContains(t, err, "another version of image-builder")
	require.Empty(t, f.runner.take())
}
