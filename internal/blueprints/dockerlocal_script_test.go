//go:build blueprints

package blueprints_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// checkout is a copy of the parts of the working tree that scripts/deploy_local.sh works with.
type checkout struct {
	*localService
	dir, state string
}

func newCheckout(t *testing.T, s *localService) *checkout {
	t.Helper()
	c := &checkout{localService: s, dir: t.TempDir(), state: filepath.Join(t.TempDir(), "state")}
	for _, part := range []string{"scripts", "library", "blueprints/docker-local"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(c.dir, part)), 0o755))
		out, err := exec.Command("cp", "-R", filepath.Join(root, part), filepath.Join(c.dir, part)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	// What it would make, is there.
	require.NoError(t, os.MkdirAll(filepath.Join(c.dir, ".work"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(root, ".work", "opera"), filepath.Join(c.dir, ".work", "opera")))
	return c
}

// start starts the script in a process group of its own, as a shell does.
func (c *checkout) start(t *testing.T, args ...string) *run {
	t.Helper()
	folder, err := archives()
	require.NoError(t, err)
	argv := append(args, "--folder", c.state)
	if args[0] == "deploy" {
		argv = append(argv, "--images", folder)
	}
	r := &run{Cmd: exec.CommandContext(t.Context(), filepath.Join(c.dir, "scripts", "deploy_local.sh"), argv...), done: make(chan struct{})}
	r.Dir, r.Env, r.Stdout, r.Stderr = t.TempDir(), c.env, &r.words, &r.words
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, r.Start())
	go func() {
		_ = r.Wait() // the code says it
		close(r.done)
	}()
	return r
}

// script runs the script to its end, which must be with this code, and gives what it said.
func (c *checkout) script(t *testing.T, code int, args ...string) string {
	t.Helper()
	got, said := c.wait(t, c.start(t, args...))
	require.Equal(t, code, got, "deploy_local.sh %v:\n%s", args, said)
	return said
}

// TestDeployLocal goes through scripts/deploy_local.sh.
func TestDeployLocal(t *testing.T) {
	t.Parallel()
	operas := testbed.Pairs(t)
	c := newCheckout(t, newLocalService(t, operas[len(operas)-1], numberOfScript))
	port, registryPort := c.values["port"].(string), c.values["registry_port"].(string)
	settings := []string{"deploy", "--yes", "--name", c.name, "--port", port, "--registry-port", registryPort, "--subnet", c.at(0) + "/24"}

	require.Contains(t, c.script(t, fault.ExitInvalid, "deploy"), "--yes goes on without asking")
	require.NoDirExists(t, c.state)
	env := c.env
	bare := t.TempDir()
	for _, program := range []string{"bash", "dirname", "uname"} {
		path, err := exec.LookPath(program)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(bare, program)))
	}
	c.env = append(c.env, "PATH="+bare)
	require.Contains(t, c.script(t, fault.ExitInvalid, settings...), "docker is missing")
	c.env = env
	stranger, err := net.Listen("tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	require.Contains(t, c.script(t, fault.ExitInvalid, settings...), "port "+port+" of 127.0.0.1 is taken")
	require.NoError(t, stranger.Close())
	require.Empty(t, c.containers(t))

	// ^C in the middle
	r := c.start(t, settings...)
	eventually(t, "it deploys containers", func() bool { return strings.Contains(r.words.String(), "Executing create on builder_0") })
	require.NoError(t, syscall.Kill(-r.Process.Pid, syscall.SIGINT))
	code, said := c.wait(t, r)
	require.Equal(t, fault.ExitCancelled, code, said)
	require.Contains(t, said, "--resume")
	said = c.script(t, fault.ExitOK, "deploy", "--yes", "--resume")

	first := regexp.MustCompile(`(?m)^  .*client\.py.*$`).FindString(said)
	require.NotEmpty(t, first, said)
	paste := exec.CommandContext(t.Context(), "sh", "-c", first)
	paste.Env = c.env
	out, err := paste.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), c.registry+"/first-build:1 sha256:")
	require.Contains(t, c.script(t, fault.ExitOK, "status"), "ready: "+c.api)

	was := c.containers(t)
	c.script(t, fault.ExitOK, "deploy", "--yes")
	require.Equal(t, was, c.containers(t))

	c.script(t, fault.ExitOK, "undeploy", "--yes")
	require.Empty(t, c.containers(t))
	require.Len(t, c.lines(t, "volume", "ls", "--quiet"), 3)
	require.FileExists(t, filepath.Join(c.state, "secrets", "api-key"))
	c.script(t, 1, "status")

	c.script(t, fault.ExitOK, "undeploy", "--yes", "--purge")
	c.requireNothingLeft(t)
	require.NoDirExists(t, c.state)
}
