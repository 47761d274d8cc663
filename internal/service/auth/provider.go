package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// metadataMaxAge is how long a provider's addresses are believed; they change when it moves.
	metadataMaxAge = time.Hour
	// keysMaxAge is how long a key that the provider has withdrawn is still accepted.
	keysMaxAge        = 10 * time.Minute
	maxProviderAnswer = 1 << 20 // a key set with certificates has some 10 KiB
	maxProviderKeys   = 64
)

// metadata is what a provider says of itself (OpenID Connect Discovery, section 3), as far as it is used here.
type metadata struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	JWKSURI               string `json:"jwks_uri"`
}

// provider is an OpenID provider, found by its issuer's name when it is first needed.
type provider struct {
	issuer   string
	client   *http.Client
	metadata kept[metadata]
	keys     kept[[]jose.JSONWebKey]
}

func newProvider(issuer string, client *http.Client, now func() time.Time) *provider {
	p := &provider{issuer: issuer, client: client}
	p.metadata.fetch, p.metadata.now, p.metadata.maxAge = p.discover, now, metadataMaxAge
	p.keys.fetch, p.keys.now, p.keys.maxAge = p.fetchKeys, now, keysMaxAge
	return p
}

// endpoints are the provider's addresses. Error: fault.Unavailable.
func (p *provider) endpoints(ctx context.Context) (metadata, error) {
	return p.metadata.get(ctx, func(metadata) bool { return true })
}

func (p *provider) discover(ctx context.Context) (metadata, error) {
	var m metadata
	address := strings.TrimSuffix(p.issuer, "/") + "/.well-known/openid-configuration"
	if err := p.getJSON(ctx, address, &m); err != nil {
		return m, err
	}
	if m.Issuer != p.issuer { // section 4.3: it must be exactly the same, or somebody else's keys would be believed
		return m, unavailable("discover the OpenID provider: %s names the issuer %q, configured is %q", address, m.Issuer, p.issuer)
	}
	for _, endpoint := range []string{m.JWKSURI, m.AuthorizationEndpoint, m.TokenEndpoint} {
		if endpoint == "" {
			continue
		}
		if err := checkHTTP(endpoint); err != nil {
			return m, unavailable("discover the OpenID provider: %s: %w", address, err)
		}
	}
	return m, nil
}

// signingKeys are the provider's keys with that name, or all where the token names none.
func (p *provider) signingKeys(ctx context.Context, kid, algorithm string) ([]jose.JSONWebKey, error) {
	fits := func(k jose.JSONWebKey) bool {
		return (kid == "" || k.KeyID == kid) && (k.Algorithm == "" || k.Algorithm == algorithm) && (k.Use == "" || k.Use == "sig")
	}
	choose := func(keys []jose.JSONWebKey) []jose.JSONWebKey {
		var chosen []jose.JSONWebKey
		for _, k := range keys {
			if fits(k) {
				chosen = append(chosen, k)
			}
		}
		return chosen
	}
	keys, err := p.keys.get(ctx, func(keys []jose.JSONWebKey) bool { return len(choose(keys)) > 0 })
	return choose(keys), err
}

// fetchKeys reads the key set. Keys of kinds that are not known are passed over, and those that are no public key.
func (p *provider) fetchKeys(ctx context.Context) ([]jose.JSONWebKey, error) {
	m, err := p.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	if m.JWKSURI == "" {
		return nil, unavailable("the OpenID provider %s names no jwks_uri", p.issuer)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := p.getJSON(ctx, m.JWKSURI, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) == nil && k.Valid() && k.IsPublic() && len(keys) < maxProviderKeys {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// getJSON reads a document of the provider. Error: fault.Unavailable.
func (p *provider) getJSON(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return unavailable("ask the OpenID provider: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	status, body, err := exchange(p.client, request)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return unavailable("ask the OpenID provider: GET %s: status %d", address, status)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return unavailable("ask the OpenID provider: GET %s: %w", address, err)
	}
	return nil
}

// exchange sends a request to the provider and reads the answer. Error: fault.Unavailable.
func exchange(client *http.Client, request *http.Request) (status int, body []byte, err error) {
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, unavailable("ask the OpenID provider: %w", err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxProviderAnswer+1))
	if err != nil {
		return 0, nil, unavailable("ask the OpenID provider: read the answer of %s: %w", request.URL.Redacted(), err)
	}
	if len(body) > maxProviderAnswer {
		return 0, nil, unavailable("ask the OpenID provider: %s answers with more than %d bytes", request.URL.Redacted(), maxProviderAnswer)
	}
	return response.StatusCode, body, nil
}

// providerClient is a client that follows no redirect: it would carry tokens and our own password to where nobody said.
func providerClient(client *http.Client) *http.Client {
	c := http.Client{}
	if client != nil {
		c = *client
	}
	if c.Timeout == 0 {
		c.Timeout = providerTimeout
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

func checkHTTP(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%q is no URL", address)
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is no http or https URL without a user", address)
	}
	return nil
}
