//go:build blueprints

package blueprints_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// cloudService is blueprints/openstack, on the tests' OpenStack.
type cloudService struct {
	*service
	cloud   *testbed.OpenStack
	vm      string // name of the server; what is on it has the same in front of its own
	address string // of the server, once there is one
}

// newCloudService is not deployed yet. Names tell services apart that are there at the same time.
func newCloudService(t *testing.T, version testbed.Opera, vm string) *cloudService {
	t.Helper()
	cloud := openStack(t)
	s := &cloudService{cloud: cloud, vm: vm, service: &service{gateway: cloud.Gateway}}
	s.project = newProject(t, version, "openstack", cloud.Environ()...)
	s.values = map[string]any{
		"ssh-key-name": cloud.KeyName, "identity_file": cloud.KeyFile, "vm-name": vm, "username": cloud.User, "image-name": cloud.Images.Docker,
		"openstack-network-name": cloud.Network, "security-groups": "default", "flavor-name": cloud.Flavors.Small, "docker-network": vm,
		"image_builder_env":                 map[string]any{"IMAGE_BUILDER_GRACE": "3s", "IMAGE_BUILDER_LOG_LEVEL": "debug"}, // builds are handed back soon
		"docker-registry-cert-country-name": "SI", "docker-registry-cert-organization-name": "Tests", "docker-registry-cert-email-address": "tests@example.com",
		"workers_security_group": vm + "-workers", "database_port": "${PRIVATE_ADDRESS}:5432:5432", "allow_egress": cloud.Gateway,
		"api_image": "image-builder-api:" + imagesVersion, "api_archive": archive(t, "image-builder-api"),
		"postgres_image": "image-builder-postgres:" + imagesVersion, "postgres_archive": archive(t, "image-builder-postgres"),
		"registry_image": "image-builder-registry:" + imagesVersion, "registry_archive": archive(t, "image-builder-registry"),
	}
	s.with(t, nil)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		defer func() { // the OpenStack outlives the test
			for _, deployed := range []string{".opera-workers", ".opera"} {
				undeploy := exec.Command(filepath.Join(s.version.Bin, "opera"), "undeploy", "-p", deployed, "--resume", "--force", "--workers", "3")
				undeploy.Dir, undeploy.Env = s.folder, s.env
				if out, err := undeploy.CombinedOutput(); err != nil {
					t.Logf("undeploy -p %s: %v: %s", deployed, err, out)
				}
			}
		}()
		if s.address == "" {
			return
		}
		said, _ := s.ssh(s.address, "sudo docker ps --all; for c in $(sudo docker ps --all --quiet); do sudo docker inspect --format {{.Name}} $c; sudo docker logs --tail 20 $c 2>&1; done")
		t.Log(said)
	})
	return s
}

// openStack is the OpenStack that all tests share.
func openStack(t *testing.T) *testbed.OpenStack {
	t.Helper()
	cloud, err := startOpenStack()
	require.NoError(t, err)
	return cloud
}

var startOpenStack = sync.OnceValues(func() (*testbed.OpenStack, error) {
	ctx, stop := context.WithTimeout(context.Background(), 15*time.Minute)
	defer stop()
	cloud, err := testbed.StartOpenStack(ctx)
	if err == nil {
		atEnd(cloud.Close)
	}
	return cloud, err
})

// left is what the cloud has of the service.
func (s *cloudService) left(t *testing.T) []string {
	t.Helper()
	return s.cloud.Listing(t, s.vm)
}

// deployed learns where the service is.
func (s *cloudService) deployed(t *testing.T) {
	t.Helper()
	outputs := s.outputs(t)
	s.address = outputs["server_address"]
	s.api, s.registry = outputs["url"], outputs["registry"]
	s.registryHere = s.registry
	require.Equal(t, "https://"+s.address, s.api)
	require.Equal(t, s.address+":5000", s.registry)
	require.Contains(t, outputs["first_build"], "--url "+s.api+" --ca-cert "+outputs["ca_certificate"]+" --api-key-file "+outputs["api_key_file"])
}

// sshCommand runs a command on a server, whose key has to be the one that opera has learned.
func (s *cloudService) sshCommand(address, script string) *exec.Cmd {
	return exec.Command("ssh", "-i", s.cloud.KeyFile, "-o", "UserKnownHostsFile="+filepath.Join(s.folder, ".image-builder", "known_hosts"),
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", s.cloud.User+"@"+address, script)
}

func (s *cloudService) ssh(address, script string) (string, error) {
	out, err := s.sshCommand(address, script).CombinedOutput()
	return string(out), err
}

// on runs a command on a server, which must succeed.
func (s *cloudService) on(t *testing.T, address, script string) string {
	t.Helper()
	out, err := s.ssh(address, script)
	require.NoError(t, err, "%s: %s", script, out)
	return strings.TrimSpace(out)
}

// found finds the server before opera gives its address.
func (s *cloudService) found(t *testing.T) string {
	t.Helper()
	known, err := os.ReadFile(filepath.Join(s.folder, ".image-builder", "known_hosts"))
	require.NoError(t, err)
	address, _, ok := strings.Cut(string(known), " ")
	require.True(t, ok)
	return address
}

// containers are all containers of the server, with what tells whether they were touched.
func (s *cloudService) containers(t *testing.T) []string {
	t.Helper()
	said := s.on(t, s.address, "sudo docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}' $(sudo docker ps --all --quiet)")
	return slices.Sorted(slices.Values(strings.Split(said, "\n")))
}

// openPorts are the TCP ports of a server that answer, of all that there are.
func openPorts(t *testing.T, address string) []int {
	t.Helper()
	const atOnce, patience = 3000, 1500 * time.Millisecond
	var (
		mu    sync.Mutex
		open  []int
		group sync.WaitGroup
	)
	turn := make(chan struct{}, atOnce)
	for port := 1; port < 1<<16; port++ {
		turn <- struct{}{}
		group.Go(func() {
			defer func() { <-turn }()
			conn, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", address, port))
			if err != nil {
				return
			}
			_ = conn.Close()
			mu.Lock()
			defer mu.Unlock()
			open = append(open, port)
		})
	}
	group.Wait()
	slices.Sort(open)
	return open
}

// runs tells what an image of the service's registry says when the server runs it. The server's Engine is told whom to trust first, as people do.
func (s *cloudService) runs(t *testing.T, image string) string {
	t.Helper()
	certs := "/etc/docker/certs.d/" + s.registry
	cmd := s.sshCommand(s.address, "sudo mkdir -p "+certs+" && sudo tee "+certs+"/ca.crt >/dev/null")
	cmd.Stdin = strings.NewReader(s.secret(t, "ca.crt"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd = s.sshCommand(s.address, "sudo docker login --username image-builder --password-stdin "+s.registry+" >/dev/null 2>&1 && sudo docker run --rm "+s.registry+"/"+image+
		"; code=$?; sudo docker logout "+s.registry+" >/dev/null; exit $code")
	cmd.Stdin = strings.NewReader(s.secret(t, "registry-password"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err = cmd.Output()
	require.NoError(t, err, &stderr)
	return string(out)
}
