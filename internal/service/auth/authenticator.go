package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"imagebuilder/internal/fault"
)

// realm is what WWW-Authenticate calls this service.
const realm = "image-builder"

// complaintEvery is how often a provider that gives no answer is written about: not once for each request.
const complaintEvery = 10 * time.Second

// Config says who is let in. The zero value lets nobody in.
type Config struct {
	APIKey        string         // one key, of at least 20 characters: subject key:default; AUTH_API_KEY, AUTH_API_KEY_FILE
	APIKeyScopes  []string       // of that key; default: submit, and read everybody's, as in the original
	APIKeysFile   string         // named keys, hashed; read again when it changes; AUTH_API_KEYS_FILE
	Introspection *Introspection // nil: tokens that are no JWT of ours are refused
	JWT           *JWT           // nil: no token is verified here
	Claims        Claims         // where groups and roles stand in a token, and what they allow

	HTTPClient *http.Client     // to the provider; default: http.DefaultTransport; 5 s for an answer
	Now        func() time.Time // default time.Now
	Logger     *slog.Logger     // default: discards
}

func (c Config) withDefaults() Config {
	if c.APIKeyScopes == nil {
		c.APIKeyScopes = []string{ScopeSubmit, ScopeReadAll}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.HTTPClient = providerClient(c.HTTPClient)
	return c
}

// Authenticator tells who calls. It is made by New and may be used by many at once.
type Authenticator struct {
	config     Config
	keys       *keyring
	introspect *introspector
	jwt        *jwtVerifier

	mu         sync.Mutex
	complained time.Time
}

// New makes an Authenticator. Nothing is asked of the provider yet: it need not be there. Error: fault.Invalid.
func New(ctx context.Context, config Config) (*Authenticator, error) {
	config = config.withDefaults()
	a := &Authenticator{config: config}
	var err error
	if a.config.Claims, err = config.Claims.withDefaults(); err != nil {
		return nil, fault.New(fault.Invalid, "configure who may do what: %w", err)
	}
	if a.keys, err = newKeyring(config); err != nil {
		return nil, err
	}
	if config.Introspection != nil {
		if a.introspect, err = newIntrospector(*config.Introspection, config.HTTPClient, config.Now); err != nil {
			return nil, err
		}
		a.warnOfClearText(ctx, config.Introspection.Endpoint)
	}
	if config.JWT != nil {
		if err := checkHTTP(config.JWT.Issuer); err != nil {
			return nil, fault.New(fault.Invalid, "OIDC_ISSUER: %w", err)
		}
		if config.JWT.Audience == "" {
			return nil, fault.New(fault.Invalid, "OIDC_ISSUER is set, OIDC_AUDIENCE is not").
				WithHint("set it to what tokens for this service have in aud; without it, tokens for any other service of the provider would be accepted")
		}
		a.jwt = &jwtVerifier{provider: newProvider(config.JWT.Issuer, config.HTTPClient, config.Now), audience: config.JWT.Audience, now: config.Now}
		a.warnOfClearText(ctx, config.JWT.Issuer)
	}
	if !a.Configured() {
		a.config.Logger.WarnContext(ctx, "nobody is let in: no API key and no OpenID provider is configured", "hint", "set AUTH_API_KEY, AUTH_API_KEYS_FILE, OIDC_INTROSPECTION_ENDPOINT or OIDC_ISSUER")
	}
	return a, nil
}

// Configured tells whether there is any way to be let in.
func (a *Authenticator) Configured() bool { return a.takesKeys() || a.takesTokens() }

func (a *Authenticator) takesKeys() bool   { return a.keys.path != "" || len(a.keys.own) > 0 }
func (a *Authenticator) takesTokens() bool { return a.introspect != nil || a.jwt != nil }

// Authenticate tells who sent the request, by X-API-Key or Authorization: Bearer. Errors are of kind fault.Denied
// (401: send Challenge with it) or fault.Unavailable (503: the provider did not answer, so nothing is known).
func (a *Authenticator) Authenticate(r *http.Request) (Principal, error) {
	c, err := credentialOf(r.Header)
	switch {
	case err != nil:
		return Principal{}, err
	case c.key != "":
		p, _, err := a.keys.find(c.key)
		return p, err
	default:
		return a.token(r.Context(), c.token)
	}
}

// token tells whose access token it is. JWTs of our issuer are verified here, all others are asked about.
func (a *Authenticator) token(ctx context.Context, token string) (Principal, error) {
	var claims claimSet
	var err error
	u, isJWT := peek(token)
	switch {
	case a.jwt != nil && isJWT && (a.introspect == nil || u.claims.text("iss") == a.jwt.provider.issuer):
		claims, err = a.jwt.verify(ctx, token, u)
	case a.introspect != nil:
		claims, err = a.introspect.verify(ctx, token)
	case a.jwt != nil:
		err = refused("the token is not a JWT")
	default:
		err = refused("no bearer tokens are accepted here")
	}
	if err != nil {
		a.complain(ctx, err)
		return Principal{}, err
	}
	return a.config.Claims.principal(claims)
}

// Challenge is what WWW-Authenticate says in the 401 for an error of Authenticate (RFC 6750, section 3): one value for
// each header line.
func (a *Authenticator) Challenge(err error) []string {
	var challenges []string
	if a.takesTokens() || !a.takesKeys() { // a 401 must have one
		bearer := fmt.Sprintf("Bearer realm=%q", realm)
		if errors.Is(err, ErrBadCredentials) {
			bearer += fmt.Sprintf(`, error="invalid_token", error_description="%s"`, quoted(fault.As(err).Message))
		}
		challenges = append(challenges, bearer)
	}
	if a.takesKeys() {
		challenges = append(challenges, fmt.Sprintf(`ApiKey realm=%q, header="X-API-Key"`, realm))
	}
	return challenges
}

// complain writes down that the provider gives no answer.
func (a *Authenticator) complain(ctx context.Context, err error) {
	if fault.KindOf(err) != fault.Unavailable || ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.config.Now(); a.complained.IsZero() || now.Sub(a.complained) >= complaintEvery {
		a.complained = now
		a.config.Logger.WarnContext(ctx, "tokens cannot be verified", "error", err, "hint", fault.As(err).Hint)
	}
}

// warnOfClearText says once that tokens and passwords can be read on the way.
func (a *Authenticator) warnOfClearText(ctx context.Context, address string) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "https" || isLoopback(u.Hostname()) {
		return
	}
	a.config.Logger.WarnContext(ctx, "the OpenID provider is asked by plain http: whoever is on the way can read tokens and change what it says", "provider", address)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
