package opera_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// remoteTemplate is what opera calls the template with a machine that is not its own.
const remoteTemplate = "remote.yaml"

// site is a project whose images are built on another machine.
type site struct {
	*project
	server *testbed.SSH
}

// onServer gives a project another machine to build on.
func (p *project) onServer(t *testing.T, server *testbed.SSH) *site {
	t.Helper()
	template, err := os.ReadFile(filepath.Join("testdata", remoteTemplate))
	require.NoError(t, err)
	p.write(t, remoteTemplate, string(template))
	// What is chosen for builds on this machine does not reach the other one.
	p.env = append(p.env, "BUILDKIT_HOST=unix:///nowhere.sock", "IMAGE_BUILDER_REMOTE_ENGINE=buildkit", "IMAGE_BUILDER_REMOTE_BUILDKIT_HOST="+engine,
		"ANSIBLE_REMOTE_PORT="+server.Port())
	return &site{project: p, server: server}
}

// newServer is a machine to build on, for as long as a test runs.
func newServer(t *testing.T, env ...string) *testbed.SSH {
	t.Helper()
	server, err := testbed.StartSSH(testbed.SSHOptions{Env: env})
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return server
}

// built writes the inputs: an image app:1 of this Dockerfile, and top:1 on it.
func (s *site) built(t *testing.T, dockerfile string, more map[string]any) {
	t.Helper()
	values := map[string]any{
		"address": "127.0.0.1", "user": s.server.User, "key": s.server.Key,
		"source": s.repository(t, "app", dockerfile), "target": s.target(s.onBusybox("app", "1")),
		"top_source": s.repository(t, "top", "FROM app\nRUN cat /remote >/top\n"), "top_target": s.target(image("top", "1")),
	}
	for k, v := range more {
		values[k] = v
	}
	s.inputs(t, singleInput, values)
}

// log is what a node's log has.
func (s *site) log(t *testing.T, operation string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.folder, ".image-builder", "logs", operation+".log"))
	require.NoError(t, err)
	return string(data)
}

// TestRemote is the life of a deployment whose images are built on another machine: what that has is what this one brings there, and
// everything else is as if they were built here. A wrong machine in its place is not logged in to.
func TestRemote(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		v := newVault(t, p)
		s := p.onServer(t, newServer(t, "CANARY_registry=of-the-server"))
		for name, value := range secrets() {
			s.env = append(s.env, "CANARY_"+name+"="+value)
		}
		elsewhere := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "git"), []byte(secrets()["git"]+"\n"), 0o600))
		relative, err := filepath.Rel(s.folder, elsewhere)
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(filepath.Join(s.folder, ".opera"), 0o700))
		stop := watchArguments(t)
		deployment := v.deployment(t, "1", "RUN echo seen $((6*7)) by "+s.folder+"; echo remote >/remote", "registry", func(secret string) string {
			if secret == "git" {
				return "file:" + relative + "/git"
			}
			return "env:CANARY_" + secret
		})
		top := map[string]any{"registry": deployment["target"].(map[string]any)["registry"], "images": []any{image("top", "1")}}
		s.built(t, "FROM busybox\n", map[string]any{
			"source": deployment["source"], "target": deployment["target"], "options": deployment["options"], "top_target": top,
		})
		said := s.opera(t, "deploy", "-i", singleInput, remoteTemplate)
		require.Contains(t, said, "app | ")
		require.Contains(t, said, "seen 42")
		require.Contains(t, s.log(t, "app.create"), "bring image-builder")
		require.NotContains(t, s.log(t, "top.create"), "bring image-builder", "they are there")
		outputs := s.outputs(t)
		images := imagesOf(t, outputs)
		require.Len(t, images, 1)
		require.Equal(t, []string{"1"}, v.registryHas(t))
		require.Contains(t, outputs["top"], v.private.Host+"/top@sha256:")

		s.opera(t, "deploy", "--clean-state", "--force", "-i", singleInput, remoteTemplate)
		again := s.images(t)
		require.True(t, again[0].Unchanged)
		require.Equal(t, images[0].Digest, again[0].Digest)
		require.NotContains(t, s.log(t, "app.create"), "bring image-builder")

		stop()
		v.requireNoTrace(t, false, said)
		requireNoTraceIn(t, s.server.Home)

		// Another machine in its place, none, and the one that it was.
		known, err := os.ReadFile(filepath.Join(s.folder, ".image-builder", "known_hosts"))
		require.NoError(t, err)
		require.Contains(t, string(known), s.server.HostKey)
		require.NoFileExists(t, filepath.Join(s.setting("HOME"), ".ssh", "known_hosts"))
		other := newServer(t)
		s.write(t, ".image-builder/known_hosts", strings.ReplaceAll(string(known), s.server.Port(), other.Port()))
		was := s.env
		s.env = append(slices.Clone(was), "ANSIBLE_REMOTE_PORT="+other.Port())
		said = s.operaFails(t, "undeploy", "--force")
		require.Contains(t, said, "top: error: connect to 127.0.0.1: its host key is not the one that is known")
		other.Close()
		said = s.operaFails(t, "undeploy", "--resume", "--force")
		require.Contains(t, said, "top: error: connect to 127.0.0.1: ")
		require.Contains(t, said, "Connection refused")
		require.Equal(t, []string{"1"}, v.registryHas(t))
		s.env = was
		s.write(t, ".image-builder/known_hosts", string(known))
		s.opera(t, "undeploy", "--resume", "--force")
		require.Empty(t, v.registryHas(t))
	})
}

// requireNoTraceIn finds no secret in the files below a folder.
func requireNoTraceIn(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		require.False(t, hasTrace(data), path)
		return err
	}))
}

// TestRemoteEnds: when opera ends, whatever way, the build on the other machine does.
func TestRemoteEnds(t *testing.T) {
	server := newServer(t) // of all, for bringing the executables over is what takes longest
	onEach(t, false, func(t *testing.T, p *project) {
		s := p.onServer(t, server)
		for _, end := range []struct {
			signal syscall.Signal
			group  int // -1: all that it started, as a terminal does
		}{{syscall.SIGINT, -1}, {syscall.SIGKILL, 1}} {
			n := strconv.FormatInt(time.Now().UnixNano(), 10) // seconds that nobody else sleeps
			s.built(t, "FROM busybox\nRUN echo seen $((6*7)); echo remote >/remote; exec sleep "+n+"\n", nil)
			c := s.start(t, "deploy", "--clean-state", "--force", "-i", singleInput, remoteTemplate)
			eventually(t, "what the step says is seen while it runs", func() bool { return strings.Contains(c.said(), "app | ") && strings.Contains(c.said(), "seen 42") })
			require.True(t, testbed.ProcessRuns(n))
			require.NoError(t, syscall.Kill(end.group*c.Process.Pid, end.signal))
			eventually(t, "the step ends", func() bool { return !testbed.ProcessRuns(n) })
			require.NoError(t, os.RemoveAll(filepath.Join(s.GitRoot, "app.git")))
			require.NoError(t, os.RemoveAll(filepath.Join(s.GitRoot, "top.git")))
			require.NotZero(t, c.wait(t), c.said())
		}
		require.Empty(t, s.Tags(t, "app"))
	})
}
