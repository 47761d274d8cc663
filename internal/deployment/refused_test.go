//go:build blueprints && linux

package deployment_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNotOurs: what somebody else has made and is named as a node wants it is an error to deploy, and left alone when that is undeployed.
func TestNotOurs(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		archive, other := image(t, p.name+".tar", p.name+"-web:1", p.name), image(t, p.name+"-other.tar", p.name+"-web:1", "other")
		docker(t, "load", "--input", other)
		docker(t, "network", "create", "--subnet", subnet(t), "--label", "imagebuilder.mark=other", "--label", "imagebuilder.node=network", p.name+"-network")
		docker(t, "volume", "create", p.name+"-volume")
		docker(t, "create", "--name", p.name+"-container", p.name+"-web:1")
		theirs := p.left(t)
		p.template(t, nodes{
			"network":   node("DockerNetwork", map[string]any{"name": p.name + "-network"}),
			"volume":    node("DockerVolume", map[string]any{"name": p.name + "-volume", "removal": "delete"}),
			"container": node("Container", map[string]any{"name": p.name + "-container", "image": p.name + "-web:1"}),
			"image":     node("Container", map[string]any{"name": p.name + "-new", "image": p.name + "-web:1", "archive": archive}),
		})
		said := p.operaFails(t, "deploy", "-w", "4", "service.yaml")
		for _, kind := range []string{"network", "volume", "container"} {
			requireSaid(t, said, fmt.Sprintf("%s: there is a %s %s on 127.0.0.1 that this node did not make", kind, kind, p.name+"-"+kind))
		}
		requireSaid(t, said, "image: there is an image "+p.name+"-web:1 on 127.0.0.1 that is another one than that of "+archive)
		p.opera(t, "undeploy", "-r", "-f", "-w", "4")
		require.Equal(t, theirs, p.left(t))
	})
}

// TestFailures: a step that fails is named in what opera says, with its cause, and nothing is left after undeploy.
func TestFailures(t *testing.T) {
	onEach(t, func(t *testing.T, p *project) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = taken.Close() })
		port := taken.Addr().(*net.TCPAddr).Port
		archive := image(t, p.name+".tar", p.name+"-web:1", p.name)
		none := filepath.Join(p.folder, "none.tar")
		require.NoError(t, os.WriteFile(none, []byte("no archive"), 0o600))
		web := func(name string, more map[string]any) map[string]any {
			properties := map[string]any{"name": p.name + "-" + name, "image": p.name + "-web:1", "archive": archive}
			for key, value := range more {
				properties[key] = value
			}
			return node("Container", properties)
		}
		all := nodes{
			"port":    web("port", map[string]any{"ports": []string{fmt.Sprintf("127.0.0.1:%d:8080", port)}}),
			"missing": web("missing", map[string]any{"image": "127.0.0.1:1/no/image:1", "archive": ""}),
			"health": web("health", map[string]any{
				"env": map[string]string{"FAIL": "health", "PASSWORD": "shown-not"}, "secrets": map[string]string{"password": "the disk"},
			}),
			"migrate": web("migrate", map[string]any{"env": map[string]string{"FAIL": "exit"}, "once": true}),
			"crash":   web("crash", map[string]any{"env": map[string]string{"FAIL": "exit"}}),
			"archive": web("archive", map[string]any{"image": p.name + "-none:1", "archive": "none.tar"}),
			"absent":  web("absent", map[string]any{"image": p.name + "-none:1", "archive": "absent.tar"}),
			"secret":  web("secret", map[string]any{"secrets": map[string]string{"password": "env:NO_SUCH_VARIABLE"}}),
		}
		p.template(t, all)
		said := p.operaFails(t, "deploy", "-w", "8", "service.yaml")
		for _, cause := range []string{
			"port: the container " + p.name + "-port does not start: docker start: ", "address already in use",
			"missing: there is no image 127.0.0.1:1/no/image:1 on 127.0.0.1, and it cannot be had: docker pull: ", "connection refused",
			"health: the container " + p.name + "-health is unhealthy; its health check: ", "*** is full",
			"migrate: the container " + p.name + "-migrate ended with 3; its last lines:", "no table users",
			"crash: the container " + p.name + "-crash does not stay up: it ended",
			"archive: " + none + " is no docker-archive",
			"absent: the archive " + filepath.Join(p.folder, "absent.tar") + " cannot be read: No such file or directory",
			"secret: env:NO_SUCH_VARIABLE: opera's environment has no such variable",
		} {
			requireSaid(t, said, cause)
		}
		require.NotEmpty(t, container(t, p.name+"-health"), "it stays, to be looked at")
		require.Empty(t, container(t, p.name+"-port"))

		p.opera(t, "undeploy", "-r", "-f", "-w", "8")
		require.Empty(t, p.left(t))

		// What failed is not in the way once its cause is mended.
		p.template(t, nodes{"port": all["port"]})
		p.operaFails(t, "deploy", "service.yaml")
		require.NoError(t, taken.Close())
		p.opera(t, "deploy", "-r", "-f", "service.yaml")
		require.Equal(t, "true", docker(t, "inspect", "--format", "{{.State.Running}}", p.name+"-port"))
		p.opera(t, "undeploy", "-f")
		require.Empty(t, p.left(t))
	})
}

// TestNoEngine: an Engine that does not answer is named, and so is a machine without a docker command.
func TestNoEngine(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		p.env = append(p.env, "DOCKER_HOST=unix:///nowhere/docker.sock")
		p.template(t, nil)
		said := p.operaFails(t, "deploy", "service.yaml")
		requireSaid(t, said, "engine: no Docker Engine answers on 127.0.0.1: ")
		requireSaid(t, said, "set the property install to true")
		p.opera(t, "undeploy", "-r", "-f")
	})
}
