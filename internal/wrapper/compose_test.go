//go:build compose

package wrapper_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
)

// composeNetworks are those of the blueprint with addresses of this test's own.
const composeNetworks = `
networks:
  data: {internal: true, ipam: {config: [{subnet: 10.213.78.0/24}]}}
  outside: {external: true, name: ` + network + `}
`

func init() { reproduced = []string{"amd64", "arm64"} }

// composition is the blueprint, running.
type composition struct {
	dir string
	env []string
	run func(t *testing.T, args ...string) string
	url string // of the API
}

// startBlueprint starts the blueprint as its README says, with more files than docker-compose.yml.
func startBlueprint(t *testing.T, project string, s *site, files ...string) *composition {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "docker-compose")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(root, "blueprints/docker-compose"))))
	require.NoError(t, os.Chmod(filepath.Join(dir, "init.sh"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "networks.yml"), []byte(composeNetworks), 0o600))
	registry := s.registry.Host
	c := &composition{dir: dir, env: []string{
		"PATH=" + filepath.Dir(dockerProgram()) + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + t.TempDir(), "DOCKER_HOST=" + engine.Host,
		"COMPOSE_PROJECT_NAME=" + project, "COMPOSE_FILE=" + strings.Join(append([]string{"docker-compose.yml", "networks.yml"}, files...), ":"),
		"IMAGE_BUILDER_PORT=0",
		"IMAGE_BUILDER_ALLOW_EGRESS=" + subnet, "IMAGE_BUILDER_PLAIN_REGISTRIES=" + registry,
	}}
	c.run = func(t *testing.T, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(filepath.Join(root, ".work/engines/bin/docker-compose"), append([]string{"--ansi", "never", "--progress", "plain"}, args...)...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, c.env, &stdout, &stderr
		require.NoError(t, cmd.Run(), "docker-compose %v: %s%s", args, &stdout, &stderr)
		return stdout.String()
	}
	init := exec.Command("./init.sh")
	init.Dir, init.Env = dir, c.env
	out, err := init.CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.run(t, "ps"), c.run(t, "logs", "--tail=60"))
		}
		c.run(t, "down", "--volumes", "--timeout", "10")
		require.Empty(t, docker(t, "ps", "--all", "--quiet", "--filter", "label=com.docker.compose.project="+project))
		require.Empty(t, docker(t, "volume", "ls", "--quiet", "--filter", "label=com.docker.compose.project="+project))
	})
	c.run(t, "up", "--detach", "--scale", "worker=2")
	id := strings.TrimSpace(c.run(t, "ps", "--quiet", "api"))
	address := strings.TrimSpace(docker(t, "inspect", "--format", `{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, id))
	c.url = "http://" + address + ":8080"
	eventually(t, "the service is ready", func() bool {
		answer, err := http.Get(c.url + "/readyz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	eventually(t, "all are healthy", func() bool {
		for _, id := range strings.Fields(c.run(t, "ps", "--quiet")) {
			if strings.TrimSpace(docker(t, "inspect", "--format", "{{.State.Health.Status}}", id)) != "healthy" {
				return false
			}
		}
		return true
	})
	return c
}

// client runs scripts/client.py.
func (c *composition) client(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", append([]string{filepath.Join(root, "scripts/client.py"), "--url", c.url, "--api-key-file", filepath.Join(c.dir, "secrets/api-key")}, args...)...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, &out, &errs
	_ = cmd.Run() // the code says it
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// TestCompose starts the service by Docker Compose and has it build, with BuildKit in the workers and with one for all of them.
func TestCompose(t *testing.T) {
	t.Parallel()
	for project, files := range map[string][]string{"workers": nil, "buildkit": {"buildkit.yml"}} {
		t.Run(project, func(t *testing.T) { // one after the other: the network of the database has one address
			s := newSite(t)
			c := startBlueprint(t, "compose-"+project, s, files...)
			p := newPerson(t, 0)
			source := s.repository(t, "FROM busybox\nRUN echo \"$(id -u)\" >/made && echo it is made\n")
			source["git_repo"].(map[string]any)["password"] = gitPassword
			document := p.document(t, "app.json", source, s.target(registryPassword))
			code, stdout, stderr := c.client(t, "--follow", document)
			require.Equal(t, fault.ExitOK, code, stderr)
			require.Contains(t, stderr, "it is made")
			image, digest, _ := strings.Cut(strings.TrimSpace(stdout), " ")
			ref, err := name.ParseReference(image, name.Insecure)
			require.NoError(t, err)
			served, err := remote.Head(ref, s.auth())
			require.NoError(t, err)
			require.Equal(t, digest, served.Digest.String())

			broken := s.repository(t, "FROM busybox\nRUN exit 7\n")
			broken["git_repo"].(map[string]any)["password"] = gitPassword
			code, _, stderr = c.client(t, p.document(t, "broken.json", broken, s.target(registryPassword)))
			require.Equal(t, fault.ExitFailed, code, stderr)
			require.Contains(t, stderr, "exit code: 7")

			inside := map[string]any{"git_repo": map[string]any{"url": "http://db:5432/app.git"}} // which a worker reaches
			code, _, stderr = c.client(t, p.document(t, "inside.json", inside, s.target(registryPassword)))
			require.Equal(t, fault.ExitDenied, code, stderr)
			require.Contains(t, stderr, "connect to db:5432 (10.213.78.")
			require.Contains(t, stderr, "--allow-egress")
		})
	}
}
