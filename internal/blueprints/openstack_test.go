//go:build blueprints

package blueprints_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestOpenStack deploys the service from nothing on each version of opera, past two failures, and sees from outside that it does what it
// should, and nothing else, with all that may happen to it later. On 0.7.0 it has a floating IP; on 0.6.6 somebody has deleted the server
// when it is undeployed.
func TestOpenStack(t *testing.T) {
	t.Parallel()
	operas := testbed.OpenStackOperas(t)
	for i, opera := range operas {
		t.Run(opera.Version, func(t *testing.T) {
			t.Parallel()
			s := newCloudService(t, opera, "blue"+strings.ReplaceAll(opera.Version, ".", ""))
			if opera.Version == "0.7.0" {
				s.with(t, map[string]any{"openstack-network-name": s.cloud.PrivateNetwork, "floating_ip_pool": s.cloud.Network})
			}
			w := testbed.WatchArguments()
			s.deployPastFailures(t)
			s.requireOnlyItsPorts(t)
			s.requireWhoMayEnter(t)
			s.site = newSite(t, s.gateway)
			s.requireBuilds(t)
			inTurn(t, i, len(operas), s.requireSurvivesCrash, s.requireRestores, s.requireOtherServersBuild, s.requireRotates, s.requireSame)
			s.requireNoSecret(t, w)
			s.requireNoSecretOnServer(t)
			require.NotEmpty(t, s.left(t))
			if opera.Version == "0.6.6" {
				s.cloud.DeleteServer(t, s.vm)
			}
			s.opera(t, "undeploy", "--resume", "--force", "--workers", "3")
			require.Empty(t, s.left(t))
		})
	}
}

// deployPastFailures mends what makes a deployment fail, and goes on each time.
func (s *cloudService) deployPastFailures(t *testing.T) {
	t.Helper()
	there := s.values["api_archive"]
	s.with(t, map[string]any{"api_archive": "nowhere.tar"})
	s.operaFails(t, "secrets", []string{"nowhere.tar"}, "deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
	s.with(t, map[string]any{"api_archive": there})

	s.address = s.found(t)
	s.on(t, s.address, `sudo systemd-run --quiet --unit=stranger python3 -c 'import socket, time; s = socket.socket(); s.bind(("", 443)); s.listen(); time.sleep(3600)'`)
	s.operaFails(t, "api", []string{"443", "address already in use"}, "deploy", "--resume", "--force", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
	s.on(t, s.address, "sudo systemctl stop stranger")
	s.opera(t, "deploy", "--resume", "--force", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
	s.deployed(t)
}

// requireOnlyItsPorts: the database's is open to other servers of the cloud only.
func (s *cloudService) requireOnlyItsPorts(t *testing.T) {
	t.Helper()
	require.Equal(t, []int{22, 443, 5000}, openPorts(t, s.address))
}

// requireWhoMayEnter: the service shows a certificate of the authority that opera made, with the fields of the inputs, and lets nobody in who has no key.
func (s *cloudService) requireWhoMayEnter(t *testing.T) {
	t.Helper()
	_, err := (&http.Client{}).Get(s.api + "/readyz")
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
	answer, err := (&http.Client{Transport: s.trust(t)}).Get(s.api + "/readyz")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	subject := answer.TLS.PeerCertificates[0].Subject
	require.Equal(t, []string{"SI"}, subject.Country)
	require.Equal(t, []string{"Tests"}, subject.Organization)
	require.True(t, slices.ContainsFunc(subject.Names, func(n pkix.AttributeTypeAndValue) bool { return n.Value == "tests@example.com" }), subject.Names)
	s.requireDenied(t, "ib_wrong")
}

// requireDenied: the key opens nothing.
func (s *cloudService) requireDenied(t *testing.T, key string) {
	t.Helper()
	wrong := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(wrong, []byte(key), 0o600))
	document := filepath.Join(t.TempDir(), "denied.json")
	require.NoError(t, os.WriteFile(document, []byte(`{"source": {}, "target": {}}`), 0o600))
	code, _, stderr := s.client(t, "--api-key-file", wrong, document)
	require.Equal(t, fault.ExitDenied, code, stderr)
}

// requireBuilds submits a build, follows it, and runs what it has made.
func (s *cloudService) requireBuilds(t *testing.T) {
	t.Helper()
	s.pushBases(t)
	code, stdout, stderr := s.client(t, "--follow", s.document(t, "first"))
	require.Equal(t, fault.ExitOK, code, stderr)
	require.Contains(t, stderr, "it is made", "the log is followed")
	for _, image := range []string{"first:1", "first:other"} {
		require.Contains(t, stdout, s.registry+"/"+image+" sha256:")
	}
	require.Equal(t, "first\n", s.runs(t, "first:other"))
}

// requireSurvivesCrash: the server ends as by a power cut while it builds. It comes back by itself, and the build succeeds.
func (s *cloudService) requireSurvivesCrash(t *testing.T) {
	t.Helper()
	build := s.slow(t, "crash")
	s.cloud.Crash(t, s.vm)
	s.succeeds(t, build)
}

// requireSame: what is as it should be is left alone.
func (s *cloudService) requireSame(t *testing.T) {
	t.Helper()
	was := s.containers(t)
	s.opera(t, "deploy", "--clean-state", "--force", "--verbose", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
	require.Equal(t, was, s.containers(t))
}

// requireOtherServersBuild: with no worker left on the service's server, one on another server builds. It alone reaches the database, and by TLS.
func (s *cloudService) requireOtherServersBuild(t *testing.T) {
	t.Helper()
	database := s.outputs(t)["private_address"]
	values := map[string]any{"service_address": s.address, "database_address": database, "vm-name": s.vm + "-more", "workers": 2}
	for _, same := range []string{
		"ssh-key-name", "identity_file", "username", "image-name", "openstack-network-name", "floating_ip_pool", "flavor-name", "docker-network", "image_builder_env",
		"workers_security_group", "allow_egress", "api_image", "api_archive",
	} {
		values[same] = s.values[same]
	}
	s.inputs(t, "inputs-workers.yaml", values)
	s.opera(t, "deploy", "-p", ".opera-workers", "--workers", "3", "-i", "inputs-workers.yaml", "workers.yaml")
	s.update(t, map[string]any{"workers": 0})
	require.Empty(t, s.on(t, s.address, "sudo docker ps --all --quiet --filter name="+s.vm+"-worker"))

	code, _, stderr := s.client(t, "--follow", s.document(t, "elsewhere"))
	require.Equal(t, fault.ExitOK, code, stderr)
	require.Contains(t, stderr, "it is made")

	more := strings.Fields(s.opera(t, "outputs", "-p", ".opera-workers"))
	other := more[len(more)-1]
	s.on(t, other, "timeout 5 bash -c '</dev/tcp/"+database+"/5432'")
	require.Equal(t, []int{22}, openPorts(t, other))
	s.requireOnlyItsPorts(t)
	plain, err := s.sql("select 1", "host="+s.vm+"-db sslmode=disable")
	require.Error(t, err)
	require.Contains(t, plain, "no encryption")
	encrypted, err := s.sql("select distinct ssl from pg_stat_ssl join pg_stat_activity using (pid) where client_addr is not null", "")
	require.NoError(t, err, encrypted)
	require.Equal(t, "t", strings.TrimSpace(encrypted))

	// Out of the workers' group, the same server gets no answer.
	_, err = s.cloud.Command(t.Context(), s.cloud.Cloud, "server", "remove", "security", "group", s.vm+"-more", s.vm+"-workers")
	require.NoError(t, err)
	eventually(t, "a server that is not of the workers' group does not reach the database", func() bool {
		_, err := s.ssh(other, "timeout 2 bash -c '</dev/tcp/"+database+"/5432'")
		return err != nil
	})
	s.on(t, other, "timeout 5 bash -c '</dev/tcp/"+s.address+"/443'")

	s.opera(t, "undeploy", "-p", ".opera-workers", "--workers", "3")
}

// sql asks the service's database from within its container.
func (s *cloudService) sql(query, connection string) (string, error) {
	return s.ssh(s.address, `sudo docker exec `+s.vm+`-db psql --tuples-only --no-align --command "`+query+`" "dbname=image_builder user=image_builder `+connection+`"`)
}

// requireRotates changes the number of workers, and the key: the old one opens nothing from then on.
func (s *cloudService) requireRotates(t *testing.T) {
	t.Helper()
	old := s.secret(t, "api-key")
	s.update(t, map[string]any{"workers": 2, "rotation": "2"})
	require.Len(t, strings.Fields(s.on(t, s.address, "sudo docker ps --quiet --filter name="+s.vm+"-worker")), 2)
	require.NotEqual(t, old, s.secret(t, "api-key"))
	s.requireDenied(t, old)
	code, _, stderr := s.client(t, "--follow", s.document(t, "rotated"))
	require.Equal(t, fault.ExitOK, code, stderr)
}

// requireRestores: what happened after a backup is gone when that is restored, and everything else is there.
func (s *cloudService) requireRestores(t *testing.T) {
	t.Helper()
	s.inputs(t, "inputs-database.yaml", map[string]any{
		"server_address": s.address, "username": s.values["username"], "identity_file": s.values["identity_file"], "docker-network": s.vm, "file": "service.backup",
	})
	was := s.builds(t)
	require.NotEmpty(t, was)
	s.opera(t, "deploy", "-p", ".opera-backup", "-i", "inputs-database.yaml", "backup.yaml")
	info, err := os.Stat(filepath.Join(s.folder, "service.backup"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	code, _, stderr := s.client(t, "--follow", s.document(t, "later"))
	require.Equal(t, fault.ExitOK, code, stderr)
	require.Greater(t, len(s.builds(t)), len(was))
	s.opera(t, "deploy", "-p", ".opera-restore", "-i", "inputs-database.yaml", "restore.yaml")
	eventually(t, "the API has the builds of the backup", func() bool { return maps.Equal(was, s.builds(t)) })
	code, _, stderr = s.client(t, "--follow", s.document(t, "after"))
	require.Equal(t, fault.ExitOK, code, stderr)
}

// requireNoSecret: none was in any command line, of opera's machine or of a server, and none is in what opera said and keeps.
func (s *cloudService) requireNoSecret(t *testing.T, w *testbed.Arguments) {
	t.Helper()
	secrets := secretsIn(t, s.folder)
	for _, line := range w.All() {
		requireNoSecret(t, secrets, "the command line "+line, []byte(line))
	}
	requireNoSecret(t, secrets, "opera's output", []byte(strings.Join(s.said, "")))
	kept, err := filepath.Glob(filepath.Join(s.folder, ".opera*"))
	require.NoError(t, err)
	require.NotEmpty(t, kept)
	for _, folder := range kept {
		require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			requireNoSecret(t, secrets, path, data)
			return err
		}))
	}
	requireNoSecretInFiles(t, secrets, s.folder)
}

// requireNoSecretOnServer: none is in what the server's Engine tells of containers and images, in a log, or in a file that everybody may read.
func (s *cloudService) requireNoSecretOnServer(t *testing.T) {
	t.Helper()
	secrets := secretsIn(t, s.folder)
	inspected := s.on(t, s.address, "sudo docker inspect $(sudo docker ps --all --quiet) && sudo docker image inspect $(sudo docker images --quiet)")
	require.Contains(t, inspected, s.vm+"-db")
	requireNoSecret(t, secrets, "docker inspect", []byte(inspected))
	requireNoSecret(t, secrets, "a log", []byte(s.on(t, s.address, "for c in $(sudo docker ps --all --quiet); do sudo docker logs $c 2>&1; done; sudo journalctl --quiet --no-pager")))
	// Who is nobody finds the files; only root has the secrets to look for.
	canary := "this is for everybody to read"
	s.on(t, s.address, "echo "+canary+" >/tmp/canary; chmod 644 /tmp/canary")
	cmd := s.sshCommand(s.address, `sudo sh -c 'umask 077; cat >/run/canaries; cd /; setpriv --reuid=65534 --clear-groups find / -xdev \( -path /proc -o -path /sys \) -prune -o -type f -readable -print0 2>/dev/null |
		xargs -0 grep -l -F -f /run/canaries; rm /run/canaries'`)
	var lines strings.Builder
	for _, secret := range secrets {
		lines.WriteString(secret + "\n")
	}
	cmd.Stdin = strings.NewReader(lines.String() + canary + "\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "/tmp/canary", strings.TrimSpace(string(out)))
}

// TestOpenStackFullDisk: the server has no room for the images.
func TestOpenStackFullDisk(t *testing.T) {
	t.Parallel()
	for _, opera := range testbed.OpenStackOperas(t) {
		t.Run(opera.Version, func(t *testing.T) {
			t.Parallel()
			s := newCloudService(t, opera, "full"+strings.ReplaceAll(opera.Version, ".", ""))
			s.with(t, map[string]any{"flavor-name": s.cloud.Flavors.Full})
			s.operaFails(t, "database", []string{"no space left on device"}, "deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
			s.opera(t, "undeploy", "--resume", "--force", "--workers", "3")
			require.Empty(t, s.left(t))
		})
	}
}
