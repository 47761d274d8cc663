//go:build linux && blueprints

package testbed_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// started prints when a server's first process began.
const started = "cut --delimiter ' ' --fields 22 /proc/1/stat"

// openStackPatience is how long something may take that takes seconds on a quiet machine.
const openStackPatience = 2 * time.Minute

// TestOpenStackServer: a server is a machine with a Docker Engine that only lets in who may, comes back from a power cut, and leaves
// nothing when it is deleted.
func TestOpenStackServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cloud, err := testbed.StartOpenStack(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cloud.Close()) })
	random := make([]byte, 4)
	_, _ = rand.Read(random)
	name := "bed-" + hex.EncodeToString(random)
	s := &server{cloud: cloud, name: name}
	t.Cleanup(func() { s.clean(t) })

	s.does(t, "security", "group", "create", name)
	s.allows(t, "22")
	s.create(t)
	require.Contains(t, strings.Join(cloud.Listing(t, name), "\n"), s.id)
	require.Equal(t, "root\n", s.ssh(t, nil, "sudo --non-interactive id --user --name"))

	s.ssh(t, busyboxFiles(t), "sudo docker import - busybox")
	require.Equal(t, "hello\n", s.ssh(t, nil, "sudo docker run --rm busybox /busybox echo hello"))
	s.ssh(t, nil, "sudo docker run --detach --restart unless-stopped --publish 8080:80 busybox /busybox httpd -f -h /www")
	s.ssh(t, nil, "sudo docker run --detach --name once busybox /busybox sleep 1000")
	require.Equal(t, "served", s.ssh(t, nil, `python3 -c 'import urllib.request; print(end=urllib.request.urlopen("http://127.0.0.1:8080").read().decode())'`))
	_, err = (&http.Client{Timeout: 3 * time.Second}).Get(s.web())
	require.ErrorContains(t, err, "Timeout exceeded", "no group allows the port")
	s.allows(t, "8080")
	s.serves(t)

	before := s.ssh(t, nil, started)
	cloud.Crash(t, name)
	s.serves(t)
	require.NotEqual(t, before, s.ssh(t, nil, started), "it was started again")
	require.Equal(t, "false 255\n", s.ssh(t, nil, "sudo docker inspect --format '{{.State.Running}} {{.State.ExitCode}}' once"), "the others ended with it")

	cloud.DeleteServer(t, s.id)
	s.does(t, "security", "group", "delete", name)
	require.Empty(t, cloud.Listing(t, name))
	require.Empty(t, s.traces(t))
}

// server is one in the OpenStack, with a security group of the same name.
type server struct {
	cloud             *testbed.OpenStack
	name, id, address string
}

// does runs OpenStack's command line, and gives what it prints.
func (s *server) does(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.cloud.Command(t.Context(), s.cloud.Cloud, args...)
	require.NoError(t, err)
	return out
}

// allows opens a port to this machine.
func (s *server) allows(t *testing.T, port string) {
	t.Helper()
	s.does(t, "security", "group", "rule", "create", "--ingress", "--protocol", "tcp", "--dst-port", port, "--remote-ip", s.cloud.Gateway+"/32", s.name)
}

func (s *server) create(t *testing.T) {
	t.Helper()
	out := s.does(t, "server", "create", "--image", s.cloud.Images.Docker, "--flavor", s.cloud.Flavors.Tiny, "--network", s.cloud.Network,
		"--key-name", s.cloud.KeyName, "--security-group", s.name, "--wait", "--format", "json", s.name)
	var made struct {
		ID        string              `json:"id"`
		Addresses map[string][]string `json:"addresses"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &made), out)
	require.Len(t, made.Addresses[s.cloud.Network], 1)
	s.id, s.address = made.ID, made.Addresses[s.cloud.Network][0]
	require.NotEmpty(t, s.traces(t), "what is looked for at the end is there now")
	// The Engine comes up after sshd.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		out, err := s.command(t.Context(), "sudo docker version").CombinedOutput()
		require.NoError(c, err, string(out))
	}, openStackPatience, time.Second)
}

// clean deletes what a test that has failed leaves.
func (s *server) clean(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	ctx := context.Background()
	_, _ = s.cloud.Command(ctx, s.cloud.Cloud, "server", "delete", "--wait", s.name)
	_, _ = s.cloud.Command(ctx, s.cloud.Cloud, "security", "group", "delete", s.name)
}

func (s *server) command(ctx context.Context, script string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", "-i", s.cloud.KeyFile, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", s.cloud.User+"@"+s.address, script)
}

// ssh runs a command on the server, which must succeed, and gives what it prints.
func (s *server) ssh(t *testing.T, input io.Reader, script string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := s.command(t.Context(), script)
	cmd.Stdin, cmd.Stderr = input, &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", script, errs.String())
	return string(out)
}

func (s *server) web() string { return "http://" + s.address + ":8080/" }

// serves waits until the container answers.
func (s *server) serves(t *testing.T) {
	t.Helper()
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		answer, err := client.Get(s.web())
		require.NoError(c, err)
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		require.NoError(c, err)
		require.Equal(c, "served", string(body))
	}, openStackPatience, 200*time.Millisecond)
}

// traces are what is known of the server to the kernel and on the disk: its namespace, mounts and files, and its groups of
// processes, which there are as long as there is a process.
func (s *server) traces(t *testing.T) string {
	t.Helper()
	out, err := s.cloud.Inside(t.Context(), "bash", "-c", `short=${1:0:8}; ip netns | grep "$short"; mount | grep "$1"; `+
		`find /bed/servers -name "$1"; find /sys/fs/cgroup -name "ibos-$short"; true`, "traces", s.id)
	require.NoError(t, err)
	return out
}

// busyboxFiles is a file system for an image: busybox, and a page that it can serve.
func busyboxFiles(t *testing.T) io.Reader {
	t.Helper()
	folder, err := testbed.Bases(t.Context())
	require.NoError(t, err)
	program, err := os.ReadFile(filepath.Join(folder, runtime.GOARCH)) //nolint:gosec // G304: of the tests
	require.NoError(t, err)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range map[string][]byte{"busybox": program, "www/index.html": []byte("served")} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return &archive
}
