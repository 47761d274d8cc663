package testbed_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

func TestRegistryKeepsImages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	r, err := testbed.StartRegistry(testbed.RegistryOptions{Dir: dir})
	require.NoError(t, err)
	ref, err := name.ParseReference(r.Host + "/a:v1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, image))
	require.NoError(t, r.Close())
	// Whoever has the port by now, it is not the registry.
	_, err = remote.Head(ref)
	require.Error(t, err, "it is served after Close")

	r = testbed.NewRegistry(t, testbed.RegistryOptions{Dir: dir})
	ref, err = name.ParseReference(r.Host + "/a:v1")
	require.NoError(t, err)
	got, err := remote.Head(ref)
	require.NoError(t, err)
	want, err := image.Digest()
	require.NoError(t, err)
	require.Equal(t, want, got.Digest)
}

func TestRegistryOptions(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true})
	require.True(t, strings.HasPrefix(r.URL(), "https://localhost:"))
	require.Contains(t, string(r.CAPEM), "BEGIN CERTIFICATE")

	_, port, err := net.SplitHostPort(r.Host)
	require.NoError(t, err)
	_, err = testbed.StartRegistry(testbed.RegistryOptions{Address: "127.0.0.1:" + port})
	require.ErrorContains(t, err, "address already in use")
	_, err = testbed.StartRegistry(testbed.RegistryOptions{Basic: map[string]string{"a": "b"}, Tokens: &testbed.TokenOptions{}})
	require.ErrorContains(t, err, "exclude each other")
}

// TestTokenService speaks the protocol as clients other than ours do.
func TestTokenService(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: map[string]testbed.TokenUser{
		"u": {Password: "p", Access: map[string][]string{"team/*": {"pull", "push"}}},
	}}})
	response, err := http.Get(r.URL() + "/v2/")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	challenge := response.Header.Get("WWW-Authenticate")
	realm, _, _ := strings.Cut(strings.TrimPrefix(challenge, `Bearer realm="`), `"`)
	scope := "repository:team/a:pull,push repository:other/b:pull"

	token := func(t *testing.T, response *http.Response, err error) map[string]any {
		t.Helper()
		require.NoError(t, err)
		defer func() { require.NoError(t, response.Body.Close()) }()
		require.Equal(t, http.StatusOK, response.StatusCode)
		var answer map[string]any
		require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
		return answer
	}
	reach := func(t *testing.T, token any, path string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+path, nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token.(string))
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}

	withPassword, err := http.PostForm(realm, url.Values{
		"grant_type": {"password"}, "username": {"u"}, "password": {"p"}, "scope": {scope}, "access_type": {"offline"},
	})
	first := token(t, withPassword, err)
	require.Equal(t, http.StatusNotFound, reach(t, first["access_token"], "/v2/team/a/tags/list"), "let in; there is nothing")
	require.Equal(t, http.StatusUnauthorized, reach(t, first["access_token"], "/v2/other/b/tags/list"))

	refreshed, err := http.PostForm(realm, url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"].(string)}, "scope": {scope},
	})
	require.Equal(t, http.StatusNotFound, reach(t, token(t, refreshed, err)["token"], "/v2/team/a/tags/list"))

	anonymous, err := http.Get(realm + "?scope=" + url.QueryEscape(scope))
	require.Equal(t, http.StatusUnauthorized, reach(t, token(t, anonymous, err)["token"], "/v2/team/a/tags/list"))

	wrong, err := http.PostForm(realm, url.Values{"grant_type": {"password"}, "username": {"u"}, "password": {"x"}})
	require.NoError(t, err)
	require.NoError(t, wrong.Body.Close())
	require.Equal(t, http.StatusUnauthorized, wrong.StatusCode)
}
