//go:build soak

package auth_test

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// keycloak is a running Keycloak with the realm of docs/keycloak-realm.json.
type keycloak struct {
	t     *testing.T
	base  string // http://127.0.0.1:PORT
	stop  func()
	admin string // bearer token of its administrator, for a minute
	got   time.Time
}

const realm = "image-builder"

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

// startKeycloak starts the one that scripts/keycloak.sh got; its database is in memory. redirects replace those of the web page's client.
func startKeycloak(t *testing.T, redirect string) *keycloak {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	program := filepath.Join(root, ".work", "keycloak", "keycloak", "bin", "kc.sh")
	require.FileExists(t, program, "scripts/keycloak.sh .work/keycloak gets it")
	port := freePort(t)
	process := exec.Command("sh", program, "start", "--optimized", "--http-enabled=true", "--hostname-strict=false",
		"--http-host=127.0.0.1", "--http-port="+port, "--http-management-port="+freePort(t))
	process.Env = append(os.Environ(), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=adminpw", "JAVA_OPTS_APPEND=-Xmx512m")
	log, err := os.Create(filepath.Join(t.TempDir(), "keycloak.log"))
	require.NoError(t, err)
	process.Stdout, process.Stderr = log, log
	// The script starts Java as a child of its own: both end together.
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	require.NoError(t, process.Start())
	k := &keycloak{t: t, base: "http://127.0.0.1:" + port}
	stopped := false
	k.stop = func() {
		if !stopped {
			stopped = true
			_ = syscall.Kill(-process.Process.Pid, syscall.SIGKILL)
			_ = process.Wait()
			_ = log.Close()
		}
	}
	t.Cleanup(k.stop)
	require.Eventually(t, func() bool {
		response, err := http.Get(k.base + "/realms/master")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, 10*time.Minute, 250*time.Millisecond, "Keycloak did not come up")
	t.Logf("Keycloak was up after %s", time.Since(began).Round(time.Second))

	document, err := os.ReadFile(filepath.Join(root, "docs", "keycloak-realm.json"))
	require.NoError(t, err)
	document = []byte(strings.ReplaceAll(string(document), "https://builds.example.com/login/callback", redirect))
	k.call("POST", "/admin/realms", json.RawMessage(document), nil)
	return k
}

func (k *keycloak) issuer() string { return k.base + "/realms/" + realm }

// call asks the administration API.
func (k *keycloak) call(method, path string, body, into any) {
	k.t.Helper()
	if time.Since(k.got) > 30*time.Second {
		answer := k.form("/realms/master/protocol/openid-connect/token", url.Values{
			"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"adminpw"}})
		k.admin, k.got = answer["access_token"].(string), time.Now()
	}
	data, err := json.Marshal(body)
	require.NoError(k.t, err)
	request, err := http.NewRequest(method, k.base+path, strings.NewReader(string(data)))
	require.NoError(k.t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+k.admin)
	response, err := http.DefaultClient.Do(request)
	require.NoError(k.t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(k.t, err)
	require.Less(k.t, response.StatusCode, 300, "%s %s: %s", method, path, answer)
	if into != nil {
		require.NoError(k.t, json.Unmarshal(answer, into))
	}
}

func (k *keycloak) form(path string, form url.Values) map[string]any {
	k.t.Helper()
	response, err := http.PostForm(k.base+path, form)
	require.NoError(k.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(k.t, err)
	require.Equal(k.t, http.StatusOK, response.StatusCode, "%s: %s", path, body)
	answer := map[string]any{}
	if len(body) > 0 {
		require.NoError(k.t, json.Unmarshal(body, &answer))
	}
	return answer
}

// client gives a client's id in Keycloak's database, and its secret, which Keycloak made up.
func (k *keycloak) client(name string) (id, secret string) {
	k.t.Helper()
	var clients []struct{ ID, Secret string }
	k.call("GET", "/admin/realms/"+realm+"/clients?clientId="+name, nil, &clients)
	require.Len(k.t, clients, 1)
	return clients[0].ID, clients[0].Secret
}

// addClient adds a program without the audience mapper that the realm's own clients have, unless it gets one.
func (k *keycloak) addClient(name string, attributes map[string]string, withAudience bool) {
	k.t.Helper()
	client := map[string]any{"clientId": name, "secret": name + "-secret", "publicClient": false, "serviceAccountsEnabled": true, "standardFlowEnabled": false, "attributes": attributes}
	if withAudience {
		client["protocolMappers"] = []map[string]any{{
			"name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
			"config": map[string]string{"included.client.audience": "image-builder", "access.token.claim": "true", "introspection.token.claim": "true"},
		}}
	}
	k.call("POST", "/admin/realms/"+realm+"/clients", client, nil)
}

// giveRole gives a realm role to a user.
func (k *keycloak) giveRole(user, role string) {
	k.t.Helper()
	var r map[string]any
	k.call("GET", "/admin/realms/"+realm+"/roles/"+url.PathEscape(role), nil, &r)
	k.call("POST", "/admin/realms/"+realm+"/users/"+user+"/role-mappings/realm", []any{r}, nil)
}

// addUser adds a person of team-a with a password.
func (k *keycloak) addUser(name string) (id string) {
	k.t.Helper()
	k.call("POST", "/admin/realms/"+realm+"/users", map[string]any{
		"username": name, "firstName": "A", "lastName": "B", "email": name + "@example.org", "emailVerified": true, "enabled": true,
		"groups": []string{"/team-a"}, "credentials": []map[string]any{{"type": "password", "value": name + "-password", "temporary": false}},
	}, nil)
	var users []struct{ ID string }
	k.call("GET", "/admin/realms/"+realm+"/users?exact=true&username="+name, nil, &users)
	require.Len(k.t, users, 1)
	return users[0].ID
}

// rotate gives the realm a new signing key.
func (k *keycloak) rotate() {
	k.t.Helper()
	var r struct{ ID string }
	k.call("GET", "/admin/realms/"+realm, nil, &r)
	k.call("POST", "/admin/realms/"+realm+"/components", map[string]any{
		"name": "rsa-new", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider", "parentId": r.ID,
		"config": map[string][]string{"priority": {"200"}, "enabled": {"true"}, "active": {"true"}, "algorithm": {"RS256"}},
	}, nil)
}

func (k *keycloak) token(client, secret string) string {
	k.t.Helper()
	answer := k.form("/realms/"+realm+"/protocol/openid-connect/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}})
	return answer["access_token"].(string)
}

// signIn fills the form in at address and gives where Keycloak sends the browser.
func (k *keycloak) signIn(browser *http.Client, address, name string) string {
	k.t.Helper()
	response, err := browser.Get(address)
	require.NoError(k.t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(k.t, err)
	require.NoError(k.t, response.Body.Close())
	action := regexp.MustCompile(`action="([^"]*)"`).FindSubmatch(body)
	require.NotNil(k.t, action, "status %d: %s", response.StatusCode, body)
	response, err = browser.PostForm(html.UnescapeString(string(action[1])), url.Values{"username": {name}, "password": {name + "-password"}})
	require.NoError(k.t, err)
	require.NoError(k.t, response.Body.Close())
	require.NotEmpty(k.t, response.Header.Get("Location"), fmt.Sprint(response.Status))
	return response.Header.Get("Location")
}
