package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"imagebuilder/internal/fault"
)

const (
	// goodFor is how long a token that was revoked is still accepted.
	goodFor = 30 * time.Second
	// badFor is how long a refused token is refused without asking: a token that is not active does not become so, but
	// the provider's replicas may hear of a new one late.
	badFor = 5 * time.Second
	// Tokens remembered. The two are kept apart so that made-up tokens do not drive out the good ones.
	maxGood, maxBad = 20_000, 10_000
	// maxAsking is how many tokens are asked about at once; more wait, so that a flood of made-up ones does not become
	// one at the provider.
	maxAsking = 16
	// maxWaiting is how many more may wait for that; the others get 503 at once.
	maxWaiting = 1000
)

// Introspection asks the provider about each token (RFC 7662), and remembers the answer for half a minute at most.
type Introspection struct {
	Endpoint     string // OIDC_INTROSPECTION_ENDPOINT
	ClientID     string // this service's own client at the provider; OIDC_CLIENT_ID
	ClientSecret string // OIDC_CLIENT_SECRET, OIDC_CLIENT_SECRET_FILE
	Audience     string // OIDC_AUDIENCE: where set, it must be among the aud of the answer
	Issuer       string // OIDC_ISSUER: where set, an answer with another iss is refused
}

type introspector struct {
	config Introspection
	client *http.Client
	now    func() time.Time

	good   *lru.Cache[[sha256.Size]byte, verdict] // by hash: the tokens themselves are not kept
	bad    *lru.Cache[[sha256.Size]byte, verdict]
	flight singleflight.Group
	queue  chan struct{} // held by those who ask or wait
	slots  chan struct{} // held by those who ask
}

// verdict is what the provider has said of a token.
type verdict struct {
	claims claimSet
	err    error // refused
	until  time.Time
}

func newIntrospector(config Introspection, client *http.Client, now func() time.Time) (*introspector, error) {
	if err := checkHTTP(config.Endpoint); err != nil {
		return nil, fault.New(fault.Invalid, "OIDC_INTROSPECTION_ENDPOINT: %w", err)
	}
	if config.ClientID == "" || config.ClientSecret == "" {
		return nil, fault.New(fault.Invalid, "OIDC_INTROSPECTION_ENDPOINT is set, OIDC_CLIENT_ID or OIDC_CLIENT_SECRET is not").
			WithHint("a provider tells about tokens only to clients that it knows")
	}
	i := &introspector{config: config, client: client, now: now, queue: make(chan struct{}, maxAsking+maxWaiting), slots: make(chan struct{}, maxAsking)}
	var err, err2 error
	i.good, err = lru.New[[sha256.Size]byte, verdict](maxGood)
	i.bad, err2 = lru.New[[sha256.Size]byte, verdict](maxBad)
	return i, errors.Join(err, err2)
}

// verify gives what the provider says of an active token. Error: ErrBadCredentials, or fault.Unavailable when the provider
// gave no verdict.
func (i *introspector) verify(ctx context.Context, token string) (claimSet, error) {
	hash := sha256.Sum256([]byte(token))
	if v, ok := i.remembered(hash); ok {
		return v.claims, v.err
	}
	// The request of the one who came first may end early: that must not be everybody's error.
	answer := i.flight.DoChan(string(hash[:]), func() (any, error) {
		if v, ok := i.remembered(hash); ok { // somebody else's question has just been answered
			return v, nil
		}
		select {
		case i.queue <- struct{}{}:
			defer func() { <-i.queue }()
		default:
			return verdict{}, unavailable("ask the OpenID provider: more than %d tokens wait already", maxWaiting)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), providerTimeout)
		defer cancel()
		select {
		case i.slots <- struct{}{}:
			defer func() { <-i.slots }()
		case <-ctx.Done():
			return verdict{}, unavailable("ask the OpenID provider: %d questions are open already", maxAsking)
		}
		v, err := i.ask(ctx, token)
		if err != nil {
			return verdict{}, err
		}
		cache := i.good
		if v.err != nil {
			cache = i.bad
		}
		cache.Add(hash, v)
		return v, nil
	})
	select {
	case result := <-answer:
		if result.Err != nil {
			return nil, result.Err
		}
		v := result.Val.(verdict)
		return v.claims, v.err
	case <-ctx.Done():
		return nil, unavailable("wait for the OpenID provider: %w", ctx.Err())
	}
}

func (i *introspector) remembered(hash [sha256.Size]byte) (verdict, bool) {
	for _, cache := range []*lru.Cache[[sha256.Size]byte, verdict]{i.good, i.bad} {
		if v, ok := cache.Get(hash); ok && i.now().Before(v.until) {
			return v, true
		}
	}
	return verdict{}, false
}

// ask asks the provider. An error means that there is no verdict.
func (i *introspector) ask(ctx context.Context, token string) (verdict, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, i.config.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return verdict{}, unavailable("ask the OpenID provider: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	// Raw, as the original sent it. RFC 6749 (section 2.3.1) wants both encoded first: it is the same for letters,
	// digits, hyphens, dots and underscores, and providers differ about the rest.
	request.SetBasicAuth(i.config.ClientID, i.config.ClientSecret)
	asked := i.now()
	status, body, err := exchange(i.client, request)
	if err != nil {
		return verdict{}, err
	}
	bad := func(reason string) (verdict, error) {
		return verdict{err: refused("%s", reason), until: asked.Add(badFor)}, nil
	}
	if status == http.StatusBadRequest && isUnsupported(body) {
		return bad("the provider does not tell about tokens of this kind")
	}
	switch status {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return verdict{}, unavailable("ask the OpenID provider: %s answers status %d to the client %s", i.config.Endpoint, status, i.config.ClientID).
			WithHint("check OIDC_CLIENT_ID and OIDC_CLIENT_SECRET, and that the client may ask about tokens")
	default:
		return verdict{}, unavailable("ask the OpenID provider: %s answers status %d", i.config.Endpoint, status)
	}
	claims, err := parseClaims(body)
	if err != nil {
		return verdict{}, unavailable("ask the OpenID provider: %s: %w", i.config.Endpoint, err)
	}
	// The one field that RFC 7662 requires. An answer without it says nothing about the token.
	if active, isBool := claims["active"].(bool); !isBool || !active {
		return bad("the token is not active")
	}
	until := asked.Add(goodFor)
	if _, says := claims["exp"]; says {
		expires := claims.time("exp")
		if !asked.Before(expires) {
			return bad("the token has expired")
		}
		if expires.Before(until) {
			until = expires
		}
	}
	if i.config.Audience != "" && !claims.has("aud", i.config.Audience) {
		return bad("the token is for another audience; this service is " + i.config.Audience)
	}
	if issuer := claims.text("iss"); i.config.Issuer != "" && issuer != "" && issuer != i.config.Issuer {
		return bad("the token is from another issuer")
	}
	if err := claims.checkUse(); err != nil {
		return verdict{err: err, until: asked.Add(badFor)}, nil
	}
	return verdict{claims: claims, until: until}, nil
}

// isUnsupported tells whether an error answer is a verdict: oidc-provider says so of JWTs, which it cannot look up.
func isUnsupported(body []byte) bool {
	var answer struct {
		Error string `json:"error"`
	}
	return json.Unmarshal(body, &answer) == nil && answer.Error == "unsupported_token_type"
}
