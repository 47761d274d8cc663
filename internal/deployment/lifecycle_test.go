//go:build blueprints && linux

package deployment_test

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestLifecycle: what is deployed is there, a second deployment changes nothing, and undeploy takes all of it but the volume. No secret is to
// be seen on the way, and nothing is a template to Ansible.
func TestLifecycle(t *testing.T) {
	onEach(t, func(t *testing.T, p *project) {
		ran := filepath.Join(p.folder, "ran")
		injection := "{{ lookup('pipe', 'touch " + ran + "') }}"
		secret := p.name + "-canary-5b1f"
		p.env = append(p.env, "TOKEN="+secret)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "password"), []byte(secret+" of a file\n"), 0o600))
		port := freePort(t)
		archive := image(t, p.name+".tar", p.name+"-web:1", p.name)
		all := nodes{
			"inside":  node("DockerNetwork", map[string]any{"name": p.name + "-inside", "subnet": subnet(t), "internal": true}),
			"outside": node("DockerNetwork", map[string]any{"name": p.name + "-outside", "subnet": subnet(t)}),
			"data":    node("DockerVolume", map[string]any{"name": p.name + "-data"}),
			"migrate": node("Container", map[string]any{
				"name": p.name + "-migrate", "image": p.name + "-web:1", "archive": archive, "networks": []string{p.name + "-inside"}, "once": true,
				"command": []string{"sh", "-c", "cat /run/secrets/api-token"}, "secrets": map[string]string{"api-token": "env:TOKEN"},
			}, "inside"),
			"web": node("Container", map[string]any{
				"name": p.name + "-web", "image": p.name + "-web:1", "archive": archive, "networks": []string{p.name + "-outside", p.name + "-inside"},
				"ports": []string{fmt.Sprintf("127.0.0.1:%d:8080", port)}, "volumes": []string{p.name + "-data:/data"},
				"env":     map[string]any{"GREETING": injection, "HERE": "http://${ADDRESS}:1", "NUMBER": 3, "QUOTED": `a "b" 'c' $d`},
				"secrets": map[string]string{"api-token": "env:TOKEN", "password": "file:password", "injected": injection},
			}, "inside", "outside", "data", "migrate"),
			"worker": node("Container", map[string]any{
				"name": p.name + "-worker", "image": p.name + "-web:1", "archive": archive, "networks": []string{p.name + "-inside"}, "replicas": 2,
			}, "migrate"),
		}
		p.template(t, all, "web.container_id", "web.address", "web.image_id", "engine.version", "outside.network_id")

		seen := watch(p.tmp, secret)
		said := p.opera(t, "deploy", "-v", "service.yaml")
		require.Empty(t, seen())
		require.NotContains(t, said, secret)

		outputs := p.outputs(t)
		require.Equal(t, container(t, p.name+"-web"), outputs["web.container_id"])
		require.Equal(t, docker(t, "inspect", "--format", "{{.Image}}", p.name+"-web"), outputs["web.image_id"])
		require.Equal(t, docker(t, "inspect", "--format", "{{(index .NetworkSettings.Networks \""+p.name+"-outside\").IPAddress}}", p.name+"-web"), outputs["web.address"])
		require.Equal(t, docker(t, "version", "--format", "{{.Server.Version}}"), outputs["engine.version"])
		require.Equal(t, injection, get(t, fmt.Sprintf("http://127.0.0.1:%d/greeting", port)))
		require.NoFileExists(t, ran)
		require.Equal(t, "true", docker(t, "network", "inspect", "--format", "{{.Internal}}", p.name+"-inside"))
		require.Contains(t, docker(t, "exec", p.name+"-worker-2", "nslookup", p.name+"-web"), "Address")
		require.Equal(t, strconv.Itoa(min(outsideMTU(t), 1500)), docker(t, "exec", p.name+"-web", "cat", "/sys/class/net/eth0/mtu"))
		require.Equal(t, injection, docker(t, "exec", p.name+"-web", "cat", "/run/secrets/injected"))
		require.Equal(t, secret+" of a file", docker(t, "exec", p.name+"-web", "cat", "/run/secrets/password"))
		require.Equal(t, "400 web", docker(t, "exec", p.name+"-web", "stat", "-c", "%a %U", "/run/secrets/api-token"))
		require.Contains(t, docker(t, "logs", p.name+"-migrate"), secret, "it had it")
		env := strings.Split(docker(t, "exec", p.name+"-web", "env"), "\n")
		require.Subset(t, env, []string{"HERE=http://127.0.0.1:1", "NUMBER=3", `QUOTED=a "b" 'c' $d`})
		require.NotContains(t, docker(t, "inspect", p.name+"-web", p.name+"-migrate"), secret)
		require.Empty(t, filesWith(t, filepath.Join(p.folder, ".opera"), secret))
		require.Empty(t, filesWith(t, p.tmp, ""), "temporary files are left")

		before := docker(t, "ps", "--all", "--no-trunc", "--quiet", "--filter", "name="+p.name+"-")
		require.Len(t, strings.Fields(before), 4)
		require.Zero(t, p.again(t))
		require.Equal(t, before, docker(t, "ps", "--all", "--no-trunc", "--quiet", "--filter", "name="+p.name+"-"))

		p.opera(t, "undeploy", "-f")
		require.Equal(t, []string{"volume " + p.name + "-data"}, p.left(t))
		docker(t, "volume", "rm", p.name+"-data")
	})
}

// outsideMTU is that of the interface which leads out of this machine, in bytes.
func outsideMTU(t *testing.T) int {
	t.Helper()
	route, err := net.Dial("udp4", "192.0.2.1:9") // sends nothing
	require.NoError(t, err)
	defer route.Close()
	outside := route.LocalAddr().(*net.UDPAddr).IP.String()
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, one := range interfaces {
		addresses, err := one.Addrs()
		require.NoError(t, err)
		for _, address := range addresses {
			if strings.HasPrefix(address.String(), outside+"/") {
				return one.MTU
			}
		}
	}
	t.Fatalf("no interface has %s", outside)
	return 0
}

// watch looks at all processes and at a folder of temporary files until it is asked: it tells of processes that have the secret in their
// arguments, and of files that others can read.
func watch(folder, secret string) func() []string {
	arguments, stop, found := testbed.WatchArguments(), make(chan struct{}), make(chan []string)
	go func() {
		var all []string
		for {
			select {
			case <-stop:
				found <- all
				return
			case <-time.After(50 * time.Millisecond):
			}
			_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() || filepath.Dir(path) != folder { // those in folders of 0700 are opera's and Ansible's
					return nil
				}
				if info, err := entry.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
					all = append(all, path+" "+info.Mode().String())
				}
				return nil
			})
		}
	}()
	return func() []string {
		close(stop)
		all := <-found
		for _, line := range arguments.All() {
			if strings.Contains(line, secret) {
				all = append(all, strings.ReplaceAll(line, "\x00", " "))
			}
		}
		return all
	}
}

// filesWith are the files below a folder that a text is in.
func filesWith(t *testing.T, folder, text string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), text) {
			all = append(all, path)
		}
		return err
	}))
	return all
}

func get(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(http.StatusOK), strconv.Itoa(answer.StatusCode))
	return strings.TrimSpace(string(body))
}
