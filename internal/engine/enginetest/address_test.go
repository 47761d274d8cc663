//go:build engines

package enginetest

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config"
	dockercontext "github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/store"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// TestAddresses reaches Engines as the docker command does: by a context with TLS, and by DOCKER_HOST. It changes the
// environment, so nothing else runs beside it.
func TestAddresses(t *testing.T) {
	b := newBed(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	url := b.files(t, "app.git", map[string]string{"Dockerfile": "FROM anything\nRUN echo hello >/hello\n"})
	doc := document(t, url, b.registry.Host, buildparams.Options{}, buildparams.Image{Image: "app", Tag: "1", Base: b.registry.Host + "/base/busybox:1"})
	kinds := testbed.DockerKinds()
	for _, kind := range []testbed.DockerKind{kinds[0], kinds[len(kinds)-1]} {
		t.Run(kind.Name, func(t *testing.T) {
			host := startDocker(t, kind)
			address, ca := tlsFront(t, strings.TrimPrefix(host, "unix://"))
			build := func(t *testing.T) error {
				out, _, err := b.create(t, t.Context(), result.Settings{Engine: "auto", Force: true}, doc)
				if err == nil {
					require.Equal(t, "docker", out.Engine)
				}
				return err
			}
			t.Run("DOCKER_HOST", func(t *testing.T) {
				t.Setenv("DOCKER_HOST", host)
				require.NoError(t, build(t))
			})
			t.Run("context", func(t *testing.T) {
				t.Setenv("DOCKER_CONTEXT", addContext(t, "far", address, ca))
				require.NoError(t, build(t))
			})
			t.Run("context without its authority", func(t *testing.T) {
				_, _, err := b.create(t, t.Context(), result.Settings{Engine: "docker", DockerHost: address}, doc)
				require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
				t.Setenv("DOCKER_TLS_VERIFY", "1")
				_, _, err = b.create(t, t.Context(), result.Settings{Engine: "docker", DockerHost: address}, doc)
				require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
				require.ErrorContains(t, err, "certificate")
			})
		})
	}
}

// tlsFront is a TLS server in front of an Engine's socket.
func tlsFront(t *testing.T, socket string) (address string, ca []byte) {
	t.Helper()
	certificates := httptest.NewTLSServer(nil) // just for its certificate
	t.Cleanup(certificates.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates.TLS.Certificates})
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go join(conn, socket)
		}
	}()
	return "tcp://" + listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates.Certificate().Raw})
}

func join(conn net.Conn, socket string) {
	defer conn.Close()
	engine, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer engine.Close()
	go func() {
		_, _ = io.Copy(engine, conn)
		_ = engine.Close()
	}()
	_, _ = io.Copy(conn, engine)
}

// addContext adds a context as `docker context create` does.
func addContext(t *testing.T, name, host string, ca []byte) string {
	t.Helper()
	contexts := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter("docker", func() any { return &dockercontext.EndpointMetaBase{} })))
	require.NoError(t, contexts.CreateOrUpdate(store.Metadata{
		Name: name, Endpoints: map[string]any{"docker": dockercontext.EndpointMetaBase{Host: host}},
	}))
	require.NoError(t, contexts.ResetEndpointTLSMaterial(name, "docker", (&dockercontext.TLSData{CA: ca}).ToStoreTLSData()))
	return name
}
