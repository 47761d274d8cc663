//go:build blueprints

package blueprints_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// secretsIn are the secrets of the service that is deployed from a folder, by what they are: the parts of its files that nobody may see.
func secretsIn(t *testing.T, folder string) map[string]string {
	t.Helper()
	const shortest = 16
	found := map[string]string{}
	for _, name := range []string{"database-password", "registry-password", "api-key", "identities", "ca.key", "server.key"} {
		data, err := os.ReadFile(filepath.Join(folder, "secrets", name))
		require.NoError(t, err)
		longest := ""
		for line := range strings.Lines(string(data)) { // of a key in PEM or of age, that is its body
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "-") && len(line) > len(longest) {
				longest = line
			}
		}
		require.Greater(t, len(longest), shortest, name)
		found[name] = longest
	}
	return found
}

func requireNoSecret(t *testing.T, secrets map[string]string, where string, data []byte) {
	t.Helper()
	for name, secret := range secrets {
		require.False(t, bytes.Contains(data, []byte(secret)), "%s has the secret %s", where, name)
	}
}

// requireNoSecretInFiles looks for secrets in files that somebody else may read.
func requireNoSecretInFiles(t *testing.T, secrets map[string]string, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
				return err
			}
			data, err := os.ReadFile(path)
			if err == nil {
				requireNoSecret(t, secrets, path, data)
			}
			return err
		}))
	}
}
