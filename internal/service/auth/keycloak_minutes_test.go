//go:build soak

package auth_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// TestKeycloakForMinutes is what the other tests ask of oidc-provider, asked of the provider that the original was run with,
// set up by the realm that docs/auth-keycloak.md gives.
func TestKeycloakForMinutes(t *testing.T) {
	t.Parallel()
	time1 := &clock{}
	var made *auth.Authenticator
	var k *keycloak
	s := newSite(t, func(string) *auth.Authenticator { return made }, auth.SessionsConfig{Store: newStore(t)}, func(address string) *auth.SignIn {
		k = startKeycloak(t, address+auth.CallbackPath)
		_, own := k.client("image-builder")
		_, web := k.client("image-builder-web")
		made = newAuthenticator(t, auth.Config{
			Now:           time1.now,
			JWT:           &auth.JWT{Issuer: k.issuer(), Audience: "image-builder"},
			Introspection: &auth.Introspection{Endpoint: k.issuer() + "/protocol/openid-connect/token/introspect", ClientID: "image-builder", ClientSecret: own},
		})
		return &auth.SignIn{Issuer: k.issuer(), ClientID: "image-builder-web", ClientSecret: web}
	})
	_, own := k.client("image-builder")
	ask := auth.Introspection{Endpoint: k.issuer() + "/protocol/openid-connect/token/introspect", ClientID: "image-builder", ClientSecret: own}
	asking := newAuthenticator(t, auth.Config{Introspection: &ask, Now: time1.now})
	verifying := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: k.issuer(), Audience: "image-builder"}, Now: time1.now})
	both := map[string]*auth.Authenticator{"asking": asking, "verifying": verifying}

	_, ciSecret := k.client("ci")
	ci := k.token("ci", ciSecret)
	var subjects []string
	for name, a := range both {
		p, err := a.Authenticate(withToken(ci))
		require.NoError(t, err, name)
		require.Equal(t, []string{auth.ScopeSubmit}, p.Scopes, "%s: by Keycloak's own scope email", name)
		require.Equal(t, "service-account-ci", p.Name)
		subjects = append(subjects, p.Subject)
	}
	require.Equal(t, subjects[0], subjects[1], "a caller is the same one on both ways")

	t.Log("a role of the realm")
	var account struct{ ID string }
	id, _ := k.client("ci")
	k.call("GET", "/admin/realms/"+realm+"/clients/"+id+"/service-account-user", nil, &account)
	k.giveRole(account.ID, "builds:read:all")
	ci = k.token("ci", ciSecret)
	for name, a := range both {
		p, err := a.Authenticate(withToken(ci))
		require.NoError(t, err, name)
		require.Equal(t, []string{auth.ScopeSubmit, auth.ScopeReadAll}, p.Scopes, name)
	}

	t.Log("a token that is not for this service: Keycloak itself says active:false since 26.6.2")
	k.addClient("stranger", nil, false)
	stranger := k.token("stranger", "stranger-secret")
	for _, a := range both {
		requireDenied(t, errorOf(a.Authenticate(withToken(stranger))))
	}

	t.Log("revoked: at once where Keycloak is asked, never where it is not")
	_ = k.form("/realms/"+realm+"/protocol/openid-connect/revoke", url.Values{"client_id": {"ci"}, "client_secret": {ciSecret}, "token": {ci}})
	time1.forward(30 * time.Second)
	requireDenied(t, errorOf(asking.Authenticate(withToken(ci))))
	require.NoError(t, errorOf(verifying.Authenticate(withToken(ci))))

	t.Log("expired; by Keycloak's own clock where it is asked")
	k.addClient("short", map[string]string{"access.token.lifespan": "10"}, true)
	short := k.token("short", "short-secret")
	askingNow := newAuthenticator(t, auth.Config{Introspection: &ask})
	require.NoError(t, errorOf(askingNow.Authenticate(withToken(short))))
	require.Eventually(t, func() bool {
		return kindOf(askingNow.Authenticate(withToken(short))) == fault.Denied && kindOf(verifying.Authenticate(withToken(short))) == fault.Denied
	}, time.Minute, 250*time.Millisecond)

	t.Log("our own password is wrong: 503, for the caller has done nothing")
	ask.ClientSecret = "wrong"
	require.Equal(t, fault.Unavailable, kindOf(newAuthenticator(t, auth.Config{Introspection: &ask}).Authenticate(withToken(ci))))

	t.Log("people sign in")
	alice := k.addUser("alice")
	k.giveRole(alice, "builds:admin")
	status, address := s.do("POST", "/login/provider", url.Values{"to": {"/builds"}})
	require.Equal(t, http.StatusSeeOther, status, address)
	returned := k.signIn(s.browser, address, "alice")
	status, to := s.do("GET", returned, nil)
	require.Equal(t, http.StatusSeeOther, status, to)
	require.Equal(t, "/builds", to)
	subject, scopes, _ := s.me()
	require.Equal(t, "user:"+alice, subject)
	require.Equal(t, auth.ScopeSubmit+","+auth.ScopeAdmin, scopes)

	t.Log("ID and refresh tokens open nothing")
	id, webSecret := k.client("image-builder-web")
	k.call("PUT", "/admin/realms/"+realm+"/clients/"+id, map[string]any{"clientId": "image-builder-web", "directAccessGrantsEnabled": true}, nil)
	tokens := k.form("/realms/"+realm+"/protocol/openid-connect/token", url.Values{
		"grant_type": {"password"}, "client_id": {"image-builder-web"}, "client_secret": {webSecret},
		"username": {"alice"}, "password": {"alice-password"}, "scope": {"openid email"}})
	p, err := verifying.Authenticate(withToken(tokens["access_token"].(string)))
	require.NoError(t, err)
	require.Equal(t, []string{"team-a"}, p.Groups)
	require.Equal(t, "alice", p.Name)
	for _, a := range both {
		for _, kind := range []string{"id_token", "refresh_token"} {
			requireDenied(t, errorOf(a.Authenticate(withToken(tokens[kind].(string)))))
		}
	}

	t.Log("a new signing key")
	k.rotate()
	time1.forward(10 * time.Second)
	rotated := k.token("ci", ciSecret)
	for _, a := range both {
		require.NoError(t, errorOf(a.Authenticate(withToken(rotated))))
	}

	t.Log("down")
	fresh := k.token("ci", ciSecret)
	k.stop()
	require.Equal(t, fault.Unavailable, kindOf(asking.Authenticate(withToken(fresh))))
	require.NoError(t, errorOf(asking.Authenticate(withToken(rotated))), "remembered")
	require.NoError(t, errorOf(verifying.Authenticate(withToken(fresh))), "its keys are known")
}
