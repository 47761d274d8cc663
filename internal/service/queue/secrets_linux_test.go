package queue_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// TestSecretsStayWhereTheyAreNeeded: neither the service's own secrets nor those of a document are anywhere but in memory, though the
// build itself does what it can to show them.
func TestSecretsStayWhereTheyAreNeeded(t *testing.T) {
	t.Parallel()
	const (
		git, build, own = "canary-git-password", "canary-build-secret", "canary-of-the-service"
	)
	for _, database := range databases {
		for _, end := range []string{"success", "failed", "cancelled"} {
			t.Run(database+" "+end, func(t *testing.T) {
				t.Parallel()
				b := newBed(t, database)
				private, err := testbed.StartGit(b.GitRoot, testbed.GitOptions{User: "u", Password: git})
				require.NoError(t, err)
				t.Cleanup(private.Close)
				last := map[string]string{"success": "true", "failed": "exit 3", "cancelled": "exec sleep 31415060"}[end]
				b.Repository(t, "private.git", fstest.MapFS{"Dockerfile": {Mode: 0o644, Data: []byte("FROM busybox\nENV UNIQUE=" + t.Name() + b.temp +
					"\nRUN --mount=type=secret,id=token echo started; cat /run/secrets/token; echo; cat /run/secrets/token | sed 's/-/ -/' ;" +
					"sleep 5; cat /run/secrets/token >&2; " + last + "\n")}})
				document := fmt.Sprintf(`{"source":{"git_repo":{"url":"%s/private.git","username":"u","password":%q}},
					"target":{"registry":{"url":%q},"images":[{"image":"app","tag":"1","base":"%s/base/busybox:1"}]},
					"options":{"secrets":{"token":%q}}}`, private.URL, git, b.Registry.Host, b.Registry.Host, build)

				b.work(t, func(c *queue.Config) {
					c.Environment = append(os.Environ(), "IMAGEBUILDER_DATABASE_PASSWORD="+own, "AUTH_API_KEY="+own, "ANYTHING="+own,
						"OIDC_CLIENT_SECRET="+own)
				})
				id := b.submit(t, document)
				b.says(t, id, "started")
				pids := b.plugins(t)
				require.Len(t, pids, 1)
				for _, file := range []string{"environ", "cmdline"} {
					data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pids[0], file))
					require.NoError(t, err)
					require.NotEmpty(t, data)
					require.NotContains(t, string(data), "canary")
					require.NotContains(t, string(data), b.identity)
				}
				require.Empty(t, filesWith(t, b.temp, "canary"), "no temporary file holds a secret")
				if end == "cancelled" {
					b.says(t, id, "-build-secret") // the part that is no secret any more: it is past the first lines
					_, err := b.store.Cancel(t.Context(), id)
					require.NoError(t, err)
				}
				inv := b.ended(t, id)
				require.Equal(t, store.State(end), inv.State, inv.Response)
				entries := b.log(t, id)
				require.Contains(t, string(outputOf(t, entries, "type=secret")), "started\n****\ncanary -build-secret")
				for _, e := range entries {
					require.NotContains(t, string(e.Data), git)
					require.NotContains(t, string(e.Data), build)
				}
				require.NotContains(t, inv.Response+string(inv.Failure)+string(inv.Result), "canary-")
				for _, canary := range []string{git, build, own} {
					require.NotContains(t, b.dump(t), canary)
				}
			})
		}
	}
}

// filesWith are the files below a folder that have a text in them.
func filesWith(t *testing.T, folder, text string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // the plugin removes its files while we look
		}
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), text) {
			found = append(found, path)
		}
		return nil
	}))
	return found
}

// dump is all that the database holds.
func (b *bed) dump(t *testing.T) string {
	t.Helper()
	if b.database.SQLite != "" {
		var all strings.Builder
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(b.database.SQLite + suffix)
			if !os.IsNotExist(err) {
				require.NoError(t, err)
			}
			all.Write(data)
		}
		require.Contains(t, all.String(), "ib_invocation")
		return all.String()
	}
	p := b.database.Postgres
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	require.NoError(t, err)
	require.NotEmpty(t, programs, "`scripts/setup.sh packages postgresql` gets pg_dump")
	cmd := exec.Command(programs[len(programs)-1], "--host", p.Host, "--port", fmt.Sprint(p.Port), "--username", p.User, p.Name)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+p.Password)
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "ib_invocation")
	// Output is written as hexadecimal digits; what it says was looked at in the log.
	return string(out)
}
