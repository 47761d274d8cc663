package auth_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/testbed"
)

func TestSignInThroughTheProvider(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ client, resource string }{{"web", asJWT}, {"web-secret", asOpaque}} {
		t.Run(c.client, func(t *testing.T) {
			t.Parallel()
			var o *testbed.OpenID
			var log buffer
			a := func(address string) *auth.Authenticator {
				o = testbed.OpenIDProvider(t, address+auth.CallbackPath)
				return newAuthenticator(t, auth.Config{
					Introspection: introspection(o), JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}, Logger: logger(&log),
				})
			}
			s := newSiteWithProvider(t, a, c.client, c.resource, &o)
			back := s.URL + auth.CallbackPath

			// There and back, as each of three people.
			begin := func(to string) string {
				status, address := s.do("POST", "/login/provider", url.Values{"to": {to}})
				require.Equal(t, http.StatusSeeOther, status, address)
				for _, wanted := range []string{"code_challenge_method=S256", "state=", "nonce=", "response_type=code"} {
					require.Contains(t, address, wanted)
				}
				return address
			}
			for name, scopes := range map[string]string{"alice": auth.ScopeSubmit, "bob": auth.ScopeSubmit + "," + auth.ScopeReadAll, "carol": auth.ScopeSubmit + "," + auth.ScopeAdmin} {
				s.browser = s.newBrowser()
				returned := o.SignIn(t, s.browser, begin("/builds?state=failed"), back, name)
				status, to := s.do("GET", returned, nil)
				require.Equal(t, http.StatusSeeOther, status, to)
				require.Equal(t, "/builds?state=failed", to)
				subject, got, _ := s.me()
				require.Equal(t, "user:"+name, subject)
				require.Equal(t, scopes, got)
				response, err := s.browser.Get(s.URL + "/me")
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Equal(t, name+".example", response.Header.Get("X-Name"))
				require.Equal(t, http.StatusUnauthorized, s.status("GET", returned, nil), "an answer is good once")
			}

			// Nobody is sent to another site afterwards.
			s.browser = s.newBrowser()
			_, to := s.do("GET", o.SignIn(t, s.browser, begin("//evil.example.com/"), back, "alice"), nil)
			require.Equal(t, "/", to)

			// The answer to another browser's question, which is how one is signed in as the attacker.
			attacker := s.newBrowser()
			s.browser = attacker
			theirs := o.SignIn(t, attacker, begin("/"), back, "mallory")
			s.browser = s.newBrowser()
			require.Equal(t, http.StatusUnauthorized, s.status("GET", theirs, nil), "without a cookie")
			begin("/")
			require.Equal(t, http.StatusUnauthorized, s.status("GET", theirs, nil), "with the cookie of another sign-in")
			subject, _, _ := s.me()
			require.Empty(t, subject)

			// A code that was begun by somebody else, under our own state: PKCE and the nonce hold.
			s.browser = attacker
			code := query(t, o.SignIn(t, attacker, begin("/"), back, "mallory"), "code")
			s.browser = s.newBrowser()
			state := query(t, begin("/"), "state")
			status, body := s.do("GET", auth.CallbackPath+"?"+url.Values{"code": {code}, "state": {state}, "iss": {o.Issuer}}.Encode(), nil)
			require.Equal(t, http.StatusUnauthorized, status, body)
			state = query(t, begin("/"), "state")
			require.Equal(t, http.StatusUnauthorized, s.status("GET", auth.CallbackPath+"?"+url.Values{"code": {code}, "state": {state}, "iss": {"https://elsewhere.example.com"}}.Encode(), nil))
			state = query(t, begin("/"), "state")
			status, body = s.do("GET", auth.CallbackPath+"?"+url.Values{"error": {"access_denied"}, "state": {state}}.Encode(), nil)
			require.Equal(t, http.StatusUnauthorized, status)
			require.Contains(t, body, "access_denied")

			// Down: 503, and whoever is signed in stays so.
			s.browser = s.newBrowser()
			returned := o.SignIn(t, s.browser, begin("/"), back, "alice")
			o.Stop()
			require.Equal(t, http.StatusServiceUnavailable, s.status("GET", returned, nil))
			require.NotContains(t, log.String(), query(t, returned, "code"))
		})
	}
}

func TestTokensForOthersSignNobodyIn(t *testing.T) {
	t.Parallel()
	var o *testbed.OpenID
	s := newSiteWithProvider(t, func(address string) *auth.Authenticator {
		o = testbed.OpenIDProvider(t, address+auth.CallbackPath)
		return newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}})
	}, "web", "urn:other", &o)
	_, address := s.do("POST", "/login/provider", url.Values{})
	status, body := s.do("GET", o.SignIn(t, s.browser, address, s.URL+auth.CallbackPath, "alice"), nil)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Contains(t, body, "another audience")
	require.Empty(t, s.cookie())
}

func newSiteWithProvider(t *testing.T, a func(string) *auth.Authenticator, client, resource string, o **testbed.OpenID) *site {
	t.Helper()
	var made *auth.Authenticator
	return newSite(t, func(string) *auth.Authenticator { return made }, auth.SessionsConfig{Store: newStore(t)}, func(address string) *auth.SignIn {
		made = a(address)
		in := &auth.SignIn{Issuer: (*o).Issuer, ClientID: client, Resource: resource}
		if client == "web-secret" {
			in.ClientSecret = "web-secret-secret"
		}
		return in
	})
}

func query(t *testing.T, address, name string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	require.NotEmpty(t, u.Query().Get(name), "%s in %s", name, address)
	return u.Query().Get(name)
}

func TestSignInThatCannotWork(t *testing.T) {
	t.Parallel()
	const key = "k-0123456789-0123456789"
	keys := newAuthenticator(t, auth.Config{APIKey: key})
	tokens := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: "https://id.example.com", Audience: "a"}})
	for _, c := range []struct {
		a  *auth.Authenticator
		in auth.SignIn
	}{
		{keys, auth.SignIn{Issuer: "https://id.example.com", ClientID: "web"}}, // its tokens would be refused
		{tokens, auth.SignIn{Issuer: "https://id.example.com"}},
		{tokens, auth.SignIn{ClientID: "web"}},
	} {
		_, err := auth.NewSessions(c.a, auth.SessionsConfig{Store: gone{}, PublicURL: "https://a.example.com", SignIn: &c.in})
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
	s, err := auth.NewSessions(keys, auth.SessionsConfig{Store: gone{}, PublicURL: "https://a.example.com"})
	require.NoError(t, err)
	require.False(t, s.HasProvider())
	require.True(t, s.TakesKeys())
	_, err = s.LoginURL(httptest.NewRecorder(), request(), "/")
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	_, err = s.Callback(httptest.NewRecorder(), request())
	require.Equal(t, fault.NotFound, fault.KindOf(err))
}

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/builds", "/builds?a=b&c=//d", "/builds/1#log"} {
		require.Equal(t, path, auth.LocalPath(path))
	}
	for _, path := range []string{"", "builds", "//evil", "/\\evil", "\\\\evil", "https://evil", "javascript:a", "/\t/evil", "///evil", "/%2F/../", "/" + strings.Repeat("a", 600)} {
		require.Equal(t, "/", auth.LocalPath(path), path)
	}
}
