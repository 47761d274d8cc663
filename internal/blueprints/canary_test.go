//go:build blueprints

package blueprints_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// watch samples the command lines of all processes.
type watch struct {
	stop chan struct{}
	done chan []string
}

func watchArguments(t *testing.T) *watch {
	t.Helper()
	w := &watch{stop: make(chan struct{}), done: make(chan []string, 1)}
	go func() {
		seen := map[string]bool{}
		for {
			paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
			for _, path := range paths {
				if data, err := os.ReadFile(path); err == nil { // it may have ended
					seen[string(data)] = true
				}
			}
			select {
			case <-w.stop:
				all := make([]string, 0, len(seen))
				for line := range seen {
					all = append(all, line)
				}
				w.done <- all
				return
			case <-time.After(30 * time.Millisecond): // a command that is given a secret takes longer
			}
		}
	}()
	return w
}

// all ends it, and gives all command lines that there were.
func (w *watch) all() []string {
	close(w.stop)
	return <-w.done
}
