//go:build compose

package wrapper_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// postgresEntrypoint does what that of the image postgres does with the variables that the blueprint sets.
const postgresEntrypoint = `#!/bin/sh
set -e
data=/var/lib/postgresql/data
if ! [ -s $data/PG_VERSION ]; then
  initdb -D $data -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --no-locale -E UTF8 --no-sync
  echo 'host all all all scram-sha-256' >>$data/pg_hba.conf
  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D $data postgres
fi
exec postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/tmp
`

// postgresImage makes an image of this machine's PostgreSQL, by image-builder, and loads it: no registry with postgres is needed.
func postgresImage(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	require.NotEmpty(t, found, "no PostgreSQL server is installed; `scripts/setup.sh packages postgresql` gets it")
	programs := found[len(found)-1]
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	files := []string{}
	for _, program := range []string{"postgres", "initdb", "psql", "pg_isready"} {
		files = append(files, filepath.Join(programs, program))
	}
	modules, err := filepath.Glob(filepath.Join(filepath.Dir(programs), "lib", "*.so"))
	require.NoError(t, err)
	modules = slices.DeleteFunc(modules, func(path string) bool { return strings.Contains(path, "llvmjit") })
	files = append(files, modules...)
	share := filepath.Join("/usr/share/postgresql", filepath.Base(filepath.Dir(programs)))
	for _, folder := range []string{share, "/usr/share/zoneinfo"} {
		require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !strings.Contains(path, "/man/") { // links lead anywhere
				files = append(files, path)
			}
			return nil
		}))
	}
	for _, path := range append(files, librariesOf(t, files[:4])...) {
		copyFile(t, path, filepath.Join(root, path))
	}
	for path, text := range map[string]string{
		"root/entrypoint": postgresEntrypoint, "root/etc/passwd": "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
		"Dockerfile": "FROM busybox\nCOPY root/ /\nRUN mkdir -p /var/lib/postgresql/data /tmp && chmod 1777 /tmp && chown -R 999:999 /var/lib/postgresql && chmod 700 /var/lib/postgresql/data\n" +
			"ENV PATH=" + programs + ":/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8\nVOLUME /var/lib/postgresql/data\nUSER 999:999\nENTRYPOINT [\"/entrypoint\"]\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755))
	}
	return buildAndLoad(t, dir, "postgres-of-this-machine")
}

// buildAndLoad has image-builder build a folder, and gives the image to the Engine.
func buildAndLoad(t *testing.T, dir, image string) string {
	t.Helper()
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{Dir: t.TempDir()})
	_, err := testbed.PushBases(t.Context(), registry.Host, testbed.BaseOptions{Platforms: []string{"linux/" + runtime.GOARCH}})
	require.NoError(t, err)
	document, err := json.Marshal(map[string]any{
		"source": map[string]any{"dockerfile": map[string]any{"url": "file://" + filepath.Join(dir, "Dockerfile")}, "build_context": map[string]any{"path": dir}},
		"target": map[string]any{
			"registry": map[string]any{"url": registry.Host},
			"images":   []any{map[string]any{"image": image, "tag": "test", "base": registry.Host + "/base/busybox:1"}},
		},
		"options": map[string]any{"compression_level": 1},
	})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "build.json")
	require.NoError(t, os.WriteFile(path, document, 0o600))
	builder := exec.Command(filepath.Join(contextBin(), "image-builder"), "build", path, "--engine", "buildkit", "--buildkit-host", testbed.NewEngine(t))
	out, err := builder.CombinedOutput()
	require.NoError(t, err, "%s", out)
	ref, err := name.ParseReference(registry.Host + "/" + image + ":test")
	require.NoError(t, err)
	built, err := remote.Image(ref, remote.WithContext(t.Context()))
	require.NoError(t, err)
	local, err := name.NewTag(image + ":test")
	require.NoError(t, err)
	archive := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, tarball.WriteToFile(archive, local, built))
	docker(t, "load", "--input", archive)
	return image + ":test"
}

// contextBin is where TestMain has put the programs that are in the image.
func contextBin() string {
	return filepath.Join(root, ".work/image/context/bin", runtime.GOARCH)
}

// library is a line of ldd's: what is loaded, or where that was found.
var library = regexp.MustCompile(`(?m)(?:=> |^\s+)(/\S+) \(0x`)

func librariesOf(t *testing.T, programs []string) []string {
	t.Helper()
	out, err := exec.Command("ldd", programs...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var paths []string
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		paths = append(paths, m[1])
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// copyFile copies what a path leads to.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	info, err := os.Stat(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	require.NoError(t, os.WriteFile(to, data, info.Mode().Perm()))
}
