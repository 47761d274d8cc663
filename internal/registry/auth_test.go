package registry_test

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

// tokenUsers may push to team/*, and read everything there; nobody in particular may read what is in open/.
func tokenUsers() map[string]testbed.TokenUser {
	return map[string]testbed.TokenUser{
		"":       {Access: map[string][]string{"open/*": {"pull"}}},
		user:     {Password: canary, Access: map[string][]string{"team/*": {"pull", "push", "delete"}, "open/*": {"pull", "push"}}},
		"reader": {Password: canary, Access: map[string][]string{"team/*": {"pull"}}},
	}
}

func TestCheckPush(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options            testbed.RegistryOptions
		username, password string
		repository         string
		kind               fault.Kind
		texts              []string
		tries              int // POSTs that carry credentials, or would
	}{
		"open":         {tries: 1},
		"basic, right": {options: testbed.RegistryOptions{Basic: map[string]string{user: canary}}, username: user, password: canary, tries: 1},
		"basic, wrong": {options: testbed.RegistryOptions{Basic: map[string]string{user: "other"}}, username: user, password: canary,
			kind: fault.Denied, texts: []string{"with the credentials of build_params", "UNAUTHORIZED"}, tries: 1},
		"basic, none": {options: testbed.RegistryOptions{Basic: map[string]string{user: canary}},
			kind: fault.Denied, texts: []string{"without credentials", "docker login localhost:"}, tries: 1},
		"token, right": {options: testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}}, username: user, password: canary, tries: 1},
		"token, wrong": {options: testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}}, username: user, password: canary + "x",
			kind: fault.Denied, texts: []string{"token service", "with the credentials of build_params", "incorrect username or password"}, tries: 0},
		"token, none": {options: testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}},
			kind: fault.Denied, texts: []string{"without credentials"}, tries: 1},
		"token, may only read": {options: testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}}, username: "reader", password: canary,
			kind: fault.Denied, texts: []string{"with the credentials of build_params"}, tries: 1},
		"token, another repository": {options: testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}}, username: user, password: canary,
			repository: "foreign/app", kind: fault.Denied, texts: []string{"/foreign/app"}, tries: 1},
		"token and TLS": {options: testbed.RegistryOptions{TLS: true, Tokens: &testbed.TokenOptions{Users: tokenUsers()}}, username: user, password: canary, tries: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &traffic{}
			test.options.Dir, test.options.Middleware = t.TempDir(), tr.middleware
			r := testbed.NewRegistry(t, test.options)
			repository := r.Host + "/team/app"
			if test.repository != "" {
				repository = r.Host + "/" + test.repository
			}
			c := newClient(t, registry.Config{Host: r.Host, Username: test.username, Password: test.password, CA: r.CAPEM})
			err := c.CheckPush(t.Context(), repository)
			if test.kind == "" {
				require.NoError(t, err)
			} else {
				requireFault(t, err, test.kind, append(test.texts, "push "+repository)...)
			}
			require.Equal(t, test.tries, tr.count("POST"), "%v", tr.requests)
			// A registry of distribution writes down its hash once more after it has dropped an upload.
			left := slices.DeleteFunc(filesIn(t, test.options.Dir), func(path string) bool { return strings.Contains(path, "/hashstates/") })
			require.Empty(t, left, "a check leaves nothing")
		})
	}
}

// filesIn are the files below a folder.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

// TestCredentialsInAnswers has a registry repeat what it was sent: nothing of it may get into an error.
func TestCredentialsInAnswers(t *testing.T) {
	t.Parallel()
	echo := func(w http.ResponseWriter, r *http.Request, code int) {
		name, password, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"no %s:%s by %s","detail":%q}]}`, name, password, r.Header.Get("Authorization"), password)
	}
	for _, code := range []int{400, 403, 404, 418} {
		t.Run(fmt.Sprint("basic ", code), func(t *testing.T) {
			t.Parallel()
			tr := &traffic{match: method("POST", "/"), instead: func(_ int, w http.ResponseWriter, r *http.Request) bool {
				echo(w, r, code)
				return true
			}}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Basic: map[string]string{user: canary}, Middleware: tr.middleware})
			err := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary}).CheckPush(t.Context(), r.Host+"/a")
			require.ErrorContains(t, err, "no builder:****")
			require.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString([]byte(user+":"+canary)))
			require.NotContains(t, err.Error(), canary)
		})
		t.Run(fmt.Sprint("token service ", code), func(t *testing.T) {
			t.Parallel()
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers(), Middleware: func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(w, r, code) })
			}}})
			err := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary}).CheckPush(t.Context(), r.Host+"/a")
			require.ErrorContains(t, err, "token service")
			require.NotContains(t, err.Error(), canary)
			require.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString([]byte(user+":"+canary)))
		})
	}
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		var token string
		tr := &traffic{match: method("POST", "/"), instead: func(_ int, w http.ResponseWriter, r *http.Request) bool {
			token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			echo(w, r, 403)
			return true
		}}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}, Middleware: tr.middleware})
		err := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary}).CheckPush(t.Context(), r.Host+"/team/a")
		require.NotEmpty(t, token)
		require.ErrorContains(t, err, "by Bearer ****")
		require.NotContains(t, err.Error(), token[:40])
	})
}

func TestTokenServiceFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		code, tries int
		kind        fault.Kind
	}{
		"down for a moment": {code: 503, tries: 3}, // the last one for taking the upload back
		"denied":            {code: 403, tries: 1, kind: fault.Denied},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := &traffic{match: method("GET", "/token"), instead: func(n int, w http.ResponseWriter, r *http.Request) bool {
				return n == 1 && status(test.code)(n, w, r)
			}}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers(), Middleware: tr.middleware}})
			err := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary}).CheckPush(t.Context(), r.Host+"/team/a")
			if test.kind == "" {
				require.NoError(t, err)
			} else {
				requireFault(t, err, test.kind)
			}
			require.Equal(t, test.tries, tr.count("GET /token"))
		})
	}
}

// TestTokenExpires pushes through a registry that is so slow that tokens end on the way. In one case the token
// service says so, in the other it is wrong about its tokens and the registry refuses them: after the start
// of an upload, so that the blob's bytes have to be sent twice.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	const life = 2 * time.Second
	for name, claimed := range map[string]time.Duration{"known": life, "unknown": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The registry cuts times to whole seconds, so that a token may hold for one second more.
			seen, tokens := &traffic{}, &traffic{}
			slow := func(next http.Handler) http.Handler {
				return seen.middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(w, r)
					if r.Method == http.MethodPost {
						time.Sleep(life + 1500*time.Millisecond)
					}
				}))
			}
			r := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: slow, Tokens: &testbed.TokenOptions{
				Users: tokenUsers(), Lifetime: life, Claimed: claimed, Middleware: tokens.middleware,
			}})
			dir, digest := newLayout(t, 1<<20, 1, amd64())
			c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary})
			pushed, err := c.PushLayout(t.Context(), dir, r.Host+"/team/app")
			require.NoError(t, err)
			require.Equal(t, digest, pushed)
			require.GreaterOrEqual(t, tokens.count("GET /token"), 2)
			served, err := c.Digest(t.Context(), r.Host+"/team/app@"+digest)
			require.NoError(t, err)
			require.Equal(t, digest, served)
			if claimed > life {
				require.Greater(t, seen.count("PATCH"), 2, "an upload met a token that had ended")
			}
		})
	}
}

func TestAnonymousRead(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}})
	dir, digest := newLayout(t, 100, 1, amd64())
	owner := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary})
	for _, repository := range []string{"/open/app", "/team/app"} {
		_, err := owner.PushLayout(t.Context(), dir, r.Host+repository)
		require.NoError(t, err)
	}
	anybody := newClient(t, registry.Config{})
	got, err := anybody.Digest(t.Context(), r.Host+"/open/app@"+digest)
	require.NoError(t, err)
	require.Equal(t, digest, got)
	_, err = anybody.Digest(t.Context(), r.Host+"/team/app@"+digest)
	requireFault(t, err, fault.Denied, "without credentials", "does not exist")
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	dir := writeDockerConfig(t, map[string]any{"auths": map[string]any{
		"https://index.docker.io/v1/": map[string]any{"auth": encode("hub:hubpass")},
		"registry.example.com":        map[string]any{"auth": encode("file:filepass")},
		"https://legacy.example.com":  map[string]any{"auth": encode("old:oldpass")},
		"id.example.com":              map[string]any{"auth": encode("00000000-0000-0000-0000-000000000000:x"), "identitytoken": "refresh-token"},
	}})
	tests := map[string]struct{ host, configHost, username, password string }{
		"build_params":               {host: "own.example.com", configHost: "own.example.com", username: user, password: canary},
		"build_params, capitals":     {host: "own.example.com", configHost: "Own.Example.com", username: user, password: canary},
		"build_params, other host":   {host: "registry.example.com", configHost: "own.example.com", username: "file", password: "filepass"},
		"build_params before file":   {host: "registry.example.com", configHost: "registry.example.com", username: user, password: canary},
		"legacy key":                 {host: "legacy.example.com", configHost: "own.example.com", username: "old", password: "oldpass"},
		"identity token":             {host: "id.example.com", configHost: "own.example.com", username: "", password: "refresh-token"},
		"hub":                        {host: "docker.io", configHost: "own.example.com", username: "hub", password: "hubpass"},
		"hub as containerd calls it": {host: "registry-1.docker.io", configHost: "own.example.com", username: "hub", password: "hubpass"},
		"hub as docker calls it":     {host: "index.docker.io", configHost: "own.example.com", username: "hub", password: "hubpass"},
		"hub of build_params":        {host: "registry-1.docker.io", configHost: "docker.io", username: user, password: canary},
		"nobody knows":               {host: "unknown.example.com", configHost: "own.example.com"},
		"port makes another host":    {host: "own.example.com:5000", configHost: "own.example.com"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, registry.Config{Host: test.configHost, Username: user, Password: canary, DockerConfigDir: dir})
			username, password, err := c.Credentials(t.Context(), test.host)
			require.NoError(t, err)
			require.Equal(t, test.username, username)
			require.Equal(t, test.password, password)
		})
	}

	t.Run("broken file", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths": {"a": `+canary), 0o600))
		_, _, err := newClient(t, registry.Config{DockerConfigDir: dir}).Credentials(t.Context(), "registry.example.com")
		requireFault(t, err, fault.Denied, "config.json")
	})
}

// helper is a credential helper as docker runs them: it knows localhost hosts, fails for one, and does not know the rest.
const helper = `#!/bin/sh
read -r host
case $1:$host in
get:localhost:*) printf '{"ServerURL":"%s","Username":"builder","Secret":"` + canary + `"}' "$host" ;;
get:id.example.com) printf '{"ServerURL":"%s","Username":"<token>","Secret":"refresh-token"}' "$host" ;;
get:locked.example.com) echo 'the key ring is locked'; exit 1 ;;
get:leaky.example.com) printf '{"Username":"builder","Secret":"` + canary + `"}'; exit 1 ;;
get:odd.example.com) echo '` + canary + `' ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
`

func TestCredentialHelper(t *testing.T) { // sets PATH, so that it is not parallel
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o700))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	dir := writeDockerConfig(t, map[string]any{"credsStore": "test", "credHelpers": map[string]any{"gone.example.com": "gone"}})
	before := snapshot(t, dir)

	r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers()}})
	c := newClient(t, registry.Config{Host: "own.example.com", Username: "x", Password: "unused", DockerConfigDir: dir})
	require.NoError(t, c.CheckPush(t.Context(), r.Host+"/team/app"))
	err := c.CheckPush(t.Context(), r.Host+"/foreign/app")
	requireFault(t, err, fault.Denied, "with the credentials of docker-credential-test")

	username, password, err := c.Credentials(t.Context(), "id.example.com")
	require.NoError(t, err)
	require.Equal(t, []string{"", "refresh-token"}, []string{username, password})

	username, password, err = c.Credentials(t.Context(), "unknown.example.com")
	require.NoError(t, err)
	require.Empty(t, username+password)

	_, _, err = c.Credentials(t.Context(), "gone.example.com")
	requireFault(t, err, fault.Denied, "docker-credential-gone is not on PATH", "config.json")
	_, _, err = c.Credentials(t.Context(), "locked.example.com")
	requireFault(t, err, fault.Denied, "the key ring is locked")
	for _, host := range []string{"leaky.example.com", "odd.example.com"} {
		_, _, err = c.Credentials(t.Context(), host)
		requireFault(t, err, fault.Denied, host)
	}
	require.Equal(t, before, snapshot(t, dir), "the Docker configuration is only read")
}

// TestDockerConfig takes the credentials of the user's own configuration, found by DOCKER_CONFIG.
func TestDockerConfig(t *testing.T) { // sets DOCKER_CONFIG, so that it is not parallel
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Basic: map[string]string{user: canary}})
	dir := writeDockerConfig(t, map[string]any{"auths": map[string]any{
		r.Host: map[string]any{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + canary))},
	}})
	t.Setenv("DOCKER_CONFIG", dir)
	before := snapshot(t, dir)
	c, err := registry.New(registry.Config{Host: r.Host})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	layout, digest := newLayout(t, 100, 1, amd64())
	_, err = c.PushLayout(t.Context(), layout, r.Host+"/app")
	require.NoError(t, err)
	require.NoError(t, c.Tag(t.Context(), r.Host+"/app@"+digest, "v1"))
	require.Equal(t, before, snapshot(t, dir), "the Docker configuration is only read")
}

// snapshot is what is in a folder, and when it was changed.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			all[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
		}
		return err
	}))
	return all
}

// TestIdentityToken exchanges what docker login left in place of a password.
func TestIdentityToken(t *testing.T) {
	t.Parallel()
	tr := &traffic{}
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: tokenUsers(), Middleware: tr.middleware}})
	dir := writeDockerConfig(t, map[string]any{"auths": map[string]any{
		r.Host: map[string]any{"auth": "", "identitytoken": r.RefreshToken(user)},
	}})
	require.NoError(t, newClient(t, registry.Config{DockerConfigDir: dir}).CheckPush(t.Context(), r.Host+"/team/app"))
	require.Equal(t, 2, tr.count("POST /token"), "to begin an upload, and to take it back")
	wrong := newClient(t, registry.Config{Host: r.Host, Password: canary})
	requireFault(t, wrong.CheckPush(t.Context(), r.Host+"/team/app"), fault.Denied, "token service")
}

// TestTokenServiceNotTrusted meets registries that send us to places where our password must not go.
func TestTokenServiceNotTrusted(t *testing.T) {
	t.Parallel()

	t.Run("plain http", func(t *testing.T) {
		t.Parallel()
		trap := &traffic{}
		plain := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: trap.middleware})
		tr := &traffic{}
		tr.match = func(*http.Request) bool { return true }
		tr.instead = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+plain.Host+`/token",service="trap"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		r := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true, Middleware: tr.middleware})
		c := newClient(t, registry.Config{Host: r.Host, Username: user, Password: canary, CA: r.CAPEM})
		requireFault(t, c.CheckPush(t.Context(), r.Host+"/a"), fault.Denied, "less safe than the registry itself")
		require.Zero(t, trap.count(""))
	})

	t.Run("redirected form", func(t *testing.T) {
		t.Parallel()
		trap := &traffic{}
		plain := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: trap.middleware})
		r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Middleware: func(http.Handler) http.Handler {
			return http.RedirectHandler("http://"+plain.Host+"/token", http.StatusTemporaryRedirect)
		}}})
		c := newClient(t, registry.Config{Host: r.Host, Password: canary}) // an identity token, which goes by POST
		err := c.CheckPush(t.Context(), r.Host+"/a")
		require.ErrorContains(t, err, "redirects to another host")
		requireClean(t, err)
		require.Zero(t, trap.count(""))
	})
}
