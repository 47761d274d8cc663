//go:build blueprints && linux

package deployment_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

var servers atomic.Int32

// TestSSH: a machine that is reached by SSH gets the image and the container too, its key is learned once, and another one is refused. The
// user's own file of known hosts is left alone.
func TestSSH(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		here, err := user.Current()
		require.NoError(t, err)
		users := filepath.Join(here.HomeDir, ".ssh", "known_hosts")
		before, _ := os.ReadFile(users)
		address := fmt.Sprintf("127.214.%d.%d", os.Getpid()%250, 1+servers.Add(1))
		start := func() *testbed.SSH {
			server, err := testbed.StartSSH(testbed.SSHOptions{Address: address + ":22", Path: engine.Bin(), Env: []string{"DOCKER_HOST=" + engine.Host}})
			require.NoError(t, err)
			t.Cleanup(server.Close)
			return server
		}
		server := start()
		t.Cleanup(func() { p.hangUp(t) })
		key := filepath.Join(p.folder, "id")
		install := func() {
			data, err := os.ReadFile(server.Key)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(key, data, 0o600))
		}
		install()
		p.host = map[string]any{"public_address": address, "private_address": address, "ssh_user": server.User, "ssh_key": "id"}
		p.env = append(p.env, "DOCKER_HOST=unix:///nowhere.sock") // which is nothing to another machine
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "password"), []byte("one\x00two\xff"), 0o600))
		p.template(t, nodes{
			"certificate": node("Certificate", map[string]any{"name": "web"}),
			"web": node("Container", map[string]any{
				"name": p.name + "-web", "image": p.name + "-web:1", "archive": image(t, p.name+".tar", p.name+"-web:1", p.name),
				"env": map[string]string{"GREETING": "${ADDRESS} {{ 1+1 }}"}, "secrets": map[string]string{"password": "file:password"},
			}),
		}, "engine.version")
		p.opera(t, "deploy", "service.yaml")
		require.Equal(t, docker(t, "version", "--format", "{{.Server.Version}}"), p.outputs(t)["engine.version"])
		require.Equal(t, address+" {{ 1+1 }}", docker(t, "exec", p.name+"-web", "cat", "/tmp/www/greeting"))
		require.Equal(t, "one\x00two\xff", docker(t, "exec", p.name+"-web", "cat", "/run/secrets/password"))
		requireValid(t, certificateOf(t, filepath.Join(p.folder, "secrets", "web.crt")), filepath.Join(p.folder, "secrets", "ca.crt"), address, "localhost")
		known := filepath.Join(p.folder, ".image-builder", "known_hosts")
		learned, err := os.ReadFile(known)
		require.NoError(t, err)
		require.Equal(t, address+" "+server.HostKey, strings.TrimSpace(string(learned)))
		info, err := os.Stat(known)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		web := container(t, p.name+"-web")
		require.Zero(t, p.again(t))
		require.Equal(t, web, container(t, p.name+"-web"))

		// A home whose name is too long for the socket of a connection that is used again.
		was := p.env
		p.env = append(slices.Clone(was), "ANSIBLE_SSH_CONTROL_PATH_DIR="+filepath.Join(t.TempDir(), strings.Repeat("long", 20)))
		require.Zero(t, p.again(t))
		p.env = was

		// Another machine at the address.
		p.hangUp(t)
		server.Close()
		server = start()
		install()
		requireSaid(t, p.operaFails(t, "deploy", "-c", "-f", "service.yaml"), ": "+address+" has another host key than the one that was learned")
		require.NoError(t, os.WriteFile(known, nil, 0o600))
		p.opera(t, "deploy", "-r", "-f", "service.yaml")
		p.opera(t, "undeploy", "-f")
		require.Empty(t, p.left(t))

		p.hangUp(t)
		server.Close()
		requireSaid(t, p.operaFails(t, "deploy", "-c", "-f", "service.yaml"), ": "+address+" cannot be reached by SSH: ")
		after, _ := os.ReadFile(users)
		require.Equal(t, string(before), string(after))
	})
}

// hangUp ends the connections that are kept for a minute, as they do with a machine.
func (p *project) hangUp(t *testing.T) {
	t.Helper()
	open, err := filepath.Glob(filepath.Join(p.home, ".ansible", "cp", "*"))
	require.NoError(t, err)
	for _, path := range open {
		_ = exec.Command("ssh", "-o", "ControlPath="+path, "-O", "exit", "any").Run() // it may have ended
	}
}
