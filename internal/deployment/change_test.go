//go:build blueprints && linux

package deployment_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestChange: what is deployed with other properties is made anew, and nothing else is.
func TestChange(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		archive := image(t, p.name+".tar", p.name+"-web:1", p.name)
		web := func(name string, more map[string]any) map[string]any {
			properties := map[string]any{"name": p.name + "-" + name, "image": p.name + "-web:1", "archive": archive, "networks": []string{p.name + "-net"}}
			for key, value := range more {
				properties[key] = value
			}
			return node("Container", properties, "net")
		}
		number := 1
		change := func(all nodes) { // as people do who have this version
			number++
			p.service = fmt.Sprintf("service%d.yaml", number)
			p.template(t, all)
			if p.version.Version == "0.6.6" {
				p.opera(t, "deploy", "-c", "-f", p.service)
			} else {
				p.opera(t, "update", p.service)
			}
		}
		all := nodes{
			"net":    node("DockerNetwork", map[string]any{"name": p.name + "-net", "subnet": subnet(t)}),
			"db":     web("db", nil),
			"worker": web("worker", map[string]any{"replicas": 3, "volumes": []string{p.name + "-log:/log"}}),
		}
		p.template(t, all)
		p.opera(t, "deploy", "service.yaml")
		names := []string{"db", "worker-1", "worker-2", "worker-3"}
		ids := func() (all []string) {
			for _, name := range names {
				all = append(all, container(t, p.name+"-"+name))
			}
			return all
		}
		before := ids()
		require.NotContains(t, before, "")

		change(all)
		require.Equal(t, before, ids(), "the inputs are the same")

		all["worker"] = web("worker", map[string]any{"replicas": 2, "volumes": []string{p.name + "-log:/log"}})
		change(all)
		after := ids()
		require.Equal(t, before[0], after[0])
		require.Empty(t, after[3])
		if p.version.Version == "0.6.6" {
			require.Equal(t, before[:3], after[:3], "those that are still wanted run on")
		}

		all["worker"] = web("worker", map[string]any{"replicas": 1})
		all["db"] = web("db", map[string]any{"revision": "2"})
		change(all)
		again := ids()
		require.NotEqual(t, after[0], again[0])
		require.NotEmpty(t, again[0])
		require.Equal(t, []string{"", "", ""}, again[1:])
		require.NotEmpty(t, container(t, p.name+"-worker"))

		docker(t, "rm", "--force", p.name+"-db") // by hand
		require.Equal(t, 1, p.again(t))
		require.NotEmpty(t, container(t, p.name+"-db"))
		docker(t, "rm", "--force", p.name+"-db")
		p.opera(t, "undeploy", "-f")
		require.Equal(t, []string{"volume " + p.name + "-log"}, p.left(t))
	})
}

// TestSecretsChange: a container whose secret has changed is made anew, and so is one whose image is another one; it is stopped as it wants to
// be. The old image goes when nobody uses it.
func TestSecretsChange(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		p.env = append(p.env, "PASSWORD=one")
		archive := image(t, p.name+".tar", p.name+"-web:1", p.name)
		deployed := func(archive string) nodes {
			return nodes{"web": node("Container", map[string]any{
				"name": p.name + "-web", "image": p.name + "-web:1", "archive": archive, "secrets": map[string]string{"password": "env:PASSWORD"},
				"volumes": []string{p.name + "-log:/log"}, "command": []string{"sh", "-c", `trap 'echo stopped >/log/said; exit 0' TERM; mkdir -p /tmp/www; touch /tmp/www/ready; httpd -f -p 8080 -h /tmp/www & wait $!`},
				"options": []string{"--user=root"},
			})}
		}
		p.template(t, deployed(archive))
		p.opera(t, "deploy", "service.yaml")
		first := container(t, p.name+"-web")
		require.Zero(t, p.again(t))
		require.Equal(t, "400 root", docker(t, "exec", p.name+"-web", "stat", "-c", "%a %U", "/run/secrets/password"))

		p.env = append(p.env, "PASSWORD=two")
		require.Equal(t, 1, p.again(t))
		second := container(t, p.name+"-web")
		require.NotEqual(t, first, second)
		require.Equal(t, "stopped", docker(t, "exec", p.name+"-web", "cat", "/log/said"))
		require.Equal(t, "two", docker(t, "exec", p.name+"-web", "cat", "/run/secrets/password"))

		was := docker(t, "inspect", "--format", "{{.Image}}", second)
		p.template(t, deployed(image(t, p.name+"-next.tar", p.name+"-web:1", "next")))
		require.Equal(t, 1, p.again(t))
		require.Equal(t, "next", docker(t, "exec", p.name+"-web", "cat", "/more"))
		require.NotContains(t, docker(t, "images", "--no-trunc", "--quiet"), was)

		p.opera(t, "undeploy", "-f")
		require.Equal(t, []string{"volume " + p.name + "-log"}, p.left(t))
	})
}
