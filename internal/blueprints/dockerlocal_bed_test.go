//go:build blueprints

package blueprints_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// localService is a service of blueprints/docker-local, on an Engine of its own.
type localService struct {
	*service
	engine *testbed.Docker
	name   string
	subnet string // of its network, with %d for the last number
}

// newLocalService has an Engine without images. number tells services apart that run at the same time.
func newLocalService(t *testing.T, version testbed.Opera, number int) *localService {
	t.Helper()
	engine, err := testbed.StartDocker(t.Context(), testbed.DockerKinds()[0])
	require.NoError(t, err, "it takes root, and `scripts/engines.sh debian`")
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	s := &localService{engine: engine, name: fmt.Sprintf("ib%d", number), subnet: fmt.Sprintf("10.215.%d.%%d", 100+number)}
	s.sweepBridges(t)
	project := newProject(t, version, "docker-local", "DOCKER_HOST="+engine.Host, "PATH="+version.Bin+":"+engine.Bin()+":"+os.Getenv("PATH"), "DOCKER_CONFIG="+t.TempDir())
	port, registryPort := freePort(t), freePort(t)
	s.service = &service{
		project: project, api: "https://127.0.0.1:" + port, gateway: s.at(1),
		registry: s.name + "-registry:5000", registryHere: "127.0.0.1:" + registryPort,
	}
	s.values = map[string]any{
		"name": s.name, "workers": 1, "subnet": s.at(0) + "/24", "port": port, "registry_port": registryPort,
		"api_image": "image-builder-api:" + imagesVersion, "api_archive": archive(t, "image-builder-api"),
		"postgres_image": "image-builder-postgres:" + imagesVersion, "postgres_archive": archive(t, "image-builder-postgres"),
		"registry_image": "image-builder-registry:" + imagesVersion, "registry_archive": archive(t, "image-builder-registry"),
		// Builds are handed back soon, and not waited for.
		"image_builder_env": map[string]any{"IMAGE_BUILDER_GRACE": "3s", "IMAGE_BUILDER_LOG_LEVEL": "debug"},
	}
	t.Cleanup(func() {
		if t.Failed() && s.dockerCommand("version").Run() == nil {
			t.Log(s.docker(t, "ps", "--all"))
			for _, id := range strings.Fields(s.docker(t, "ps", "--all", "--quiet")) {
				out, _ := s.dockerCommand("logs", "--tail", "30", id).CombinedOutput()
				t.Logf("%s:\n%s", s.docker(t, "inspect", "--format", "{{.Name}} {{.State.Status}}", id), out)
			}
		}
	})
	return s
}

// sweepBridges removes what a test that was killed has left of the service's network.
func (s *localService) sweepBridges(t *testing.T) {
	t.Helper()
	all, err := net.Interfaces()
	require.NoError(t, err)
	for _, one := range all {
		addresses, err := one.Addrs()
		if err != nil || !slices.ContainsFunc(addresses, func(a net.Addr) bool { return a.String() == s.at(1)+"/24" }) {
			continue
		}
		out, err := exec.Command("ip", "link", "delete", one.Name).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// at is an address of the service's network.
func (s *localService) at(last int) string { return fmt.Sprintf(s.subnet, last) }

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

func (s *localService) undeploy(t *testing.T) {
	t.Helper()
	s.opera(t, "undeploy", "--resume", "--force", "--workers", "3")
	require.Equal(t, "undeployed", s.status(t))
	require.Empty(t, s.docker(t, "ps", "--all", "--quiet"))
	require.Equal(t, []string{"bridge", "host", "none"}, s.lines(t, "network", "ls", "--format", "{{.Name}}"))
}

func (s *localService) dockerCommand(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(s.engine.Bin(), "docker"), append([]string{"--host", s.engine.Host}, args...)...)
}

func (s *localService) docker(t *testing.T, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := s.dockerCommand(args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "docker %v: %s", args, &stderr)
	return strings.TrimSpace(string(out))
}

// lines are sorted.
func (s *localService) lines(t *testing.T, args ...string) []string {
	t.Helper()
	return slices.Sorted(slices.Values(strings.Fields(s.docker(t, args...))))
}

// containers are the names and ids of all containers.
func (s *localService) containers(t *testing.T) []string {
	t.Helper()
	return s.lines(t, "ps", "--all", "--no-trunc", "--format", "{{.Names}}={{.ID}}")
}
