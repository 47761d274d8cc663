package opera_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

const (
	graph      = "image_graph.yaml"
	graphInput = "inputs_graph.yaml"
)

// chain writes the inputs of the graph: a server, a worker on it, and one on that. The step of each is what nothing else has.
func (p *project) chain(t *testing.T) map[string]any {
	t.Helper()
	inputs := map[string]any{
		"registry":              p.registry(),
		"server_source":         p.repository(t, "server", "FROM busybox\nRUN echo server >/server\n"),
		"server_images":         []any{p.onBusybox("server", "1")},
		"docker_worker_source":  p.repository(t, "docker-worker", "FROM server\nRUN cat /server && echo docker >/docker\n"),
		"docker_worker_images":  []any{image("docker-worker", "1")},
		"kubectl_worker_source": p.repository(t, "kubectl-worker", "FROM docker-worker\nRUN cat /server /docker && echo kubectl >/kubectl\n"),
		"kubectl_worker_images": []any{image("kubectl-worker", "1")},
	}
	p.inputs(t, graphInput, inputs)
	return inputs
}

// requireChain sees in the registry that each image stands on the one before, and that opera tells of it.
func (p *project) requireChain(t *testing.T) {
	t.Helper()
	server, docker, kubectl := p.layers(t, "server:1"), p.layers(t, "docker-worker:1"), p.layers(t, "kubectl-worker:1")
	require.Equal(t, server, docker[:len(docker)-1])
	require.Equal(t, docker, kubectl[:len(kubectl)-1])
	outputs := p.outputs(t)
	for _, node := range []string{"server", "docker-worker", "kubectl-worker"} {
		_, digest := p.served(t, node+":1")
		require.Equal(t, p.Registry.Host+"/"+node+"@"+digest, outputs[strings.ReplaceAll(node, "-", "_")])
	}
}

// TestGraph builds a chain parents first, and takes it back.
func TestGraph(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		p.chain(t)
		p.opera(t, "deploy", "--workers", "3", "-i", graphInput, graph)
		p.requireChain(t)
		if p.version.Version != "0.6.6" { // whose update does not work
			p.update(t)
		}
		p.opera(t, "undeploy", "--force", "--workers", "3")
		for _, repository := range []string{"server", "docker-worker", "kubectl-worker"} {
			require.Empty(t, p.Tags(t, repository))
		}
		require.Equal(t, []string{"1"}, p.Tags(t, "base/busybox"))
	})
}

// update changes the link in the middle: it is built again with what stands on it, and nothing else.
func (p *project) update(t *testing.T) {
	t.Helper()
	before := p.outputs(t)
	inputs := p.chain(t)
	inputs["docker_worker_source"] = p.repository(t, "docker-worker-2", "FROM server\nRUN cat /server && echo docker two >/docker\n")
	p.inputs(t, graphInput, inputs)
	said := p.opera(t, "update", "--workers", "3", "-i", graphInput, graph)
	require.NotContains(t, said, "on server_0", "what has not changed is left alone")

	// Opera forgets the attributes of what it leaves alone. They are had back without building anything.
	p.opera(t, "deploy", "--clean-state", "--force", "--workers", "3", "-i", graphInput, graph)
	p.requireChain(t)
	after := p.outputs(t)
	require.Equal(t, before["server"], after["server"])
	require.NotEqual(t, before["docker_worker"], after["docker_worker"])
	require.NotEqual(t, before["kubectl_worker"], after["kubectl_worker"])

	require.NotContains(t, p.opera(t, "update", "-i", graphInput, graph), "Executing", "nothing has changed")
}

// TestSiblings: with -w, images on the same one are built side by side. Neither push goes on before both have begun.
func TestSiblings(t *testing.T) {
	template, err := os.ReadFile(filepath.Join("testdata", "siblings.yaml"))
	require.NoError(t, err)
	onEach(t, false, func(t *testing.T, p *project) {
		g := newGate(func(r *http.Request) bool { return pushesImage(r) && !strings.Contains(r.URL.Path, "/parent/") })
		p.Registry = testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: g.middleware})
		p.bases(t)
		p.write(t, "siblings.yaml", string(template))
		p.inputs(t, singleInput, map[string]any{
			"parent_source": p.repository(t, "parent", "FROM busybox\nRUN echo parent >/parent\n"),
			// Two images: that of each child's tag is the one it stands on, or the one that base_tag names.
			"parent_target": p.target(p.onBusybox("parent", "1"), map[string]any{"image": "parent", "tag": "2", "base": p.Registry.Host + "/base/other:1"}),
			"left_source":   p.repository(t, "left", "FROM parent\nRUN cat /parent >/left\n"),
			"left_target":   p.target(image("left", "1")),
			"right_source":  p.repository(t, "right", "FROM parent\nRUN cat /parent /other >/right\n"),
			"right_target":  p.target(image("right", "1")),
		})
		c := p.start(t, "deploy", "--workers", "2", "-i", singleInput, "siblings.yaml")
		repositories := []string{repositoryOf(g.wait(t)), repositoryOf(g.wait(t))}
		require.ElementsMatch(t, []string{"left", "right"}, repositories)
		close(g.open)
		require.Zero(t, c.wait(t), c.said())

		left, right := p.layers(t, "left:1"), p.layers(t, "right:1")
		require.Equal(t, p.layers(t, "parent:1"), left[:len(left)-1])
		require.Equal(t, p.layers(t, "parent:2"), right[:len(right)-1])
	})
}

// repositoryOf is the repository in the path of a request for a manifest.
func repositoryOf(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/manifests/")
	return name
}
