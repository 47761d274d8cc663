//go:build engines

package enginetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// addressBed builds one small image by whatever address.
type addressBed struct {
	*bed
	document string
}

func newAddressBed(t *testing.T) *addressBed {
	t.Helper()
	b := newBed(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), b.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	url := b.files(t, "app.git", map[string]string{"Dockerfile": "FROM anything\nRUN echo hello >/hello\n"})
	return &addressBed{b, document(t, url, b.Registry.Host, buildparams.Options{},
		buildparams.Image{Image: "app", Tag: "1", Base: b.Registry.Host + "/base/busybox:1"})}
}

// build builds with the Engine at a host, or with the one that the environment names.
func (b *addressBed) build(t *testing.T, host string) error {
	t.Helper()
	out, _, err := b.create(t, t.Context(), result.Settings{Engine: "auto", DockerHost: host, Force: true}, b.document)
	if err == nil {
		require.Equal(t, "docker", out.Engine)
	}
	return err
}

// refuses wants that the Engine cannot be reached, and that the error says why.
func (b *addressBed) refuses(t *testing.T, kind fault.Kind, host, why string) {
	t.Helper()
	_, _, err := b.create(t, t.Context(), result.Settings{Engine: "docker", DockerHost: host, Force: true}, b.document)
	require.Equal(t, kind, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, why)
	require.ErrorContains(t, err, host)
}

// TestAddresses reaches Engines as the docker command does. It changes the environment, so nothing else runs beside it.
func TestAddresses(t *testing.T) {
	b := newAddressBed(t)
	all := testbed.DockerKinds()
	for _, kind := range []testbed.DockerKind{all[0], all[len(all)-1]} {
		t.Run(kind.Name, func(t *testing.T) {
			t.Run("socket and tcp", func(t *testing.T) {
				d := startDocker(t, kind, testbed.DockerTCP{})
				require.NoError(t, b.build(t, d.TCP))
				for _, host := range []string{d.Host, d.TCP} {
					t.Setenv("DOCKER_HOST", host)
					require.NoError(t, b.build(t, ""))
				}
			})
			t.Run("TLS", func(t *testing.T) { b.byTLS(t, kind) })
			t.Run("ssh", func(t *testing.T) { b.bySSH(t, kind) })
		})
	}
}

// byTLS reaches an Engine that wants to know its clients, by the environment's variables and by contexts.
func (b *addressBed) byTLS(t *testing.T, kind testbed.DockerKind) {
	authority, err := testbed.NewAuthority()
	require.NoError(t, err)
	stranger, err := testbed.NewAuthority()
	require.NoError(t, err)
	server, client := issue(t, authority), issue(t, authority)
	d := startDocker(t, kind, testbed.DockerTCP{CA: filepath.Join(server, "ca.pem"), Cert: filepath.Join(server, "cert.pem"), Key: filepath.Join(server, "key.pem")})

	t.Run("DOCKER_TLS_VERIFY", func(t *testing.T) {
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		t.Setenv("DOCKER_CERT_PATH", client)
		require.NoError(t, b.build(t, d.TCP))
		t.Setenv("DOCKER_HOST", d.TCP)
		require.NoError(t, b.build(t, ""))
	})
	t.Run("contexts", func(t *testing.T) {
		dockerCommand(t, d, "context", "create", "far", "--docker",
			"host="+d.TCP+",ca="+client+"/ca.pem,cert="+client+"/cert.pem,key="+client+"/key.pem")
		t.Cleanup(func() { dockerCommand(t, d, "context", "rm", "--force", "far") })
		t.Run("DOCKER_CONTEXT", func(t *testing.T) {
			t.Setenv("DOCKER_CONTEXT", "far")
			require.NoError(t, b.build(t, ""))
		})
		t.Run("current", func(t *testing.T) {
			dockerCommand(t, d, "context", "use", "far")
			t.Cleanup(func() { dockerCommand(t, d, "context", "use", "default") })
			require.NoError(t, b.build(t, ""))
		})
	})
	t.Run("nobody knows us", func(t *testing.T) {
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		t.Setenv("DOCKER_CERT_PATH", issue(t, stranger, authority))
		b.refuses(t, fault.Unavailable, d.TCP, "certificate")
	})
	t.Run("we do not know it", func(t *testing.T) {
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		t.Setenv("DOCKER_CERT_PATH", issue(t, authority, stranger))
		b.refuses(t, fault.Unavailable, d.TCP, "certificate signed by unknown authority")
	})
	t.Run("without TLS", func(t *testing.T) { b.refuses(t, fault.Unavailable, d.TCP, "HTTP") })
}

// issue writes a certificate as docker wants it, and gives the folder. ca.pem is the authority of the same, or the second one.
func issue(t *testing.T, authority *testbed.Authority, known ...*testbed.Authority) string {
	t.Helper()
	cert, key, err := authority.Issue("docker")
	require.NoError(t, err)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca.pem": append(known, authority)[0].CertPEM, "cert.pem": cert, "key.pem": key} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

// dockerCommand runs the docker command with the tests' configuration.
func dockerCommand(t *testing.T, d *testbed.Docker, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(d.Bin(), "docker"), args...) // cleaning up, too: the test's context is over by then
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "docker %v: %s", args, out)
}
