package web_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// person is somebody with a browser that runs no scripts and shows nothing.
type person struct {
	s      *site
	client *http.Client
}

func (s *site) person(name string) *person {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	p := &person{s, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if name != "" {
		status, header, _ := p.send(http.MethodPost, "/sign-in", url.Values{"key": {s.keys[name]}})
		require.Equal(s.t, http.StatusSeeOther, status)
		require.Equal(s.t, "/", header.Get("Location"))
	}
	return p
}

func (p *person) send(method, path string, form url.Values, header ...string) (int, http.Header, string) {
	p.s.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(p.s.t.Context(), method, p.s.url+path, body)
	require.NoError(p.s.t, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := p.client.Do(r)
	require.NoError(p.s.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(p.s.t, err)
	return answer.StatusCode, answer.Header, string(text)
}

// token is the CSRF token of the person's pages.
func (p *person) token() string {
	p.s.t.Helper()
	_, _, body := p.send(http.MethodGet, "/builds", nil)
	found := regexp.MustCompile(`name="csrf" value="([^"]{20,})"`).FindStringSubmatch(body)
	require.NotNil(p.s.t, found)
	return found[1]
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/sign-in", "/builds", "/static/app.js", "/static/none", "/nowhere"} {
		_, h, _ := s.person("").send(http.MethodGet, path, nil)
		csp := h.Get("Content-Security-Policy")
		require.Equal(t, "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'", csp, path)
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"), path)
		require.NotEmpty(t, h.Get("Referrer-Policy"), path)
	}
	status, h, _ := s.person("").send(http.MethodGet, "/static/app.css?1", nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, h.Get("Cache-Control"), "immutable")
	for _, path := range []string{"/static/", "/static", "/static/../web.go"} {
		status, _, body := s.person("").send(http.MethodGet, path, nil)
		require.NotEqual(t, http.StatusOK, status, path)
		require.NotContains(t, body, "htmx.min.js\">", path)
	}
	_, h, _ = s.person("alice").send(http.MethodGet, "/builds", nil)
	require.Equal(t, "no-store", h.Get("Cache-Control"))
}

// TestWhoMayDoWhat: nobody gets anywhere without signing in, sees what is another's, or sends a form without its token.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", document("shop/web"), nil)
	s.claim().out("run", "private\n")
	paths := []string{"/", "/builds", "/builds/new", "/builds/" + id, "/builds/" + id + "/events", "/builds/" + id + "/log", "/builds/" + id + "/log.txt", "/builds/" + id + "/retry", "/builds/" + id + "/delete"}
	posts := []string{"/sign-out", "/builds/new", "/builds/" + id + "/cancel", "/builds/" + id + "/retry", "/builds/" + id + "/delete"}

	nobody := s.person("")
	for _, path := range paths {
		status, h, body := nobody.send(http.MethodGet, path, nil)
		require.Equal(t, http.StatusSeeOther, status, path)
		require.Equal(t, "/sign-in?next="+url.QueryEscape(path), h.Get("Location"))
		require.NotContains(t, body, "private")
	}
	status, _, _ := nobody.send(http.MethodGet, "/builds/"+id+"/events", nil, "Accept", "text/html, text/event-stream")
	require.Equal(t, http.StatusUnauthorized, status)
	for _, path := range posts {
		status, _, _ := nobody.send(http.MethodPost, path, url.Values{})
		require.Equal(t, http.StatusSeeOther, status, path)
	}

	bob := s.person("bob")
	for _, path := range paths[3:] {
		if strings.HasSuffix(path, "/events") {
			_, _, body := bob.send(http.MethodGet, path, nil)
			require.Equal(t, ": connected\n\nevent: gone\ndata:\n\n", body)
			continue
		}
		status, _, body := bob.send(http.MethodGet, path, nil)
		require.Equal(t, http.StatusNotFound, status, path)
		require.NotContains(t, body, "private")
	}
	token := bob.token()
	for _, path := range posts[2:] {
		status, _, _ := bob.send(http.MethodPost, path, url.Values{"csrf": {token}})
		require.Equal(t, http.StatusNotFound, status, path)
	}

	alice := s.person("alice")
	for _, path := range posts {
		for name, form := range map[string]url.Values{"no token": {}, "another's": {"csrf": {token}}, "empty": {"csrf": {""}}} {
			status, _, _ := alice.send(http.MethodPost, path, form)
			require.Equal(t, http.StatusForbidden, status, "%s: %s", path, name)
		}
		status, _, _ := alice.send(http.MethodPost, path, url.Values{"csrf": {alice.token()}}, "Sec-Fetch-Site", "cross-site")
		require.Equal(t, http.StatusForbidden, status, path)
	}
	status, _, _ = alice.send(http.MethodPost, "/sign-in", url.Values{"key": {s.keys["alice"]}}, "Origin", "https://evil.example.com")
	require.Equal(t, http.StatusForbidden, status)

	reader := s.person("reader")
	status, _, body := reader.send(http.MethodGet, "/builds/"+id, nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "private")
	require.NotContains(t, body, "/cancel")
	status, _, _ = reader.send(http.MethodGet, "/builds/new", nil)
	require.Equal(t, http.StatusForbidden, status)
	status, _, _ = reader.send(http.MethodPost, "/builds/"+id+"/cancel", url.Values{"csrf": {reader.token()}})
	require.Equal(t, http.StatusForbidden, status)

	status, h, body := alice.send(http.MethodGet, "/builds/"+id+"/log.txt", nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "private")
	require.Contains(t, h.Get("Content-Disposition"), "attachment")
	status, _, _ = alice.send(http.MethodPost, "/builds/new", url.Values{"csrf": {alice.token()}, "document": {strings.Repeat("x", 5<<20)}})
	require.Equal(t, http.StatusUnprocessableEntity, status, "a form has an end")

	status, _, _ = alice.send(http.MethodPost, "/sign-out", url.Values{"csrf": {alice.token()}})
	require.Equal(t, http.StatusSeeOther, status)
	status, _, _ = alice.send(http.MethodGet, "/builds", nil)
	require.Equal(t, http.StatusSeeOther, status)
}

func TestNobodyIsSentElsewhere(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, next := range []string{"https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", "javascript:alert(1)", "/\n/evil"} {
		_, h, _ := s.person("").send(http.MethodPost, "/sign-in", url.Values{"key": {s.keys["alice"]}, "next": {next}})
		require.Equal(t, "/", h.Get("Location"), next)
	}
	_, h, _ := s.person("").send(http.MethodPost, "/sign-in", url.Values{"key": {s.keys["alice"]}, "next": {"/builds?state=failed"}})
	require.Equal(t, "/builds?state=failed", h.Get("Location"))
}

func TestFilters(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.submit("alice", document("shop/web"), map[string]string{"team": "shop"})
	s.submit("alice", document("tools/x"), nil)
	for range 30 {
		s.submit("alice", document("many/x"), nil)
	}
	alice := s.person("alice")
	count := func(path string) int {
		t.Helper()
		status, _, body := alice.send(http.MethodGet, path, nil)
		require.Equal(t, http.StatusOK, status, path)
		return strings.Count(body, `class="what"`)
	}
	require.Equal(t, 1, count("/builds?image=registry.example.com/shop"))
	require.Equal(t, 1, count("/builds?label=team%3Dshop"))
	require.Equal(t, 0, count("/builds?state=failed"))
	require.Equal(t, 20, count("/builds?state=pending&mine=1"))
	require.Equal(t, 0, count("/builds?until=2020-01-01"))
	require.Equal(t, 20, count("/builds?since=2020-01-01&until=2999-01-01"))
	_, _, body := alice.send(http.MethodGet, "/builds?state=pending", nil)
	next := regexp.MustCompile(`href="(/builds\?[^"]*page=[^"]*)"`).FindStringSubmatch(body)
	require.NotNil(t, next)
	require.Equal(t, 12, count(strings.ReplaceAll(next[1], "&amp;", "&")))
	for _, path := range []string{"/builds?state=odd", "/builds?label=x", "/builds?since=yesterday", "/builds?page=odd"} {
		status, _, body := alice.send(http.MethodGet, path, nil)
		require.Equal(t, http.StatusUnprocessableEntity, status, path)
		require.Contains(t, body, `role="alert"`)
	}
}
