//go:build docker

package wrapper_test

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// userOf is the id that an image runs as.
var userOf = map[string]int{"image-builder": 1000, "image-builder-api": 1000, "image-builder-postgres": 999, "image-builder-registry": 998}

// TestImages is about all images: who they run as, what they say of themselves, and that nothing of the machine is in them.
func TestImages(t *testing.T) {
	t.Parallel()
	for image, user := range userOf {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			var inspected []struct {
				Architecture string
				Config       struct {
					User        string
					Labels      map[string]string
					Healthcheck struct{ Test []string }
				}
			}
			require.NoError(t, json.Unmarshal([]byte(docker(t, "image", "inspect", image+":test")), &inspected))
			require.Equal(t, runtime.GOARCH, inspected[0].Architecture)
			config := inspected[0].Config
			require.Equal(t, strconv.Itoa(user)+":"+strconv.Itoa(user), config.User)
			require.NotEmpty(t, config.Healthcheck.Test)
			require.Equal(t, image, config.Labels["org.opencontainers.image.title"])
			require.Equal(t, "test", config.Labels["org.opencontainers.image.version"])
			require.Equal(t, time.Unix(1790000000, 0).UTC().Format(time.RFC3339), config.Labels["org.opencontainers.image.created"])
			for _, label := range []string{"description", "licenses"} {
				require.NotEmpty(t, config.Labels["org.opencontainers.image."+label], label)
			}
			require.Equal(t, "", docker(t, "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image+":test", "-c",
				"cd /etc; for f in machine-id hostname.* resolv.conf.*; do [ ! -e $f ] || echo $f; done"))
		})
	}
	require.Contains(t, docker(t, "run", "--rm", "--network", "none", "image-builder:test", "version", "--output", "json"), "/usr/local/bin/image-builder-plugin")
}

// reproduced are the platforms of TestImagesAreReproducible. To compile for another takes minutes: `make soak` has it.
var reproduced = []string{runtime.GOARCH}

// TestImagesAreReproducible makes images again, of a context with other times and without a cache, and gets the same digests, though not
// compressed as well as by make images.
func TestImagesAreReproducible(t *testing.T) {
	t.Parallel()
	digests := func(parts string) map[string]string {
		registry := testbed.NewRegistry(t, testbed.RegistryOptions{Dir: t.TempDir()})
		require.NoError(t, testbed.MakeOwnImages(t.Context(), ownImages, "-context", parts, "-registry", registry.Host,
			"-platforms", "linux/"+strings.Join(reproduced, ",linux/"), "--", "--set", "options.no_cache=true", "--set", "options.compression_level=1"))
		found := map[string]string{}
		for _, image := range ownImages {
			ref, err := name.ParseReference(registry.Host + "/" + image + ":" + testbed.OwnImageVersion)
			require.NoError(t, err)
			served, err := remote.Head(ref)
			require.NoError(t, err)
			found[image] = served.Digest.String()
		}
		return found
	}
	parts := filepath.Join(root, ".work/images-test/context")
	again := filepath.Join(t.TempDir(), "context")
	for _, args := range [][]string{
		append([]string{"scripts/images.sh", parts, strings.Join(ownImages, " ")}, reproduced...),
		{"cp", "-a", parts, again},
		{"find", again + "/files", again + "/bin", again + "/empty", "-exec", "touch", "{}", "+"},
	} {
		require.NoError(t, command(t.Context(), args[0], args[1:]...))
	}
	require.Equal(t, digests(parts), digests(again))
}

// container is one that a test has started.
type container struct{ id, address string }

// start starts a container on the tests' network. Secrets are files of /run/secrets that only the image's user may read.
func start(t *testing.T, image string, secrets map[string]string, args ...string) *container {
	t.Helper()
	options, command := args, []string(nil)
	for i, arg := range args {
		if arg == "--" {
			options, command = args[:i], args[i+1:]
		}
	}
	create := append([]string{"create", "--network", network}, options...)
	id := strings.TrimSpace(docker(t, append(append(create, image+":test"), command...)...))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(image, docker(t, "logs", "--tail", "40", id), docker(t, "inspect", "--format", "{{json .State}}", id))
		}
		docker(t, "rm", "--force", "--volumes", id)
	})
	if len(secrets) > 0 {
		var files bytes.Buffer
		w := tar.NewWriter(&files)
		for file, content := range secrets {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: "run/secrets/" + file, Mode: 0o400, Uid: userOf[image], Gid: userOf[image], Size: int64(len(content))}))
			_, err := w.Write([]byte(content))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		cp := exec.Command(dockerProgram(), "--host", engine.Host, "cp", "-", id+":/")
		cp.Stdin = &files
		out, err := cp.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	docker(t, "start", id)
	return &container{id: id, address: strings.TrimSpace(docker(t, "inspect", "--format", `{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, id))}
}

// health is what the Engine has found.
func (c *container) health(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(docker(t, "inspect", "--format", "{{.State.Health.Status}}", c.id))
}

func (c *container) requireHealth(t *testing.T, want string) {
	t.Helper()
	eventually(t, c.id+" is "+want, func() bool { return c.health(t) == want })
}

// requireHealthy waits until the container is, and holds it to run as its image's user.
func (c *container) requireHealthy(t *testing.T) {
	t.Helper()
	c.requireHealth(t, "healthy")
	image, _, _ := strings.Cut(strings.TrimSpace(docker(t, "inspect", "--format", "{{.Config.Image}}", c.id)), ":")
	status := docker(t, "exec", c.id, "sh", "-c", "while read -r line; do echo \"$line\"; done </proc/1/status")
	require.Regexp(t, fmt.Sprintf(`(?m)^Uid:\s+%[1]d\s+%[1]d\s+%[1]d\s`, userOf[image]), status)
}

// wait gives a container's exit code and what it said.
func (c *container) wait(t *testing.T) (code, said string) {
	t.Helper()
	code = strings.TrimSpace(docker(t, "wait", c.id))
	return code, docker(t, "logs", c.id)
}

// newAuthority gives the files that a server with TLS needs, for localhost and an address, and the authority.
func newAuthority(t *testing.T, also ...net.IP) (files map[string]string, ca []byte) {
	t.Helper()
	authority, err := testbed.NewAuthority()
	require.NoError(t, err)
	cert, key, err := authority.Issue("server", also...)
	require.NoError(t, err)
	return map[string]string{"server.crt": string(cert), "server.key": string(key)}, authority.CertPEM
}

const databasePassword = "database-hunter2"

// startDatabase starts PostgreSQL with the database and user image_builder.
func startDatabase(t *testing.T, volume string, secrets map[string]string, args ...string) *container {
	t.Helper()
	all := map[string]string{"database-password": databasePassword + "\n"}
	for file, content := range secrets {
		all[file] = content
	}
	return start(t, "image-builder-postgres", all, append([]string{
		"--env", "POSTGRES_DB=image_builder", "--env", "POSTGRES_USER=image_builder", "--env", "POSTGRES_PASSWORD_FILE=/run/secrets/database-password",
		"--volume", volume + ":/var/lib/postgresql/data",
	}, args...)...)
}

func newVolume(t *testing.T) string {
	t.Helper()
	id := strings.TrimSpace(docker(t, "volume", "create"))
	t.Cleanup(func() { docker(t, "volume", "rm", id) })
	return id
}

// psql asks a database from a container of its own.
func psql(t *testing.T, password, connection, sql string) (string, error) {
	t.Helper()
	out, err := exec.Command(dockerProgram(), "--host", engine.Host, "run", "--rm", "--network", network, "--env", "PGPASSWORD="+password,
		"image-builder-postgres:test", "psql", "--no-psqlrc", "-At", connection+" dbname=image_builder user=image_builder connect_timeout=20", "-c", sql).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestDatabaseImage: PostgreSQL over TLS for those with the password alone; its data outlive the container.
func TestDatabaseImage(t *testing.T) {
	t.Parallel()
	volume := newVolume(t)
	secrets, _ := newAuthority(t)
	secrets["hba.conf"] = "local all all trust\nhostssl all all all scram-sha-256\n"
	tls := []string{"--", "postgres", "-c", "ssl=on", "-c", "ssl_cert_file=/run/secrets/server.crt", "-c", "ssl_key_file=/run/secrets/server.key", "-c", "hba_file=/run/secrets/hba.conf"}
	db := startDatabase(t, volume, secrets, tls...)
	db.requireHealthy(t)
	secure := "host=" + db.address + " sslmode=require"
	said, err := psql(t, databasePassword, secure, "create table kept as select 'ä' as letter; select letter, upper(letter), now() at time zone 'Europe/Ljubljana' is not null from kept")
	require.NoError(t, err, said)
	require.Contains(t, said, "ä|Ä|t")
	said, err = psql(t, "wrong", secure, "select 1")
	require.Error(t, err)
	require.Contains(t, said, "password authentication failed")
	said, err = psql(t, databasePassword, "host="+db.address+" sslmode=disable", "select 1")
	require.Error(t, err)
	require.Contains(t, said, "no encryption")
	require.Equal(t, "ä", strings.TrimSpace(docker(t, "exec", db.id, "psql", "-U", "image_builder", "-d", "image_builder", "-Atc", "select letter from kept")))

	// A copy, as backups make it.
	docker(t, "exec", db.id, "sh", "-c", "pg_dump -U image_builder -Fc image_builder >/tmp/dump && createdb -U image_builder again && pg_restore -U image_builder -d again /tmp/dump")
	require.Equal(t, "ä", strings.TrimSpace(docker(t, "exec", db.id, "psql", "-U", "image_builder", "-d", "again", "-Atc", "select letter from kept")))

	docker(t, "restart", db.id)
	db.requireHealthy(t)
	begun := time.Now()
	docker(t, "stop", "--time", "30", db.id)
	require.Less(t, time.Since(begun), 20*time.Second, "it ends by itself")
	docker(t, "rm", "--volumes", db.id)
	db = startDatabase(t, volume, secrets, tls...)
	db.requireHealthy(t)
	said, err = psql(t, databasePassword, "host="+db.address+" sslmode=require", "select letter from kept")
	require.NoError(t, err, said)
	require.Equal(t, "ä", said)
	require.NotContains(t, docker(t, "logs", db.id)+docker(t, "inspect", db.id), databasePassword)
}

// TestDatabaseIsSetUpWhole: what was set up half when the container was killed is set up anew.
func TestDatabaseIsSetUpWhole(t *testing.T) {
	t.Parallel()
	volume := newVolume(t)
	db := startDatabase(t, volume, nil)
	eventually(t, "initdb runs", func() bool {
		return exec.Command(dockerProgram(), "--host", engine.Host, "exec", db.id, "test", "-e", "/var/lib/postgresql/data/15.new/base").Run() == nil
	})
	docker(t, "kill", db.id)
	docker(t, "start", db.id)
	db.requireHealthy(t)
	require.Equal(t, "15\n", docker(t, "exec", db.id, "ls", "/var/lib/postgresql/data"))
}

// TestDatabaseRefuses: without a password, with one that cannot be read, and with the data of another PostgreSQL, it says so.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	code, said := start(t, "image-builder-postgres", nil).wait(t)
	require.Equal(t, "1", code)
	require.Contains(t, said, "POSTGRES_PASSWORD_FILE")
	code, said = start(t, "image-builder-postgres", nil, "--env", "POSTGRES_PASSWORD_FILE=/run/secrets/none").wait(t)
	require.Equal(t, "1", code)
	require.Contains(t, said, "/run/secrets/none cannot be read by user 999")
	volume := newVolume(t)
	docker(t, "run", "--rm", "--volume", volume+":/var/lib/postgresql/data", "image-builder-postgres:test", "sh", "-c", "mkdir data/13 && echo 13 >data/13/PG_VERSION")
	code, said = startDatabase(t, volume, nil).wait(t)
	require.Equal(t, "1", code)
	require.Contains(t, said, "a database of PostgreSQL 13, and this is 15")
}

// TestRegistryImage pushes to the registry over TLS with the password, and pulls; nobody else may, and what was pushed outlives the container.
func TestRegistryImage(t *testing.T) {
	t.Parallel()
	volume := newVolume(t)
	secrets, ca := newAuthority(t)
	secrets["registry-password"] = registryPassword + "\n"
	run := func() *container {
		return start(t, "image-builder-registry", secrets, "--volume", volume+":/var/lib/registry",
			"--env", "REGISTRY_USER="+registryUser, "--env", "REGISTRY_PASSWORD_FILE=/run/secrets/registry-password",
			"--env", "REGISTRY_HTTP_TLS_CERTIFICATE=/run/secrets/server.crt", "--env", "REGISTRY_HTTP_TLS_KEY=/run/secrets/server.key")
	}
	registry := run()
	registry.requireHealthy(t)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}
	as := func(password string) []remote.Option {
		return []remote.Option{remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: registryUser, Password: password})}
	}
	ref, err := name.ParseReference(registry.address + ":5000/team/app:1")
	require.NoError(t, err)
	image, err := random.Image(1<<20, 3)
	require.NoError(t, err)
	require.ErrorContains(t, remote.Write(ref, image, as("wrong")...), "401")
	_, err = remote.Head(ref, remote.WithTransport(transport))
	require.ErrorContains(t, err, "401")
	require.NoError(t, remote.Write(ref, image, as(registryPassword)...))
	want, err := image.Digest()
	require.NoError(t, err)

	docker(t, "rm", "--force", registry.id)
	registry = run()
	registry.requireHealthy(t)
	ref, err = name.ParseReference(registry.address + ":5000/team/app:1")
	require.NoError(t, err)
	pulled, err := remote.Image(ref, as(registryPassword)...)
	require.NoError(t, err)
	got, err := pulled.Digest()
	require.NoError(t, err)
	require.Equal(t, want, got)
	layers, err := pulled.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 3)
	require.NoError(t, remote.Delete(ref.Context().Digest(want.String()), as(registryPassword)...))
	_, err = remote.Head(ref, as(registryPassword)...)
	require.ErrorContains(t, err, "404")
	require.NotContains(t, docker(t, "logs", registry.id)+docker(t, "inspect", registry.id), registryPassword)

	code, said := start(t, "image-builder-registry", nil, "--env", "REGISTRY_USER=robot").wait(t)
	require.Equal(t, "1", code)
	require.Contains(t, said, "REGISTRY_PASSWORD_FILE is not")
}

// databaseSettings lead the service to a database.
func databaseSettings(host string) []string {
	return []string{
		"--env", "IMAGEBUILDER_DATABASE_IP=" + host, "--env", "IMAGEBUILDER_DATABASE_NAME=image_builder", "--env", "IMAGEBUILDER_DATABASE_USER=image_builder",
		"--env", "IMAGEBUILDER_DATABASE_PASSWORD_FILE=/run/secrets/database-password", "--env", "IMAGEBUILDER_DATABASE_SSLMODE=disable",
	}
}

// serviceAddress is that of an API's container, for its certificate.
const serviceAddress = "10.213.77.200"

// rootless is what BuildKit takes in a container.
var rootless = []string{
	"--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID",
	"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
}

// TestServiceImage runs each role: the schema's migration ends with its own exit code, API, builder and worker turn healthy and build
// together, and a role that lacks what it needs is not healthy.
func TestServiceImage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	db := startDatabase(t, newVolume(t), nil)
	db.requireHealthy(t)
	password := map[string]string{"database-password": databasePassword + "\n"}
	with := func(args ...string) []string { return append(databaseSettings(db.address), args...) }

	code, said := start(t, "image-builder-api", map[string]string{"database-password": "wrong"}, with("--", "migrate")...).wait(t)
	require.NotEqual(t, "0", code, said)
	require.Contains(t, said, "password authentication failed")
	code, said = start(t, "image-builder-api", password, with("--", "migrate")...).wait(t)
	require.Equal(t, "0", code, said)
	code, said = start(t, "image-builder-api", password, with("--", "migrate", "status")...).wait(t)
	require.Equal(t, "0", code, said)
	require.Regexp(t, `(?m)^1 +\S.* +\d{4}-\d{2}-\d{2}T\S+Z$`, said)

	key := exec.Command(dockerProgram(), "--host", engine.Host, "run", "--rm", "--network", "none", "image-builder-api:test", "keygen")
	identity, err := key.Output()
	require.NoError(t, err)
	_, recipient, _ := strings.Cut(strings.SplitN(string(identity), "\n", 2)[0], "# recipient: ")
	require.NotEmpty(t, recipient)
	var made bytes.Buffer
	key = exec.Command(dockerProgram(), "--host", engine.Host, "run", "--rm", "--network", "none", "image-builder-api:test", "key", "new", "--name", "test", "--scope", "builds:admin,builds:submit")
	key.Stderr = &made
	hashes, err := key.Output()
	require.NoError(t, err)
	_, apiKey, _ := strings.Cut(made.String(), "key: ")
	apiKey, _, _ = strings.Cut(apiKey, "\n")

	volume := newVolume(t)
	builder := start(t, "image-builder-api", nil, append(append([]string{"--volume", volume + ":/home/builder"}, rootless...), "--", "builder")...)
	rules := []string{"--env", "IMAGE_BUILDER_ALLOW_EGRESS=" + subnet, "--env", "IMAGE_BUILDER_PLAIN_REGISTRIES=" + s.registry.Host}
	files := map[string]string{"database-password": databasePassword, "api-keys": string(hashes)}
	certificate, ca := newAuthority(t, net.ParseIP(serviceAddress))
	for file, content := range certificate {
		files[file] = content
	}
	api := start(t, "image-builder-api", files, with(append(rules, "--ip", serviceAddress, "--env", "AUTH_API_KEYS_FILE=/run/secrets/api-keys", "--env", "IMAGE_BUILDER_SEAL_TO="+recipient,
		"--env", "IMAGE_BUILDER_LISTEN=:8443", "--env", "IMAGE_BUILDER_TLS_CERT=/run/secrets/server.crt", "--env", "IMAGE_BUILDER_TLS_KEY=/run/secrets/server.key", "--", "api")...)...)
	worker := start(t, "image-builder-api", map[string]string{"database-password": databasePassword, "identities": string(identity)}, with(append(rules,
		"--env", "IMAGE_BUILDER_IDENTITIES=/run/secrets/identities", "--volume", volume+":/engine",
		"--env", "IMAGE_BUILDER_ENGINE=buildkit", "--env", "BUILDKIT_HOST=unix:///engine/buildkitd.sock", "--", "worker")...)...)
	builder.requireHealthy(t)
	api.requireHealthy(t)
	worker.requireHealthy(t)

	p := newPerson(t, 0)
	p.env = append(p.env, "IMAGE_BUILDER_API_KEY="+apiKey)
	source := s.repository(t, "FROM busybox\nRUN echo it is made >/made && cat /made\n")
	source["git_repo"].(map[string]any)["password"] = gitPassword
	document := p.document(t, "app.json", source, s.target(registryPassword))
	client := exec.Command("/usr/bin/python3", filepath.Join(root, "scripts/client.py"), "--ca-cert", p.file(t, "ca.crt", string(ca)), "--url", "https://"+serviceAddress+":8443", "--follow", document)
	client.Env = p.env
	out, err := client.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "it is made")

	// The builder is killed, and comes back with what its volume keeps of before.
	docker(t, "kill", builder.id)
	eventually(t, "the worker misses its engine", func() bool { return worker.health(t) == "unhealthy" })
	docker(t, "start", builder.id)
	builder.requireHealthy(t)
	worker.requireHealthy(t)
	docker(t, "stop", "--time", "1", db.id)
	api.requireHealth(t, "unhealthy")
	require.Contains(t, docker(t, "inspect", "--format", "{{json .State.Health.Log}}", api.id), "the database does not answer")
}

// TestServiceAlone: without a role, a container does everything, with a database in its volume.
func TestServiceAlone(t *testing.T) {
	t.Parallel()
	all := start(t, "image-builder-api", nil, rootless...)
	all.requireHealthy(t)
	require.Contains(t, docker(t, "logs", all.id), "API key")
	answer, err := http.Get("http://" + all.address + ":8080/readyz")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	code, said := start(t, "image-builder-api", nil, "--", "no-such-verb").wait(t)
	require.Equal(t, "2", code)
	require.Contains(t, said, "no-such-verb")
}
