//go:build blueprints

package blueprints_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// numberOfScript tells the service of TestDeployLocal apart from those of TestDockerLocal, which have the places of the versions of opera.
const numberOfScript = 10

// TestDockerLocal deploys from nothing on each version of opera, builds, goes through what happens to a service that is in use, fails and
// undeploys.
func TestDockerLocal(t *testing.T) {
	t.Parallel()
	operas := testbed.Pairs(t)
	for i, opera := range operas {
		t.Run(opera.Version, func(t *testing.T) {
			t.Parallel()
			s := newLocalService(t, opera, i)
			s.with(t, nil)
			w := testbed.WatchArguments()
			s.opera(t, "deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
			s.requireFirstBuild(t)
			s.requireWrongKeyDenied(t)
			s.requireUnchanged(t, func() { s.opera(t, "deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml") })
			inTurn(t, i, len(operas), s.requireRestore, s.requireNewVersion, s.requireMoreAndFewerWorkers, s.requireBuildOutlivesPowerCut, s.requireRotation, s.requireDataStays)
			s.requireNoSecret(t, w)
			s.requireUnchanged(t, func() { s.deploy(t, map[string]any{"removal": "delete"}) })
			s.undeploy(t)
			s.requireNothingLeft(t)
			s.requireFailures(t)
		})
	}
}

// requireFirstBuild submits the first build by client.py, and runs what it has built.
func (s *localService) requireFirstBuild(t *testing.T) {
	t.Helper()
	s.site = newSite(t, s.gateway)
	outputs := s.outputs(t)
	require.Equal(t, s.api, outputs["url"])
	require.Equal(t, s.registry, outputs["registry"])
	require.Contains(t, outputs["first_build"], "--api-key-file "+outputs["api_key_file"])
	s.pushBases(t)
	code, stdout, stderr := s.client(t, "--follow", s.document(t, "first"))
	require.Equal(t, fault.ExitOK, code, stderr)
	require.Contains(t, stderr, "it is made", "the log is followed")
	for _, image := range []string{"first:1", "first:other"} {
		require.Contains(t, stdout, s.registry+"/"+image+" sha256:")
	}
	// The Engine trusts registries on loopback without knowing who vouches for them.
	here := outputs["registry_here"]
	login := s.dockerCommand("login", "--username", "image-builder", "--password-stdin", here)
	login.Env, login.Stdin = s.env, strings.NewReader(s.secret(t, "registry-password"))
	out, err := login.CombinedOutput()
	require.NoError(t, err, "%s", out)
	pull := s.dockerCommand("run", "--rm", here+"/first:other")
	pull.Env = s.env
	out, err = pull.Output()
	require.NoError(t, err)
	require.Equal(t, "first\n", string(out))
	s.docker(t, "rmi", here+"/first:other")
}

func (s *localService) requireWrongKeyDenied(t *testing.T) {
	t.Helper()
	wrong := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(wrong, []byte("ib_wrong"), 0o600))
	code, _, stderr := s.client(t, "--api-key-file", wrong, s.document(t, "denied"))
	require.Equal(t, fault.ExitDenied, code, stderr)
}

// requireUnchanged: what is as it should be is left alone.
func (s *localService) requireUnchanged(t *testing.T, deploy func()) {
	t.Helper()
	was := s.containers(t)
	deploy()
	require.Equal(t, was, s.containers(t))
}

// requireBuildOutlivesUpdate changes inputs while a build runs. The build succeeds.
func (s *localService) requireBuildOutlivesUpdate(t *testing.T, changes map[string]any) {
	t.Helper()
	others := func() []string {
		return slices.DeleteFunc(s.containers(t), func(one string) bool { return strings.HasPrefix(one, s.name+"-worker") })
	}
	before := others()
	build := s.slow(t, "update")
	s.update(t, changes)
	if workers, ok := changes["workers"].(int); ok {
		require.Equal(t, workers, len(s.lines(t, "ps", "--quiet", "--filter", "name="+s.name+"-worker")))
		require.Equal(t, before, others(), "the number of workers is nobody else's business")
	}
	s.succeeds(t, build)
}

func (s *localService) requireMoreAndFewerWorkers(t *testing.T) {
	t.Helper()
	s.requireBuildOutlivesUpdate(t, map[string]any{"workers": 2})
	s.requireBuildOutlivesUpdate(t, map[string]any{"workers": 1})
}

// requireNothingLeft: after undeploy with removal, there is nothing of the service on the machine.
func (s *localService) requireNothingLeft(t *testing.T) {
	t.Helper()
	require.Empty(t, s.docker(t, "volume", "ls", "--quiet"))
	require.Empty(t, s.docker(t, "images", "--quiet"))
	require.NoDirExists(t, filepath.Join(s.folder, "secrets"))
}

// requireFailures has each step fail. Each time opera says which node it was and why, and what was there before goes on; half of the time from
// where it had stopped. Undeploy takes everything back.
func (s *localService) requireFailures(t *testing.T) {
	t.Helper()
	s.deployFails(t, "--clean-state", "registry", []string{"there is no image 127.0.0.1:1/nothing:1", "refused"}, map[string]any{"registry_image": "127.0.0.1:1/nothing:1", "registry_archive": ""})
	was := map[string]any{"registry_image": "image-builder-registry:" + imagesVersion, "registry_archive": archive(t, "image-builder-registry")}

	stranger, err := net.Listen("tcp", "127.0.0.1:"+s.values["registry_port"].(string))
	require.NoError(t, err)
	s.deployFails(t, "--resume", "registry", []string{s.values["registry_port"].(string), "address already in use"}, was)
	require.NoError(t, stranger.Close())

	password := s.secret(t, "database-password")
	require.NoError(t, os.WriteFile(filepath.Join(s.folder, "secrets", "database-password"), []byte("another"), 0o600))
	s.deployFails(t, "--clean-state", "migrate", []string{"password authentication failed"}, nil)
	require.NoError(t, os.WriteFile(filepath.Join(s.folder, "secrets", "database-password"), []byte(password), 0o600))

	s.deployFails(t, "--resume", "api", []string{`IMAGE_BUILDER_MAX_RUNNING: invalid value "many"`, "does not stay up"}, map[string]any{"image_builder_env": map[string]any{"IMAGE_BUILDER_MAX_RUNNING": "many"}})
	s.undeploy(t)
	s.requireNothingLeft(t)
}

// requireNoSecret: none is in what opera says and keeps, in what the Engine tells, in logs, or in a file that others may read.
func (s *localService) requireNoSecret(t *testing.T, w *testbed.Arguments) {
	t.Helper()
	secrets := secretsIn(t, s.folder)
	for _, line := range w.All() {
		requireNoSecret(t, secrets, "the command line "+line, []byte(line))
	}
	requireNoSecret(t, secrets, "opera's output", []byte(strings.Join(s.said, "")))
	require.NoError(t, filepath.WalkDir(filepath.Join(s.folder, ".opera"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		requireNoSecret(t, secrets, path, data)
		return err
	}))
	ids := strings.Fields(s.docker(t, "ps", "--all", "--quiet"))
	require.NotEmpty(t, ids)
	requireNoSecret(t, secrets, "docker inspect", []byte(s.docker(t, append([]string{"inspect"}, ids...)...)))
	requireNoSecret(t, secrets, "docker image inspect", []byte(s.docker(t, append([]string{"image", "inspect"}, strings.Fields(s.docker(t, "images", "--quiet"))...)...)))
	for _, id := range ids {
		out, err := s.dockerCommand("logs", id).CombinedOutput()
		require.NoError(t, err, "%s", out)
		requireNoSecret(t, secrets, "docker logs", out)
	}
	requireNoSecretInFiles(t, secrets, s.folder, s.setting("HOME"), s.setting("TMPDIR"))
}
