package auth_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

func newKey(t *testing.T, entry auth.KeyEntry) (key, line string) {
	t.Helper()
	key, entry, err := auth.NewKey(rand.Reader, entry)
	require.NoError(t, err)
	return key, entry.Line()
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
}

func TestOneKey(t *testing.T) {
	t.Parallel()
	const key = "k-0123456789-0123456789"
	p, err := newAuthenticator(t, auth.Config{APIKey: key}).Authenticate(withKey(key))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{Subject: "key:default", Name: "default", Scopes: []string{auth.ScopeSubmit, auth.ScopeReadAll}}, p)
	p, err = newAuthenticator(t, auth.Config{APIKey: key, APIKeyScopes: []string{auth.ScopeRead}}).Authenticate(withKey(key))
	require.NoError(t, err)
	require.Equal(t, []string{auth.ScopeRead}, scopesOf(p))
	_, err = auth.New(t.Context(), auth.Config{APIKey: "secret"})
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.NotContains(t, err.Error(), "secret")
}

func TestKeysOfAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	time1 := clock{}
	var log buffer
	ci, ciLine := newKey(t, auth.KeyEntry{Name: "ci", Groups: []string{"team a", `"quoted"`}, Scopes: []string{auth.ScopeSubmit, auth.ScopeReadAll}})
	ci2, ci2Line := newKey(t, auth.KeyEntry{Name: "ci"})
	soon, soonLine := newKey(t, auth.KeyEntry{Name: "soon", Expires: time.Now().Add(time.Hour)})
	write(t, path, ciLine, ci2Line, soonLine)
	a := newAuthenticator(t, auth.Config{APIKeysFile: path, Now: time1.now, Logger: logger(&log)})

	p, err := a.Authenticate(withKey(ci))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{Subject: "key:ci", Name: "ci", Groups: []string{"team a", `"quoted"`}, Scopes: []string{auth.ScopeSubmit, auth.ScopeReadAll}}, p)
	p, err = a.Authenticate(withKey(ci2))
	require.NoError(t, err)
	require.Equal(t, "key:ci", p.Subject, "a second key of the same name is the same caller")
	require.Equal(t, []string{auth.ScopeSubmit}, p.Scopes)
	require.NoError(t, errorOf(a.Authenticate(withKey(soon))))
	time1.forward(time.Hour)
	requireDenied(t, errorOf(a.Authenticate(withKey(soon))))

	// A key goes, another comes.
	fresh, freshLine := newKey(t, auth.KeyEntry{Name: "fresh"})
	write(t, path, ci2Line, freshLine)
	time1.forward(time.Second)
	requireDenied(t, errorOf(a.Authenticate(withKey(ci))))
	require.NoError(t, errorOf(a.Authenticate(withKey(ci2))))
	require.NoError(t, errorOf(a.Authenticate(withKey(fresh))))

	// What is broken, gone or written by strangers changes nothing, and is said once.
	for _, spoil := range []func(){
		func() { write(t, path, "- {name: ") },
		func() { require.NoError(t, os.Remove(path)) },
		func() {
			write(t, path, ciLine)
			require.NoError(t, os.Chmod(path, 0o666))
		},
	} {
		before := strings.Count(log.String(), "not read again")
		spoil()
		for range 3 {
			time1.forward(time.Second)
			require.NoError(t, errorOf(a.Authenticate(withKey(fresh))))
			requireDenied(t, errorOf(a.Authenticate(withKey(ci))))
		}
		require.LessOrEqual(t, strings.Count(log.String(), "not read again"), before+1)
	}
	require.Contains(t, log.String(), "not read again")
	require.NoError(t, os.Chmod(path, 0o600))
	time1.forward(time.Second)
	require.NoError(t, errorOf(a.Authenticate(withKey(ci))))
	write(t, path)
	time1.forward(time.Second)
	requireDenied(t, errorOf(a.Authenticate(withKey(ci))))
	for _, key := range []string{ci, ci2, fresh, soon} {
		require.NotContains(t, log.String(), key)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	good := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("some key")))
	for name, file := range map[string]string{
		"no list":        "name: ci\n",
		"unknown field":  "- {name: ci, hash: '" + good + "', scope: [a]}\n",
		"no hash":        "- {name: ci}\n",
		"a key in clear": "- {name: ci, hash: 'ib_0123456789012345678901234567890123456789'}\n",
		"short hash":     "- {name: ci, hash: 'sha256:abcd'}\n",
		"no name":        "- {hash: '" + good + "'}\n",
		"odd name":       "- {name: 'a b', hash: '" + good + "'}\n",
		"taken name":     "- {name: default, hash: '" + good + "'}\n",
		"scope":          "- {name: ci, hash: '" + good + "', scopes: [email]}\n",
		"group":          "- {name: ci, hash: '" + good + "', groups: [\"a\\nb\"]}\n",
		"empty group":    "- {name: ci, hash: '" + good + "', groups: ['']}\n",
		"twice":          "- {name: a, hash: '" + good + "'}\n- {name: b, hash: '" + good + "'}\n",
	} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		write(t, path, file)
		_, err := auth.New(t.Context(), auth.Config{APIKeysFile: path})
		require.Equal(t, fault.Invalid, fault.KindOf(err), name)
		require.ErrorContains(t, err, path, name)
	}
	_, err := auth.New(t.Context(), auth.Config{APIKeysFile: "/does/not/exist"})
	require.ErrorIs(t, err, os.ErrNotExist)

	// Somebody has hashed a word.
	path := filepath.Join(t.TempDir(), "keys.yaml")
	write(t, path, "- {name: ci, hash: '"+good+"'}\n- {name: idle, hash: 'sha256:"+strings.Repeat("0", 64)+"', scopes: []}\n")
	a := newAuthenticator(t, auth.Config{APIKeysFile: path})
	requireDenied(t, errorOf(a.Authenticate(withKey("some key"))))
}

func TestKeysDoNotRepeat(t *testing.T) {
	t.Parallel()
	one, line := newKey(t, auth.KeyEntry{Name: "ci"})
	two, _ := newKey(t, auth.KeyEntry{Name: "ci"})
	require.NotEqual(t, one, two)
	require.Contains(t, line, `name: "ci"`, "there are names that YAML takes for something else")
	require.Regexp(t, `^ib_[A-Za-z0-9_-]{43}$`, one)
	require.NotContains(t, line, one)
	_, _, err := auth.NewKey(rand.Reader, auth.KeyEntry{Name: "ci", Scopes: []string{"all"}})
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	_, _, err = auth.NewKey(strings.NewReader("short"), auth.KeyEntry{Name: "ci"})
	require.Error(t, err)
}
