package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"imagebuilder/internal/fault"
)

// loginTime is how long somebody may take at the provider: to find the telephone with the second factor.
const loginTime = 15 * time.Minute

// SignIn is how people sign in on the web page through an OpenID provider: the code flow with PKCE.
type SignIn struct {
	Issuer       string // OIDC_ISSUER
	ClientID     string // a client for browsers, whose redirect URI is CallbackPath below the public URL; OIDC_WEB_CLIENT_ID
	ClientSecret string // "" for a public client; OIDC_WEB_CLIENT_SECRET, OIDC_WEB_CLIENT_SECRET_FILE
	// Scopes that are asked for beside openid; default email and profile. OIDC_WEB_SCOPES
	Scopes []string
	// Resource is sent as RFC 8707 wants it, to providers that make tokens for an audience only when asked. OIDC_WEB_RESOURCE
	Resource string
}

// login is the code flow. Between its two halves nothing is kept here: the browser holds a random secret in a cookie, and
// state, nonce and PKCE's verifier are all derived from it, so that any replica can go on and a flood costs no memory.
type login struct {
	auth     *Authenticator
	config   SignIn
	provider *provider
	redirect string
}

func newLogin(a *Authenticator, config SignIn, redirect string) (*login, error) {
	switch {
	case config.ClientID == "":
		return nil, fault.New(fault.Invalid, "sign-in through the OpenID provider: OIDC_WEB_CLIENT_ID is not set")
	case !a.takesTokens():
		return nil, fault.New(fault.Invalid, "sign-in through the OpenID provider: its access tokens are not accepted").
			WithHint("set OIDC_AUDIENCE, for tokens that are JWTs, or OIDC_INTROSPECTION_ENDPOINT")
	}
	if err := checkHTTP(config.Issuer); err != nil {
		return nil, fault.New(fault.Invalid, "OIDC_ISSUER: %w", err)
	}
	if config.Scopes == nil {
		config.Scopes = []string{"email", "profile"}
	}
	l := &login{auth: a, config: config, redirect: redirect}
	if a.jwt != nil && a.jwt.provider.issuer == config.Issuer {
		l.provider = a.jwt.provider // its keys are fetched once
	} else {
		l.provider = newProvider(config.Issuer, a.config.HTTPClient, a.config.Now)
	}
	return l, nil
}

// derive makes one of the flow's random values of the browser's secret.
func derive(secret, what string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(what))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// HasProvider tells whether people can sign in through an OpenID provider.
func (s *Sessions) HasProvider() bool { return s.login != nil }

// TakesKeys tells whether people can sign in with API keys.
func (s *Sessions) TakesKeys() bool { return s.auth.takesKeys() }

// LoginURL begins to sign somebody in through the provider: it sets a cookie and gives the address to redirect to, with 303.
// After that, returnTo is shown: a path of this service. Error: fault.Unavailable.
func (s *Sessions) LoginURL(w http.ResponseWriter, r *http.Request, returnTo string) (string, error) {
	if s.login == nil {
		return "", fault.New(fault.NotFound, "no OpenID provider is configured to sign in with")
	}
	config, _, err := s.login.oauth(r.Context())
	if err != nil {
		return "", err
	}
	secret, err := s.random()
	if err != nil {
		return "", err
	}
	path := base64.RawURLEncoding.EncodeToString([]byte(LocalPath(returnTo)))
	s.setCookie(w, loginCookie, secret+"."+path, int(loginTime/time.Second))
	options := append(s.login.resource(), oidc.Nonce(derive(secret, "nonce")), oauth2.S256ChallengeOption(derive(secret, "pkce")))
	return config.AuthCodeURL(derive(secret, "state"), options...), nil
}

// Callback ends what LoginURL began: it begins a session and gives the path to redirect to, with 303. Errors:
// ErrBadCredentials for an answer of the provider that does not belong to this browser or lets nobody in, fault.Unavailable.
func (s *Sessions) Callback(w http.ResponseWriter, r *http.Request) (string, error) {
	if s.login == nil {
		return "", fault.New(fault.NotFound, "no OpenID provider is configured to sign in with")
	}
	cookie, ok := s.cookie(r, loginCookie)
	s.setCookie(w, loginCookie, "", -1) // each is good once
	secret, path, _ := strings.Cut(cookie, ".")
	query := r.URL.Query()
	if !ok || subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(derive(secret, "state"))) != 1 {
		return "", refused("this sign-in was not begun in this browser, or too long ago")
	}
	if issuer := query.Get("iss"); issuer != "" && issuer != s.login.config.Issuer { // RFC 9207
		return "", refused("the answer is from another OpenID provider")
	}
	if code := query.Get("error"); code != "" {
		return "", refused("the OpenID provider answers: %s", printable(code))
	}
	principal, err := s.login.exchange(r.Context(), query.Get("code"), secret)
	if err != nil {
		s.auth.complain(r.Context(), err)
		return "", err
	}
	if _, err := s.begin(w, r, record{Principal: principal}); err != nil {
		return "", err
	}
	back, err := base64.RawURLEncoding.DecodeString(path)
	if err != nil {
		back = nil
	}
	return LocalPath(string(back)), nil // the browser could have changed it
}

// oauth is the code flow's configuration, with the provider's addresses.
func (l *login) oauth(ctx context.Context) (*oauth2.Config, context.Context, error) {
	m, err := l.provider.endpoints(ctx)
	if err != nil {
		return nil, nil, err
	}
	if m.AuthorizationEndpoint == "" || m.TokenEndpoint == "" {
		return nil, nil, unavailable("the OpenID provider %s has no code flow", l.config.Issuer)
	}
	config := &oauth2.Config{
		ClientID: l.config.ClientID, ClientSecret: l.config.ClientSecret, RedirectURL: l.redirect,
		Scopes:   append([]string{oidc.ScopeOpenID}, l.config.Scopes...),
		Endpoint: oauth2.Endpoint{AuthURL: m.AuthorizationEndpoint, TokenURL: m.TokenEndpoint},
	}
	if l.config.ClientSecret == "" {
		config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return config, context.WithValue(ctx, oauth2.HTTPClient, l.auth.config.HTTPClient), nil
}

// resource is the parameter of both requests that says whom the access token is for.
func (l *login) resource() []oauth2.AuthCodeOption {
	if l.config.Resource == "" {
		return nil
	}
	return []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("resource", l.config.Resource)}
}

// exchange gets the tokens for a code and tells whose they are: the ID token says who has signed in, the access token
// what that person may do here, by the same rules as for programs.
func (l *login) exchange(ctx context.Context, code, secret string) (Principal, error) {
	if code == "" {
		return Principal{}, refused("the OpenID provider's answer has no code")
	}
	config, asking, err := l.oauth(ctx)
	if err != nil {
		return Principal{}, err
	}
	tokens, err := config.Exchange(asking, code, append(l.resource(), oauth2.VerifierOption(derive(secret, "pkce")))...)
	if answer := (*oauth2.RetrieveError)(nil); errors.As(err, &answer) && answer.ErrorCode == "invalid_grant" {
		return Principal{}, refused("the OpenID provider does not accept the code: it has expired or was used")
	}
	if err != nil { // its text may hold the answer, and so tokens
		return Principal{}, unavailable("exchange the code at the OpenID provider: %s", exchangeError(err))
	}
	idToken, _ := tokens.Extra("id_token").(string)
	subject, name, err := l.checkIDToken(ctx, idToken, secret)
	if err != nil {
		return Principal{}, err
	}
	principal, err := l.auth.token(ctx, tokens.AccessToken)
	if err != nil {
		return Principal{}, fault.Wrap(err, "the provider's access token")
	}
	if principal.Subject != "user:"+subject {
		return Principal{}, refused("the ID token and the access token are of two subjects")
	}
	if name != "" { // access tokens of many providers do not say
		principal.Name = name
	}
	return principal, nil
}

// checkIDToken gives the subject and the name of an ID token that was made for this browser's sign-in.
func (l *login) checkIDToken(ctx context.Context, raw, secret string) (subject, name string, err error) {
	if raw == "" || len(raw) > maxTokenLength {
		return "", "", refused("the OpenID provider gave no ID token that can be read")
	}
	var names []string
	for _, algorithm := range algorithms() {
		names = append(names, string(algorithm))
	}
	// What goes wrong with the keys would be lost in go-oidc's error, which must tell 401 from 503.
	keys := &keySet{provider: l.provider}
	token, err := oidc.NewVerifier(l.config.Issuer, keys, &oidc.Config{
		ClientID: l.config.ClientID, SupportedSigningAlgs: names, Now: l.auth.config.Now,
	}).Verify(ctx, raw)
	switch {
	case keys.err != nil:
		return "", "", keys.err
	case err != nil:
		return "", "", refused("the OpenID provider's ID token is not good")
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(derive(secret, "nonce"))) != 1:
		return "", "", refused("the OpenID provider's ID token is of another sign-in")
	}
	var claims claimSet
	if err := token.Claims(&claims); err != nil {
		return "", "", refused("the OpenID provider's ID token is not good")
	}
	if party := claims.text("azp"); party != "" && party != l.config.ClientID {
		return "", "", refused("the OpenID provider's ID token is for another client")
	}
	return token.Subject, claims.name(), nil
}

// exchangeError says what went wrong without what was sent.
func exchangeError(err error) string {
	if answer := (*oauth2.RetrieveError)(nil); errors.As(err, &answer) {
		return "status " + answer.Response.Status + " " + printable(answer.ErrorCode)
	}
	if address := (*url.Error)(nil); errors.As(err, &address) {
		return address.Err.Error()
	}
	return "the answer cannot be read"
}

// printable cuts what somebody else wrote down to what may stand in a message.
func printable(text string) string {
	const most = 60 // error codes of OAuth are shorter
	if len(text) > most {
		text = text[:most]
	}
	return quoted(text)
}

// LocalPath is the path, with its query, if it is one of this service, and "/" otherwise: nobody is sent elsewhere.
func LocalPath(path string) string {
	const most = 512 // ours are shorter, and it has to fit into a cookie
	u, err := url.Parse(path)
	if err != nil || len(path) > most || u.IsAbs() || u.Host != "" || u.User != nil || u.Opaque != "" || !strings.HasPrefix(path, "/") ||
		strings.HasPrefix(path, "//") || strings.ContainsFunc(path, func(r rune) bool { return r == '\\' || r < 0x20 || r == 0x7f }) ||
		strings.HasPrefix(u.Path, "//") {
		return "/"
	}
	return path
}
