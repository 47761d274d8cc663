package testbed_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

func TestPushBases(t *testing.T) {
	t.Parallel()
	push := func(t *testing.T, options testbed.BaseOptions) (string, map[string]string) {
		t.Helper()
		r := testbed.NewRegistry(t, testbed.RegistryOptions{})
		digests, err := testbed.PushBases(t.Context(), r.Host, options)
		require.NoError(t, err)
		return r.Host, digests
	}
	host, first := push(t, testbed.BaseOptions{})
	_, second := push(t, testbed.BaseOptions{})
	require.Len(t, first, 2)
	require.Equal(t, first, second, "the same programs give the same images")

	ref, err := name.ParseReference(host + "/base/other:1")
	require.NoError(t, err)
	index, err := remote.Index(ref, remote.WithContext(t.Context()))
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
	}
	require.Equal(t, testbed.BasePlatforms(), platforms)

	_, two := push(t, testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/arm64"}})
	require.NotEqual(t, first, two)

	_, err = testbed.PushBases(t.Context(), host, testbed.BaseOptions{Platforms: []string{"linux/riscv64"}})
	require.ErrorContains(t, err, "no base image for linux/riscv64; there is linux/amd64")
}

// script runs shell code that has read scripts/bases.sh.
func script(t *testing.T, code string, args ...string) (string, error) {
	t.Helper()
	path, err := filepath.Abs("../../scripts/bases.sh")
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), "bash", append([]string{"-c", `. "$1"; shift; ` + code, "test", path}, args...)...)
	out, err := command.CombinedOutput()
	return string(out), err
}

func TestBasesScript(t *testing.T) {
	t.Parallel()

	t.Run("complete folder is left alone", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		for _, architecture := range []string{"amd64", "i386", "arm64", "armhf", "armel", "ppc64el", "s390x"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, architecture), nil, 0o700))
		}
		out, err := script(t, `apt-get() { exit 9; }; main "$1"`, dir)
		require.NoError(t, err, out)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 7)
	})

	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		out, err := script(t, "main")
		require.ErrorContains(t, err, "exit status 2")
		require.Contains(t, out, "usage: bases.sh OUT")
	})

	sources := map[string]struct {
		files map[string]string
		want  string
	}{
		"deb822": {want: "http://mirror.example.com/debian\t/usr/share/keyrings/debian.gpg\n", files: map[string]string{
			"sources.list.d/debian.sources": "Types: deb\n# a comment\nURIs: http://security.example.com/debian\nSuites: bookworm-security\nComponents: main\n\n" +
				"Types: deb deb-src\nURIs: http://mirror.example.com/debian https://second.example.com\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian.gpg\n",
		}},
		"deb822, disabled": {files: map[string]string{
			"sources.list.d/debian.sources": "Enabled: no\nTypes: deb\nURIs: http://mirror.example.com/debian\nSuites: bookworm\nComponents: main\n",
		}},
		"deb822, key inside": {want: "http://mirror.example.com/debian\t\n", files: map[string]string{
			"sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.example.com/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n",
		}},
		"one line": {want: "http://mirror.example.com/debian/\t\n", files: map[string]string{
			"sources.list": "# deb http://old.example.com/debian bookworm main\ndeb-src http://mirror.example.com/debian bookworm main\ndeb http://mirror.example.com/debian/ bookworm main contrib\n",
		}},
		"one line, options": {want: "https://mirror.example.com/debian\t/usr/share/keyrings/d.gpg\n", files: map[string]string{
			"sources.list.d/a.list": "deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] https://mirror.example.com/debian bookworm main\n",
		}},
		"other releases": {files: map[string]string{
			"sources.list": "deb http://mirror.example.com/debian trixie main\ndeb http://mirror.example.com/debian bookworm-updates main\n",
		}},
		"nothing": {},
	}
	for name, test := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o700))
			for file, content := range test.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
			}
			out, err := script(t, `source_line bookworm "$1"`, dir)
			require.NoError(t, err, out)
			require.Equal(t, test.want, out)
		})
	}
}
