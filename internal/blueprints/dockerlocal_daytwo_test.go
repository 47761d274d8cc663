//go:build blueprints

package blueprints_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
)

// requireNewVersion replaces the image of API and workers while a build runs: the schema is brought up to date once, before the new API starts.
func (s *localService) requireNewVersion(t *testing.T) {
	t.Helper()
	const newer = "newer"
	s.requireBuildOutlivesUpdate(t, map[string]any{
		"api_image": "image-builder-api:" + newer, "api_archive": newerImage(t, "image-builder-api", newer, t.TempDir()),
	})
	for _, container := range []string{"-migrate", "-api", "-worker", "-builder"} {
		require.Equal(t, newer, s.docker(t, "inspect", "--format", `{{index .Config.Labels "org.opencontainers.image.version"}}`, s.name+container))
	}
	migrated := s.docker(t, "inspect", "--format", "{{.State.ExitCode}} {{.RestartCount}} {{.State.FinishedAt}}", s.name+"-migrate")
	require.Contains(t, migrated, "0 0 ")
	require.Less(t, strings.Fields(migrated)[2], s.docker(t, "inspect", "--format", "{{.State.StartedAt}}", s.name+"-api"))
	require.Empty(t, s.docker(t, "images", "--quiet", "--filter", "reference=image-builder-api:"+imagesVersion), "the old image is taken back")
}

// requireRotation replaces API key, identity and certificate while a build waits that was sealed to the old identity.
func (s *localService) requireRotation(t *testing.T) {
	t.Helper()
	old := filepath.Join(t.TempDir(), "key")
	key, serial, authority := s.secret(t, "api-key"), s.serial(t), s.secret(t, "ca.crt")
	require.NoError(t, os.WriteFile(old, []byte(key), 0o600))
	s.requireBuildOutlivesUpdate(t, map[string]any{"rotation": "2", "certificate_rotation": "2"})
	require.NotEqual(t, key, s.secret(t, "api-key"))
	require.NotEqual(t, serial, s.serial(t))
	require.Equal(t, authority, s.secret(t, "ca.crt"), "clients need no other authority")
	code, _, stderr := s.client(t, "--api-key-file", old, s.document(t, "rotated"))
	require.Equal(t, fault.ExitDenied, code, stderr)
	code, _, stderr = s.client(t, "--follow", s.document(t, "rotated"))
	require.Equal(t, fault.ExitOK, code, stderr)
}

// requireRestore copies the database, loses a record, and gets it back.
func (s *localService) requireRestore(t *testing.T) {
	t.Helper()
	before := s.builds(t)
	require.NotEmpty(t, before)
	s.database(t, "backup")
	info, err := os.Stat(filepath.Join(s.folder, "database.backup"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	lost := slices.Sorted(maps.Keys(before))[0]
	s.docker(t, "exec", s.name+"-db", "psql", "--username", "image_builder", "--dbname", "image_builder", "--set", "ON_ERROR_STOP=1", "--command", "DELETE FROM ib_invocation WHERE id = '"+lost+"'")
	require.NotContains(t, s.builds(t), lost)
	s.database(t, "restore")
	require.Equal(t, before, s.builds(t))
}

// database deploys backup.yaml or restore.yaml beside the service.
func (s *localService) database(t *testing.T, what string) {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(s.folder, "."+what), 0o700))
	s.inputs(t, what+".inputs.yaml", map[string]any{"name": s.name})
	s.opera(t, "deploy", "--clean-state", "--force", "--instance-path", "."+what, "-i", what+".inputs.yaml", what+".yaml")
}

// requireBuildOutlivesPowerCut kills the Engine and all containers in the middle of a build. Once the Engine is there again, the build goes on.
func (s *localService) requireBuildOutlivesPowerCut(t *testing.T) {
	t.Helper()
	build := s.slow(t, "powercut")
	require.NoError(t, s.engine.Kill())
	require.NoError(t, s.engine.Restart(t.Context()))
	s.succeeds(t, build)
}

// requireDataStays: a service that was undeployed has its builds when it is deployed again.
func (s *localService) requireDataStays(t *testing.T) {
	t.Helper()
	builds := s.builds(t)
	s.undeploy(t)
	require.Equal(t, []string{s.name + "-builder", s.name + "-database", s.name + "-registry"}, s.lines(t, "volume", "ls", "--quiet"))
	s.opera(t, "deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
	require.Equal(t, builds, s.builds(t))
}
