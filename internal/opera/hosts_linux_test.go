package opera_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/tosca"
)

// host runs image-builder's own host in the project's folder and gives its standard output.
func (p *project) host(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "image-builder"), args...)
	var out, said bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.folder, p.env, &out, &said
	require.NoError(t, cmd.Run(), "image-builder %v:\n%s", args, said.String())
	return out.Bytes()
}

// kept is what two builds of the same inputs have in common: everything but the time of day.
type kept struct {
	Config v1.Config // labels, environment, command
	Layers []string  // diff ids
	Arch   string
}

// all is what the registry has under these repositories, by repository and tag.
func (p *project) all(t *testing.T, repositories []string) map[string]kept {
	t.Helper()
	found := map[string]kept{}
	for _, repository := range repositories {
		for _, tag := range p.Tags(t, repository) {
			img, _ := p.served(t, repository+":"+tag)
			config, err := img.ConfigFile()
			require.NoError(t, err)
			found[repository+":"+tag] = kept{config.Config, p.layers(t, repository+":"+tag), config.Architecture}
		}
	}
	return found
}

// TestHosts deploys the same templates and inputs with opera and with image-builder's own host, from the same folder: the same
// tags, labels and layers. What one has deployed is up to date to the other, which can take it back.
func TestHosts(t *testing.T) {
	siblings, err := os.ReadFile(filepath.Join("testdata", "siblings.yaml"))
	require.NoError(t, err)
	onEach(t, false, func(t *testing.T, p *project) {
		p.write(t, "siblings.yaml", string(siblings))
		parent := p.target(p.onBusybox("parent", "1"), map[string]any{"image": "parent", "tag": "2", "base": p.Registry.Host + "/base/other:1"})
		p.chain(t)
		p.inputs(t, "inputs_siblings.yaml", map[string]any{
			"parent_source": p.repository(t, "parent", "FROM busybox\nRUN echo parent >/parent\n"), "parent_target": parent,
			"left_source": p.repository(t, "left", "FROM parent\nRUN cat /parent >/left\n"), "left_target": p.target(image("left", "1")),
			"right_source": p.repository(t, "right", "FROM parent\nRUN cat /parent /other >/right\n"), "right_target": p.target(image("right", "1")),
		})
		p.inputs(t, singleInput, map[string]any{
			"source": p.repository(t, "app", "FROM busybox\nARG WHAT\nENV WHAT=$WHAT\nRUN echo $WHAT >/what\n"),
			"target": p.target(p.onBusybox("app", "1"), map[string]any{
				"image": "app", "tag": "2", "base": p.Registry.Host + "/base/other:1", "build_args": map[string]any{"WHAT": "{{ two }}"},
			}),
			"options": map[string]any{"build_args": map[string]any{"WHAT": "one: 'quoted'"}, "labels": map[string]any{"team": "größer, {{ x }}"}},
		})
		type deployed struct {
			template, inputs string
			repositories     []string
		}
		cases := []deployed{
			{"docker_image_definition.yaml", singleInput, []string{"app"}},
			{graph, graphInput, []string{"server", "docker-worker", "kubectl-worker"}},
		}
		if p.version.Version == "0.7.0" { // one is enough for what is the same on all
			cases = append(cases, deployed{"siblings.yaml", "inputs_siblings.yaml", []string{"parent", "left", "right"}})
		}
		for _, c := range cases {
			p.opera(t, "deploy", "--workers", "3", "-i", c.inputs, c.template)
			byOpera := p.all(t, c.repositories)
			require.NotEmpty(t, byOpera)
			p.requireUnchanged(t, p.host(t, "deploy", "-i", c.inputs, c.template))
			p.host(t, "undeploy")
			require.Empty(t, p.all(t, c.repositories), "the tags are as much the one's as the other's")

			p.host(t, "deploy", "-i", c.inputs, c.template)
			require.Equal(t, byOpera, p.all(t, c.repositories), c.template)
			p.opera(t, "undeploy", "--force")
			require.Empty(t, p.all(t, c.repositories))
			require.NoError(t, os.RemoveAll(filepath.Join(p.folder, ".opera")))
			p.host(t, "undeploy") // which finds everything gone
		}
	})
}

// requireUnchanged wants a report in which nothing was built.
func (p *project) requireUnchanged(t *testing.T, report []byte) {
	t.Helper()
	var r tosca.Report
	require.NoError(t, json.Unmarshal(report, &r))
	for _, node := range r.Nodes {
		images, _ := node.Attributes["images"].([]any)
		for _, image := range images {
			require.Equal(t, true, image.(map[string]any)["unchanged"], "%s: %v", node.Name, image)
		}
	}
}
