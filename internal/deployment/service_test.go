//go:build blueprints && linux

package deployment_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// own is the archive of one of image-builder's own images.
func own(t *testing.T, image string) string {
	t.Helper()
	folder, err := ownImages()
	require.NoError(t, err)
	return testbed.OwnImageArchive(folder, image)
}

var ownImages = sync.OnceValues(func() (string, error) {
	return testbed.OwnImages(context.Background(), "image-builder-api", "image-builder-postgres", "image-builder-registry")
})

// TestSecrets: what is missing is made, kept, and replaced by a rotation alone, which leaves what opens documents of before.
func TestSecrets(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		tag := "image-builder-api:" + testbed.OwnImageVersion
		secret := func(name string) string {
			data, err := os.ReadFile(filepath.Join(p.folder, "secrets", name))
			require.NoError(t, err)
			return strings.TrimSpace(string(data))
		}
		properties := map[string]any{"image": tag, "archive": own(t, "image-builder-api"), "removal": "delete"}
		deploy := func() (changed int) {
			p.template(t, nodes{"secrets": node("Secrets", properties)}, "secrets.recipient", "secrets.api_key_file")
			return p.again(t)
		}
		require.NoError(t, os.MkdirAll(filepath.Join(p.folder, "secrets"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "secrets", "database-password"), []byte("from before"), 0o644))
		require.Equal(t, 1, deploy())
		require.Equal(t, "from before", secret("database-password"))
		names := []string{"database-password", "registry-password", "identities", "recipient", "api-keys", "api-key"}
		before := map[string]string{}
		for _, name := range names {
			before[name] = secret(name)
			info, err := os.Stat(filepath.Join(p.folder, "secrets", name))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
		}
		require.Regexp(t, "^[0-9a-f]{48}$", before["registry-password"])
		require.Contains(t, before["identities"], "AGE-SECRET-KEY-")
		require.Contains(t, before["identities"], "# recipient: "+before["recipient"])
		require.NotContains(t, before["api-keys"], before["api-key"], "the service has its hash")
		outputs := p.outputs(t)
		require.Equal(t, before["recipient"], outputs["secrets.recipient"])
		require.Equal(t, filepath.Join(p.folder, "secrets", "api-key"), outputs["secrets.api_key_file"])
		require.Empty(t, filesWith(t, filepath.Join(p.folder, ".opera"), before["api-key"]))

		require.Zero(t, deploy())
		properties["rotation"] = "2"
		require.Equal(t, 1, deploy())
		for _, name := range []string{"recipient", "api-keys", "api-key"} {
			require.NotEqual(t, before[name], secret(name), name)
		}
		require.Equal(t, before["registry-password"], secret("registry-password"))
		require.True(t, strings.HasSuffix(secret("identities"), before["identities"]), "the old one is behind the new one")
		require.Equal(t, 2, strings.Count(secret("identities"), "AGE-SECRET-KEY-"))
		require.Zero(t, deploy())

		p.opera(t, "undeploy", "-f")
		left, err := os.ReadDir(filepath.Join(p.folder, "secrets"))
		require.NoError(t, err)
		require.Len(t, left, 1, "the password that the user gave is not ours: %v", left)
	})
}

// TestRegistry: it speaks TLS with the deployment's certificate, knows its user, and has its images in the volume.
func TestRegistry(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		port := freePort(t)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "password"), []byte("pass-"+p.name), 0o600))
		p.template(t, nodes{
			"certificate": node("Certificate", nil),
			"data":        node("DockerVolume", map[string]any{"name": p.name + "-registry", "removal": "delete"}),
			"registry": node("Registry", map[string]any{
				"name": p.name + "-registry", "image": "image-builder-registry:" + testbed.OwnImageVersion, "archive": own(t, "image-builder-registry"),
				"username": "someone", "password": "file:password", "certificate": "secrets/server.crt", "certificate_key": "secrets/server.key",
				"volume": p.name + "-registry", "ports": []string{fmt.Sprintf("127.0.0.1:%d:5000", port)},
			}, "certificate", "data"),
		})
		p.opera(t, "deploy", "service.yaml")
		roots := x509.NewCertPool()
		roots.AddCert(certificateOf(t, filepath.Join(p.folder, "secrets", "ca.crt")))
		transport := remote.WithTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}})
		repository, err := name.NewTag(fmt.Sprintf("127.0.0.1:%d/some/image:1", port))
		require.NoError(t, err)
		pushed, err := random.Image(1024, 1)
		require.NoError(t, err)
		require.ErrorContains(t, remote.Write(repository, pushed, transport, remote.WithAuth(&authn.Basic{Username: "someone", Password: "wrong"})), "401")
		auth := remote.WithAuth(&authn.Basic{Username: "someone", Password: "pass-" + p.name})
		require.NoError(t, remote.Write(repository, pushed, transport, auth))
		require.NotContains(t, docker(t, "inspect", p.name+"-registry"), "pass-"+p.name)
		before := container(t, p.name+"-registry")
		require.Zero(t, p.again(t))
		require.Equal(t, before, container(t, p.name+"-registry"))

		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "password"), []byte("other-"+p.name), 0o600))
		require.Equal(t, 1, p.again(t))
		_, err = remote.Image(repository, transport, remote.WithAuth(&authn.Basic{Username: "someone", Password: "other-" + p.name}))
		require.NoError(t, err)
		p.opera(t, "undeploy", "-f")
		require.Empty(t, p.left(t))
	})
}

// TestDatabase: a backup has all of a database, a restore brings it back, and one that fails changes nothing.
func TestDatabase(t *testing.T) {
	inTurn(t, func(t *testing.T, p *project) {
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "password"), []byte("pass-"+p.name), 0o600))
		sql := func(statement string) string {
			return docker(t, "exec", p.name+"-db", "psql", "--no-psqlrc", "-U", "app", "-d", "app", "-At", "-c", statement)
		}
		db := node("Container", map[string]any{
			"name": p.name + "-db", "image": "image-builder-postgres:" + testbed.OwnImageVersion, "archive": own(t, "image-builder-postgres"),
			"env":     map[string]string{"POSTGRES_DB": "app", "POSTGRES_USER": "app", "POSTGRES_PASSWORD_FILE": "/run/secrets/password"},
			"secrets": map[string]string{"password": "file:password"},
		})
		database := map[string]any{"container": p.name + "-db", "database": "app", "user": "app", "file": "app.dump"}
		p.template(t, nodes{"db": db})
		p.opera(t, "deploy", "service.yaml")
		sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")

		p.template(t, nodes{"db": db, "backup": node("DatabaseBackup", database, "db")})
		require.Equal(t, 1, p.again(t))
		info, err := os.Stat(filepath.Join(p.folder, "app.dump"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		whole, err := os.ReadFile(filepath.Join(p.folder, "app.dump"))
		require.NoError(t, err)

		sql("INSERT INTO t VALUES (2)")
		restore := nodes{"db": db, "restore": node("DatabaseRestore", database, "db")}
		p.template(t, restore)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "app.dump"), whole[:len(whole)-200], 0o600))
		requireSaid(t, p.operaFails(t, "deploy", "-c", "-f", "service.yaml"), "restore: pg_restore in "+p.name+"-db: ")
		require.Equal(t, "1\n2", sql("SELECT n FROM t ORDER BY n"))
		require.Equal(t, "app", sql("SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE 'app%'"))

		require.NoError(t, os.WriteFile(filepath.Join(p.folder, "app.dump"), whole, 0o600))
		require.Equal(t, 1, p.again(t))
		require.Equal(t, "1", sql("SELECT n FROM t ORDER BY n"))
		require.Equal(t, "app", sql("SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE 'app%'"))
		p.opera(t, "undeploy", "-f")
		require.Empty(t, p.left(t))
		require.FileExists(t, filepath.Join(p.folder, "app.dump"))
	})
}
