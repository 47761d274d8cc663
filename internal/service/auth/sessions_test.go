package auth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{SQLite: filepath.Join(t.TempDir(), "db.sqlite")})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.Migrate(t.Context()))
	return s
}

// site is a web page in front of Sessions, as small as it can be, and a browser.
type site struct {
	*httptest.Server
	t        *testing.T
	sessions *auth.Sessions
	browser  *http.Client
}

// newSite makes Sessions for the address that the site listens on.
func newSite(t *testing.T, a func(site string) *auth.Authenticator, config auth.SessionsConfig, signIn func(site string) *auth.SignIn) *site {
	t.Helper()
	s := &site{t: t}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.sessions.Protect(http.HandlerFunc(s.serve)).ServeHTTP(w, r)
	}))
	address := "http://" + s.Listener.Addr().String()
	config.PublicURL = address
	if signIn != nil {
		config.SignIn = signIn(address)
	}
	var err error
	s.sessions, err = auth.NewSessions(a(address), config)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(s.Close)
	s.browser = s.newBrowser()
	return s
}

func (s *site) newBrowser() *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	fail := func(err error) {
		status := map[fault.Kind]int{fault.Denied: 403, fault.Unavailable: 503, fault.NotFound: 404}[fault.KindOf(err)]
		if errors.Is(err, auth.ErrNoCredentials) || errors.Is(err, auth.ErrBadCredentials) {
			status = 401
		}
		http.Error(w, err.Error(), status)
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /login":
		if _, err := s.sessions.SignInWithKey(w, r, r.PostFormValue("key")); err != nil {
			fail(err)
		}
	case "POST /login/provider":
		address, err := s.sessions.LoginURL(w, r, r.PostFormValue("to"))
		if err != nil {
			fail(err)
			return
		}
		http.Redirect(w, r, address, http.StatusSeeOther)
	case "GET " + auth.CallbackPath:
		to, err := s.sessions.Callback(w, r)
		if err != nil {
			fail(err)
			return
		}
		http.Redirect(w, r, to, http.StatusSeeOther)
	case "GET /me":
		session, err := s.sessions.Load(r)
		if err != nil {
			fail(err)
			return
		}
		w.Header().Set("X-Name", session.Principal.Name)
		_, _ = io.WriteString(w, session.Principal.Subject+" "+strings.Join(session.Principal.Scopes, ",")+" "+session.CSRF)
	case "POST /change", "POST /logout":
		session, err := s.sessions.Load(r)
		if err == nil {
			err = s.sessions.CheckCSRF(r, session)
		}
		if err == nil && r.URL.Path == "/logout" {
			err = s.sessions.SignOut(w, r)
		}
		if err != nil {
			fail(err)
		}
	default:
		http.NotFound(w, r)
	}
}

// do sends a request with the browser and gives the status and the body, or where it leads.
func (s *site) do(method, path string, form url.Values, headers ...string) (int, string) {
	s.t.Helper()
	address := path
	if strings.HasPrefix(path, "/") {
		address = s.URL + path
	}
	r, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	require.NoError(s.t, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.browser.Do(r)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	if location := response.Header.Get("Location"); location != "" {
		return response.StatusCode, location
	}
	return response.StatusCode, string(body)
}

func (s *site) status(method, path string, form url.Values, headers ...string) int {
	s.t.Helper()
	status, _ := s.do(method, path, form, headers...)
	return status
}

// me is what GET /me says: subject, scopes and CSRF token; "" where nobody is signed in.
func (s *site) me() (subject, scopes, csrf string) {
	s.t.Helper()
	status, body := s.do("GET", "/me", nil)
	if status == http.StatusUnauthorized {
		return "", "", ""
	}
	require.Equal(s.t, http.StatusOK, status, body)
	parts := strings.Split(body, " ")
	require.Len(s.t, parts, 3)
	return parts[0], parts[1], parts[2]
}

func (s *site) cookie() string {
	s.t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(s.t, err)
	for _, c := range s.browser.Jar.Cookies(u) {
		if c.Name == "ib_session" {
			return c.Value
		}
	}
	return ""
}

func keyForm(key string) url.Values { return url.Values{"key": {key}} }

func TestSessionsByKey(t *testing.T) {
	t.Parallel()
	time1, path, sessions := &clock{}, filepath.Join(t.TempDir(), "keys.yaml"), newStore(t)
	ci, ciLine := newKey(t, auth.KeyEntry{Name: "ci"})
	ops, opsLine := newKey(t, auth.KeyEntry{Name: "ops", Scopes: []string{auth.ScopeAdmin}})
	write(t, path, ciLine, opsLine)
	a := func(string) *auth.Authenticator {
		return newAuthenticator(t, auth.Config{APIKeysFile: path, Now: time1.now})
	}
	s := newSite(t, a, auth.SessionsConfig{Store: sessions}, nil)

	require.Equal(t, http.StatusUnauthorized, s.status("POST", "/login", keyForm("ib_0123456789012345678901234567890123456789")))
	subject, _, _ := s.me()
	require.Empty(t, subject)
	require.Equal(t, http.StatusOK, s.status("POST", "/login", keyForm(ci)))
	subject, scopes, csrf := s.me()
	require.Equal(t, "key:ci", subject)
	require.Equal(t, auth.ScopeSubmit, scopes)

	t.Log("what changes something needs the token of this very session, in the form or the header")
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change", url.Values{}))
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change", url.Values{"csrf": {csrf[:42]}}))
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change?csrf="+csrf, url.Values{}), "not in the address")
	require.Equal(t, http.StatusOK, s.status("POST", "/change", url.Values{"csrf": {csrf}}))
	require.Equal(t, http.StatusOK, s.status("POST", "/change", url.Values{}, "X-CSRF-Token", csrf))
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change", url.Values{"csrf": {csrf}}, "Origin", "https://evil.example.com"))
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change", url.Values{"csrf": {csrf}}, "Sec-Fetch-Site", "cross-site"))
	require.Equal(t, http.StatusForbidden, s.status("POST", "/login", keyForm(ci), "Sec-Fetch-Site", "cross-site"), "nobody is signed in as somebody else from afar")
	require.Equal(t, http.StatusOK, s.status("POST", "/change", url.Values{"csrf": {csrf}}, "Origin", s.URL, "Sec-Fetch-Site", "same-origin"))

	t.Log("signing in again gives a session of another name, and ends the one of before")
	old := s.cookie()
	require.Len(t, old, 43)
	require.Equal(t, http.StatusOK, s.status("POST", "/login", keyForm(ops)))
	require.NotEqual(t, old, s.cookie())
	subject, scopes, csrf2 := s.me()
	require.Equal(t, "key:ops", subject)
	require.Equal(t, auth.ScopeAdmin, scopes)
	require.NotEqual(t, csrf, csrf2)
	require.Equal(t, http.StatusForbidden, s.status("POST", "/change", url.Values{"csrf": {csrf}}))
	second := s.newBrowser()
	second.Jar = nil
	current := s.browser
	s.browser = second
	require.Equal(t, http.StatusUnauthorized, s.status("GET", "/me", nil, "Cookie", "ib_session="+old))
	require.Equal(t, http.StatusUnauthorized, s.status("GET", "/me", nil, "Cookie", "ib_session="+strings.Repeat("A", 43)))

	t.Log("a session that somebody planted is not the one that is signed in to")
	planted := strings.Repeat("B", 43)
	request, err := http.NewRequest("POST", s.URL+"/login", strings.NewReader(keyForm(ci).Encode()))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Cookie", "ib_session="+planted)
	response, err := second.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	set := response.Cookies()
	require.Len(t, set, 1)
	require.NotEqual(t, planted, set[0].Value)
	require.True(t, set[0].HttpOnly)
	require.Equal(t, http.SameSiteLaxMode, set[0].SameSite)
	require.Equal(t, http.StatusUnauthorized, s.status("GET", "/me", nil, "Cookie", "ib_session="+planted))
	require.Equal(t, http.StatusUnauthorized, s.status("GET", "/me", nil, "Cookie", "ib_session="+set[0].Value+"; ib_session="+planted), "two are none")
	require.Equal(t, http.StatusOK, s.status("GET", "/me", nil, "Cookie", "ib_session="+set[0].Value))
	s.browser = current

	t.Log("with its key goes the session; what the key may do changes at once")
	changed := strings.Replace(opsLine, `"builds:admin"`, `"builds:read"`, 1)
	write(t, path, changed)
	time1.forward(time.Second)
	subject, scopes, _ = s.me()
	require.Equal(t, "key:ops", subject)
	require.Equal(t, auth.ScopeRead, scopes)
	write(t, path, ciLine)
	time1.forward(time.Second)
	subject, _, _ = s.me()
	require.Empty(t, subject)
	write(t, path, ciLine, opsLine)
	time1.forward(time.Second)
	subject, _, _ = s.me()
	require.Empty(t, subject, "it does not come back with the key")
}

func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	const key = "k-0123456789-0123456789"
	time1 := &clock{}
	a := func(string) *auth.Authenticator { return newAuthenticator(t, auth.Config{APIKey: key, Now: time1.now}) }
	// The database has a clock of its own, which does not go ahead: what is tested here is ours.
	s := newSite(t, a, auth.SessionsConfig{Store: newStore(t), Lifetime: 3 * time.Hour, Idle: time.Hour}, nil)

	signIn := func() string {
		require.Equal(t, http.StatusOK, s.status("POST", "/login", keyForm(key)))
		subject, _, csrf := s.me()
		require.Equal(t, "key:default", subject)
		return csrf
	}
	csrf := signIn()
	id := s.cookie()
	require.Equal(t, http.StatusForbidden, s.status("POST", "/logout", url.Values{}))
	require.Equal(t, http.StatusOK, s.status("POST", "/logout", url.Values{"csrf": {csrf}}))
	require.Empty(t, s.cookie())
	require.Equal(t, http.StatusUnauthorized, s.status("GET", "/me", nil, "Cookie", "ib_session="+id))

	signIn()
	time1.forward(61 * time.Minute)
	subject, _, _ := s.me()
	require.Empty(t, subject, "idle for too long")

	signIn()
	for range 3 {
		time1.forward(50 * time.Minute)
		subject, _, _ = s.me()
		require.Equal(t, "key:default", subject, "used within the hour")
	}
	time1.forward(31 * time.Minute)
	subject, _, _ = s.me()
	require.Empty(t, subject, "three hours are over")
}

// gone is a database that does not answer.
type gone struct{ auth.SessionStore }

func (gone) GetSession(context.Context, []byte) (store.Session, error) {
	return store.Session{}, fault.New(fault.Unavailable, "read a session: no connection")
}

func TestSessionsWithoutDatabase(t *testing.T) {
	t.Parallel()
	a := newAuthenticator(t, auth.Config{APIKey: "k-0123456789-0123456789"})
	s, err := auth.NewSessions(a, auth.SessionsConfig{Store: gone{}, PublicURL: "https://builds.example.com"})
	require.NoError(t, err)
	_, err = s.Load(request("Cookie", "__Host-ib_session="+strings.Repeat("A", 43)))
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	_, err = s.Load(request("Cookie", "ib_session="+strings.Repeat("A", 43)))
	require.ErrorIs(t, err, auth.ErrNoCredentials, "by https only the name counts that sub-domains cannot set")
	for _, address := range []string{"", "builds.example.com", "ftp://a", "https://"} {
		_, err := auth.NewSessions(a, auth.SessionsConfig{Store: gone{}, PublicURL: address})
		require.Equal(t, fault.Invalid, fault.KindOf(err), address)
	}
}

func TestCookiesAreForHTTPS(t *testing.T) {
	t.Parallel()
	const key = "k-0123456789-0123456789"
	a := newAuthenticator(t, auth.Config{APIKey: key})
	for address, secure := range map[string]bool{
		"https://builds.example.com": true, "http://builds.example.com": true, "https://127.0.0.1:8443": true,
		"http://127.0.0.1:8080": false, "http://localhost:8080": false, "http://[::1]:8080": false,
	} {
		s, err := auth.NewSessions(a, auth.SessionsConfig{Store: newStore(t), PublicURL: address})
		require.NoError(t, err)
		w := httptest.NewRecorder()
		_, err = s.SignInWithKey(w, request(), key)
		require.NoError(t, err)
		cookie := w.Result().Cookies()[0]
		require.Equal(t, secure, cookie.Secure, address)
		require.Equal(t, secure, cookie.Name == "__Host-ib_session", address)
		require.Equal(t, "/", cookie.Path)
		require.Empty(t, cookie.Domain)
	}
}
