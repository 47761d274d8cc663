//go:build engines

package enginetest

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// TestBasesThatTheDaemonCannotPull: every Engine builds on images of a registry whose authority only the configuration knows, for
// itself and for another platform, under the image and in a stage that it only copies from.
func TestBasesThatTheDaemonCannotPull(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			host := startDocker(t, kind).Host
			b := newBed(t, testbed.RegistryOptions{})
			mirror := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true})
			platforms := []string{"linux/amd64", "linux/386"}
			unique := map[string]string{"/unique": rand.Text()}
			digests, err := testbed.PushBases(t.Context(), mirror.Host, testbed.BaseOptions{
				Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
				Images: []testbed.BaseImage{
					{Name: "base/app:1", Files: unique, Platforms: platforms},
					{Name: "base/tools:1", Files: map[string]string{"/tool": rand.Text()}, Platforms: platforms},
				},
			})
			require.NoError(t, err)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			require.NoError(t, os.WriteFile(ca, mirror.CAPEM, 0o600))
			url := b.files(t, "app.git", map[string]string{"Dockerfile": "FROM --platform=$BUILDPLATFORM apps.invalid/base/tools:1 AS tools\nRUN cp /tool /made\n" +
				"FROM apps.invalid/base/app:1\nCOPY --from=tools /made /made\nRUN cp /unique /copy\n"})
			document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"app","tag":"1","platforms":["linux/amd64","linux/386"]}]}}`, url)
			out, _, err := b.create(t, t.Context(), result.Settings{
				Engine: "docker", DockerHost: host, Registries: map[string]result.RegistrySettings{
					"apps.invalid": {Mirrors: []string{mirror.Host}}, mirror.Host: {CA: ca},
				}}, document)
			require.NoError(t, err)
			used := map[string]string{}
			for _, base := range out.Images[0].Bases {
				used[base.From] = base.Digest
			}
			require.Equal(t, map[string]string{
				"apps.invalid/base/app:1": digests["base/app:1"], "apps.invalid/base/tools:1": digests["base/tools:1"],
			}, used)
			if kind.Legacy() {
				require.Empty(t, images(t, host), "bases that were loaded are gone")
			}
		})
	}
}
