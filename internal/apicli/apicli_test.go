package apicli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
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

// ran is what came of one command line.
type ran struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, environment map[string]string, args ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := apicli.Main(t.Context(), command.Host{
		In: strings.NewReader(""), Out: &stdout, Err: &stderr,
		LookupEnv:  func(name string) (string, bool) { v, ok := environment[name]; return v, ok },
		Executable: func() (string, error) { return "/nowhere/image-builder-api", nil },
		Now:        time.Now,
	}, args, "v1.2.3")
	return ran{code, stdout.String(), stderr.String()}
}

// TestHelp holds every verb to say what it does, with an example that begins with its own name.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"", "serve", "migrate", "migrate up", "migrate down", "migrate status", "keygen", "key", "key new", "health", "version"} {
		r := run(t, nil, append(strings.Fields(verb), "--help")...)
		require.Equal(t, fault.ExitOK, r.code, verb)
		require.Contains(t, r.stdout, "Examples:\n", verb)
		require.Contains(t, r.stdout, strings.TrimSpace("image-builder-api "+verb), verb)
	}
	require.Equal(t, "v1.2.3\n", run(t, nil, "version").stdout)
}

// TestUsage holds wrong command lines to exit code 2 and a message that says what is wrong.
func TestUsage(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"serv":                             "did you mean serve?",
		"serve --concurency 3":             "did you mean --concurrency?",
		"serve --role half":                "all, api, worker",
		"serve now":                        "no arguments",
		"serve --allow-egress 10.0.0":      "no network, as 10.0.0.0/8",
		"serve --keep-failed soon":         "as 30d or 12h, or never",
		"serve --role api":                 "needs PostgreSQL",
		"serve --oidc-web-client-id x":     "needs --oidc-issuer",
		"serve --log-limit much":           "a size",
		"migrate down":                     "how many steps",
		"migrate status --data-dir /none":  "there is no database in /none",
		"key new --name default":           "belongs to AUTH_API_KEY",
		"key new":                          `name ""`,
		"key new --name x --scope builds:": "builds:",
	} {
		r := run(t, nil, strings.Fields(line)...)
		require.Contains(t, []int{fault.ExitInvalid, fault.ExitFailed}, r.code, line)
		require.Contains(t, r.stderr, want, line)
		require.Empty(t, r.stdout, line)
		require.NotContains(t, r.stderr, "goroutine", line)
	}
}

// TestKeys makes an identity and an API key: what is secret goes to one place only.
func TestKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "identities.txt")
	r := run(t, nil, "keygen", "-o", file)
	require.Equal(t, fault.ExitOK, r.code, r.stderr)
	recipient := regexp.MustCompile(`^recipient: (age1\S+)\n$`).FindStringSubmatch(r.stderr)
	require.NotNil(t, recipient, r.stderr)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	identities, err := seal.ReadIdentities(file)
	require.NoError(t, err)
	sealer, err := seal.NewSealer(recipient[1])
	require.NoError(t, err)
	opener, err := seal.NewOpener(identities...)
	require.NoError(t, err)
	sealed, err := sealer.Seal("id", []byte("document"))
	require.NoError(t, err)
	opened, err := opener.Open("id", sealed)
	require.NoError(t, err)
	require.Equal(t, "document", string(opened))
	require.Contains(t, run(t, nil, "keygen", "-o", file).stderr, "there is such a file")

	r = run(t, nil, "key", "new", "--name", "ci", "--scope", "builds:submit", "--group", "shop", "--expires-in", "90d")
	require.Equal(t, fault.ExitOK, r.code, r.stderr)
	key := regexp.MustCompile(`^key: (ib_\S+)\n$`).FindStringSubmatch(r.stderr)
	require.NotNil(t, key, r.stderr)
	require.Regexp(t, `^- \{name: "ci", hash: "sha256:[0-9a-f]{64}", scopes: \["builds:submit"\], groups: \["shop"\], expires: \S+\}\n$`, r.stdout)
	require.NotContains(t, r.stdout, key[1])
}

// TestMigrate moves the schema of a PostgreSQL database up and down, reached by the variables of the documents and by those that the
// original's code read.
func TestMigrate(t *testing.T) {
	t.Parallel()
	db := testbed.Postgres(t)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte(db.Password+"\n"), 0o600))
	port := strconv.Itoa(db.Port)
	documented := map[string]string{"IMAGEBUILDER_DATABASE_IP": db.Host, "IMAGEBUILDER_DATABASE_PORT": port, "IMAGEBUILDER_DATABASE_NAME": db.Name,
		"IMAGEBUILDER_DATABASE_USER": db.User, "IMAGEBUILDER_DATABASE_PASSWORD": db.Password, "IMAGEBUILDER_DATABASE_TIMEOUT": "5"}
	original := map[string]string{"IMAGEBUILDER_DATABASE_URL": db.Host, "IMAGEBUILDER_DATABASE_PORT": port, "IMAGEBUILDER_DATABASE_DB": db.Name,
		"IMAGEBUILDER_DATABASE_USER": db.User, "IMAGEBUILDER_DATABASE_PASSWORD_FILE": password}
	r := run(t, documented, "migrate", "up")
	require.Equal(t, fault.ExitOK, r.code, r.stderr)
	r = run(t, original, "migrate", "status")
	require.Equal(t, fault.ExitOK, r.code, r.stderr)
	require.Regexp(t, `(?m)^1 +\S.* +\d{4}-\d{2}-\d{2}T\S+Z$`, r.stdout)
	r = run(t, original, "migrate", "down", "--steps", "1")
	require.Equal(t, fault.ExitOK, r.code, r.stderr)
	r = run(t, documented, "migrate", "status")
	require.Regexp(t, `(?m) -$`, r.stdout)

	wrong := map[string]string{"IMAGEBUILDER_DATABASE_IP": "127.0.0.1", "IMAGEBUILDER_DATABASE_PORT": "1", "IMAGEBUILDER_DATABASE_PASSWORD": "hidden-word"}
	r = run(t, wrong, "migrate", "up")
	require.Equal(t, fault.ExitUnavailable, r.code, r.stderr)
	require.NotContains(t, r.stderr, "hidden-word")
	r = run(t, map[string]string{"IMAGEBUILDER_DATABASE_IP": "127.0.0.1", "IMAGEBUILDER_DATABASE_PORT": "many"}, "migrate", "up")
	require.Equal(t, fault.ExitInvalid, r.code)
	require.Contains(t, r.stderr, `IMAGEBUILDER_DATABASE_PORT: invalid value "many"`)
}
