package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

const (
	// defaultTokenLife is what the protocol says about a token that says nothing of its life.
	defaultTokenLife = 60 * time.Second
	// A token is replaced before its end, by a part of its life but no more than so much: a request
	// takes time to arrive, and clocks differ.
	tokenMarginPart = 5
	maxTokenMargin  = 10 * time.Second
	// clientID is how we name ourselves to services that want an OAuth2 client.
	clientID = "image-builder"
)

// bearer is a token that a registry takes for some scope.
type bearer struct {
	value string
	until time.Time
}

// token gives a token for a scope: a known one, or a fresh one. The caller has the turn.
func (e *endpoint) token(ctx context.Context, scope string, who login) (value string, fresh bool, err error) {
	if who.bearer != "" {
		return who.bearer, true, nil
	}
	if known, ok := e.tokens[scope]; ok && time.Now().Before(known.until) {
		return known.value, false, nil
	}
	asked := time.Now()
	value, life, err := e.fetchToken(ctx, scope, who)
	if err != nil {
		return "", false, &tokenError{who: who, err: err}
	}
	e.client.secrets.add(value)
	if life <= 0 {
		life = defaultTokenLife
	}
	if e.tokens == nil {
		e.tokens = map[string]bearer{}
	}
	e.tokens[scope] = bearer{value: value, until: asked.Add(life - min(life/tokenMarginPart, maxTokenMargin))}
	return value, true, nil
}

// fetchToken asks the token service that the registry named. An identity token goes by POST, as only OAuth2 has
// it; a password goes by GET, which all services know, save those that answer that it is not for them.
func (e *endpoint) fetchToken(ctx context.Context, scope string, who login) (string, time.Duration, error) {
	if err := e.checkRealm(e.challenge.Parameters["realm"]); err != nil {
		return "", 0, err
	}
	ctx, cancel := e.noLaterThan(ctx)
	defer cancel()
	options := auth.TokenOptions{
		Realm: e.challenge.Parameters["realm"], Service: e.challenge.Parameters["service"],
		Scopes: strings.Fields(scope), Username: who.username, Secret: who.secret,
	}
	client := &http.Client{Transport: e.base, CheckRedirect: checkTokenRedirect}
	header := http.Header{}
	if e.client.config.UserAgent != "" {
		header.Set("User-Agent", e.client.config.UserAgent)
	}
	if who.secret == "" || who.username != "" {
		got, err := auth.FetchToken(ctx, client, header, options)
		if err == nil {
			return got.Token, time.Duration(got.ExpiresInSeconds) * time.Second, nil
		}
		var status remoteerrors.ErrUnexpectedStatus
		elsewhere := errors.As(err, &status) && (status.StatusCode == http.StatusNotFound || status.StatusCode == http.StatusMethodNotAllowed)
		if who.secret == "" || !elsewhere {
			return "", 0, err
		}
	}
	got, err := auth.FetchTokenWithOAuth(ctx, client, header, clientID, options)
	if err != nil {
		return "", 0, err
	}
	return got.AccessToken, time.Duration(got.ExpiresInSeconds) * time.Second, nil
}

// checkRealm refuses token services that would see our password in the clear though the registry itself does not,
// and those inside our own network that a registry outside of it names.
func (e *endpoint) checkRealm(realm string) error {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" {
		return &realmError{"no usable token service"}
	}
	if u.Scheme != "https" && (u.Scheme != "http" || e.scheme == "https") {
		return &realmError{fmt.Sprintf("the token service %s://%s, which is less safe than the registry itself", u.Scheme, u.Host)}
	}
	own := (&url.URL{Host: e.host}).Hostname()
	if isInside(u.Hostname()) && !isInside(own) && !isLoopback(own) {
		return &realmError{fmt.Sprintf("the token service %s, an address inside a private network", u.Host)}
	}
	return nil
}

// realmError is a token service that we do not talk to.
type realmError struct{ names string }

func (r *realmError) Error() string { return "the registry names " + r.names }

func isInside(host string) bool {
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	address = address.Unmap()
	return address.IsLoopback() || address.IsPrivate() || address.IsLinkLocalUnicast() || address.IsUnspecified()
}

const maxRedirects = 10 // as net/http has it

// checkTokenRedirect follows a token service only to where our credentials may go: http.Client leaves a header out
// for other hosts, but not a form.
func checkTokenRedirect(request *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) >= maxRedirects:
		return errors.New("the token service redirects without end")
	case first.Scheme == "https" && request.URL.Scheme != "https":
		return errors.New("the token service redirects to plain http")
	case via[0].Method != http.MethodGet && request.URL.Host != first.Host:
		return errors.New("the token service redirects to another host")
	}
	return nil
}

// tokenError is a token service that gave no token.
type tokenError struct {
	who login
	err error
}

func (t *tokenError) Error() string { return "token service: " + t.err.Error() }
func (t *tokenError) Unwrap() error { return t.err }

// pushing marks requests that belong to a push: what they read is asked for with the token of
// what they write, which spares a second one.
type pushing struct{}

func asPush(ctx context.Context) context.Context { return context.WithValue(ctx, pushing{}, true) }

// scopeOf is what a token must allow for a request to pass, in the form of the token protocol.
func scopeOf(request *http.Request) string {
	repository := repositoryOf(request)
	if repository == "" {
		return ""
	}
	actions := "pull"
	reads := request.Method == http.MethodGet || request.Method == http.MethodHead
	if !reads || request.Context().Value(pushing{}) != nil {
		actions = "pull,push"
	}
	if request.Method == http.MethodDelete && !strings.Contains(request.URL.Path, "/blobs/uploads/") {
		actions = "pull,push,delete"
	}
	return "repository:" + repository + ":" + actions
}

// repositoryOf is the repository that a request is about, "" when it is about none.
func repositoryOf(request *http.Request) string {
	rest, ok := strings.CutPrefix(request.URL.Path, "/v2/")
	if !ok {
		return ""
	}
	end := -1
	for _, part := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		end = max(end, strings.LastIndex(rest, part))
	}
	if end < 0 {
		return ""
	}
	return rest[:end]
}

// normalScope puts the actions of scopes into one order: registries name them in any.
func normalScope(scope string) string {
	fields := strings.Fields(scope)
	for i, field := range fields {
		if cut := strings.LastIndex(field, ":"); cut >= 0 {
			actions := strings.Split(field[cut+1:], ",")
			slices.Sort(actions)
			fields[i] = field[:cut+1] + strings.Join(actions, ",")
		}
	}
	slices.Sort(fields)
	return strings.Join(fields, " ")
}
