//go:build engines

package enginetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// bySSH reaches an Engine by way of ssh, as a user does: ssh logs in, and the docker command over there finds the Engine.
func (b *addressBed) bySSH(t *testing.T, kind testbed.DockerKind) {
	d := startDocker(t, kind)
	server := startSSH(t, d)
	t.Setenv("PATH", server.client+":"+os.Getenv("PATH"))
	t.Run("DOCKER_HOST over there", func(t *testing.T) { require.NoError(t, b.build(t, server.url)) })
	t.Run("socket by its path", func(t *testing.T) {
		require.NoError(t, b.build(t, server.url+strings.TrimPrefix(d.Host, "unix://")))
	})
	t.Run("context", func(t *testing.T) {
		dockerCommand(t, d, "context", "create", "by-ssh", "--docker", "host="+server.url)
		t.Cleanup(func() { dockerCommand(t, d, "context", "rm", "--force", "by-ssh") })
		t.Setenv("DOCKER_CONTEXT", "by-ssh")
		require.NoError(t, b.build(t, ""))
	})
	t.Run("no key", func(t *testing.T) {
		require.NoError(t, os.Remove(server.key))
		b.refuses(t, fault.Denied, server.url, "Permission denied")
	})
	t.Run("no server", func(t *testing.T) {
		server.stop()
		b.refuses(t, fault.Unavailable, server.url, "Connection refused")
	})
}

// sshServer is an OpenSSH server on a loopback port.
type sshServer struct {
	url    string // ssh://USER@HOST:PORT
	client string // folder with an ssh that knows its keys, for PATH
	key    string // file
	stop   func()
}

// startSSH starts one for an Engine, with keys, settings and known hosts of its own. Who logs in is whoever runs the test.
func startSSH(t *testing.T, d *testbed.Docker) *sshServer {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"host", "key"} {
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(name)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().(*net.TCPAddr)
	require.NoError(t, listener.Close())
	hostKey, err := os.ReadFile(in("host.pub"))
	require.NoError(t, err)
	write := func(path string, mode os.FileMode, format string, args ...any) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, format, args...), mode))
	}
	// A temporary folder is below one that everybody may write to, which StrictModes does not like.
	write(in("sshd_config"), 0o600, `ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH=%s:/usr/bin:/bin DOCKER_HOST=%s
`, address, in("host"), in("key.pub"), d.Bin(), d.Host)
	write(in("known_hosts"), 0o600, "[127.0.0.1]:%d %s", address.Port, hostKey)
	write(in("ssh_config"), 0o600, "IdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\nBatchMode yes\n", in("key"), in("known_hosts"))
	// OpenSSH's home is that of the user database, so its settings cannot be given by the environment.
	write(in("bin/ssh"), 0o700, "#!/bin/sh\nexec /usr/bin/ssh -F %s \"$@\"\n", in("ssh_config"))

	// sshd wants a user and a folder of the system's, which it gets in a mount namespace of its own.
	users, err := os.ReadFile("/etc/passwd")
	require.NoError(t, err)
	write(in("passwd"), 0o644, "%s\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n", strings.TrimSpace(string(users)))
	script := `mount --bind "$1" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$2" -D -e -f "$3"`
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", script, "sh", in("passwd"), filepath.Join(d.Debian, "usr", "sbin", "sshd"), in("sshd_config"))
	cmd.Env = append(os.Environ(), d.Libraries())
	log, err := os.Create(in("log"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The server has a process for each connection: all of them end.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	require.NoError(t, cmd.Start())
	stop := func() {
		cancel()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	listens := func() bool {
		conn, err := net.Dial("tcp", address.String())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	for deadline := time.Now().Add(30 * time.Second); !listens(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("sshd does not listen: %s", said)
		}
	}
	return &sshServer{url: "ssh://root@" + address.String(), client: in("bin"), key: in("key"), stop: stop}
}
