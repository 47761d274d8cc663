package apicli_test

import (
	"bytes"
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/apicli"
	"imagebuilder/internal/command"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/testbed"
)

// freePort is one that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// serve runs an API process in an environment until the test ends.
func serve(t *testing.T, environment map[string]string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan int)
	var stderr bytes.Buffer
	go func() {
		done <- apicli.Main(ctx, command.Host{
			In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &stderr,
			LookupEnv:  func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
			Executable: func() (string, error) { return "/nowhere/image-builder-api", nil },
			Now:        time.Now,
		}, []string{"serve", "--role", "api"}, "v1.2.3")
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if t.Failed() {
			t.Log(stderr.String())
		}
	})
}

// TestHealth asks a service whether it is ready, by http and by https, before it is there, while it is, and when its database's schema is gone.
func TestHealth(t *testing.T) {
	t.Parallel()
	authority, err := testbed.NewAuthority()
	require.NoError(t, err)
	cert, key, err := authority.Issue("server")
	require.NoError(t, err)
	folder := t.TempDir()
	secure := map[string]string{"IMAGE_BUILDER_TLS_CERT": filepath.Join(folder, "cert.pem"), "IMAGE_BUILDER_TLS_KEY": filepath.Join(folder, "key.pem")}
	require.NoError(t, os.WriteFile(secure["IMAGE_BUILDER_TLS_CERT"], cert, 0o600))
	require.NoError(t, os.WriteFile(secure["IMAGE_BUILDER_TLS_KEY"], key, 0o600))
	_, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	for name, more := range map[string]map[string]string{"http": nil, "https": secure} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testbed.Postgres(t)
			environment := map[string]string{
				"IMAGEBUILDER_DATABASE_IP": db.Host, "IMAGEBUILDER_DATABASE_PORT": strconv.Itoa(db.Port), "IMAGEBUILDER_DATABASE_NAME": db.Name,
				"IMAGEBUILDER_DATABASE_USER": db.User, "IMAGEBUILDER_DATABASE_PASSWORD": db.Password,
				"IMAGE_BUILDER_LISTEN": ":" + freePort(t), "IMAGE_BUILDER_SEAL_TO": recipient, "AUTH_API_KEY": "test-key-0123456789abcdef",
			}
			maps.Copy(environment, more)
			r := run(t, environment, "health")
			require.Equal(t, 1, r.code)
			require.Contains(t, r.stderr, "the service does not answer")
			require.Contains(t, r.stderr, "connection refused")

			r = run(t, environment, "migrate", "up")
			require.Equal(t, fault.ExitOK, r.code, r.stderr)
			serve(t, environment)
			require.Eventually(t, func() bool { return run(t, environment, "health").code == 0 }, time.Minute, 50*time.Millisecond)
			require.Equal(t, ran{}, run(t, environment, "health"))
			require.Equal(t, 0, run(t, more, "health", "--listen", "127.0.0.1"+environment["IMAGE_BUILDER_LISTEN"]).code)

			r = run(t, environment, "migrate", "down", "--steps", "1")
			require.Equal(t, fault.ExitOK, r.code, r.stderr)
			require.Eventually(t, func() bool { r = run(t, environment, "health"); return r.code != 0 }, time.Minute, 50*time.Millisecond)
			require.Equal(t, 1, r.code)
			require.Contains(t, r.stderr, "the service is not ready: queue: ")
			require.NotContains(t, r.stderr, "database:")
		})
	}
	r := run(t, nil, "health", "--listen", "nowhere")
	require.Equal(t, fault.ExitInvalid, r.code)
	require.Contains(t, r.stderr, "--listen nowhere: ")
}

// TestHealthOfBuildKit asks a daemon, and none.
func TestHealthOfBuildKit(t *testing.T) {
	t.Parallel()
	require.Equal(t, ran{}, run(t, nil, "health", "--buildkit", testbed.NewEngine(t)))
	r := run(t, nil, "health", "--buildkit", "unix://"+filepath.Join(t.TempDir(), "buildkitd.sock"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stderr, "buildkitd.sock does not answer")
}
