package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"imagebuilder/internal/fault"
)

// leeway is how far apart our clock and the provider's may be.
const leeway = 30 * time.Second

// algorithms are those that a public key verifies. "none" and the HS family are not among them: with those, anybody who
// knows the public key can sign.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// JWT verifies tokens with the provider's public keys, found by discovery.
type JWT struct {
	Issuer   string // exactly as tokens have it in iss; OIDC_ISSUER
	Audience string // must be among the token's aud; OIDC_AUDIENCE. Without it tokens for any other service would do here
}

// jwtVerifier verifies access tokens (RFC 9068, and Keycloak's) of one issuer.
type jwtVerifier struct {
	provider *provider
	audience string
	now      func() time.Time
}

// unverified is what a token says of itself; to be believed only as a reason to refuse, or to look for a key.
type unverified struct {
	header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}
	claims claimSet
}

// peek reads a token that looks like a signed JWT.
func peek(token string) (unverified, bool) {
	var u unverified
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return u, false
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || json.Unmarshal(header, &u.header) != nil {
		return u, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return u, false
	}
	u.claims, err = parseClaims(payload)
	return u, err == nil
}

// verify gives the claims of a token that is good here. What costs nothing is looked at first, so that only a token
// which says the right things makes us look for keys.
func (v *jwtVerifier) verify(ctx context.Context, token string, u unverified) (claimSet, error) {
	if !slices.Contains(algorithms(), jose.SignatureAlgorithm(u.header.Algorithm)) {
		return nil, refused("the token is signed by an algorithm that is not accepted")
	}
	if kind := strings.ToLower(strings.TrimPrefix(u.header.Type, "application/")); kind != "" && kind != "jwt" && kind != "at+jwt" {
		return nil, refused("the token is not an access token")
	}
	if err := v.check(u.claims); err != nil {
		return nil, err
	}
	signed, err := jose.ParseSigned(token, algorithms())
	if err != nil {
		return nil, refused("the token is malformed")
	}
	payload, err := v.provider.verifySignature(ctx, signed)
	if err != nil {
		return nil, err
	}
	claims, err := parseClaims(payload)
	if err != nil {
		return nil, refused("the token's claims are malformed")
	}
	return claims, v.check(claims) // of what was signed, whatever peek has made of it
}

// verifySignature gives the payload. Error: ErrBadCredentials, or fault.Unavailable when keys cannot be had.
func (p *provider) verifySignature(ctx context.Context, signed *jose.JSONWebSignature) ([]byte, error) {
	if len(signed.Signatures) != 1 {
		return nil, refused("the token has not exactly one signature")
	}
	header := signed.Signatures[0].Protected // the unprotected one is not signed
	keys, err := p.signingKeys(ctx, header.KeyID, header.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, refused("the token is signed with a key that the provider does not have")
	}
	for _, key := range keys {
		if payload, err := signed.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, refused("the token's signature is wrong")
}

// keySet gives go-oidc, which verifies ID tokens, the provider's keys. It is for one verification.
type keySet struct {
	provider *provider
	err      error // fault.Unavailable when keys could not be had
}

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSigned(token, algorithms())
	if err != nil {
		return nil, err
	}
	payload, err := k.provider.verifySignature(ctx, signed)
	if fault.KindOf(err) == fault.Unavailable {
		k.err = err
	}
	return payload, err
}

// check looks at who issued the token, for whom, what for, and for how long.
func (v *jwtVerifier) check(c claimSet) error {
	now := v.now()
	expires := c.time("exp")
	switch {
	case c.text("iss") != v.provider.issuer:
		return refused("the token is from another issuer")
	case !c.has("aud", v.audience):
		return refused("the token is for another audience; this service is %s", v.audience)
	case expires.IsZero():
		return refused("the token does not say when it expires")
	case !now.Before(expires.Add(leeway)):
		return refused("the token has expired")
	case now.Add(leeway).Before(c.time("nbf")):
		return refused("the token is not good yet")
	}
	return c.checkUse()
}

// checkUse refuses ID and refresh tokens: they are shown to others than this service, and say nothing of what is allowed.
func (c claimSet) checkUse() error {
	// Keycloak's typ, Hydra's token_use, token_type of RFC 7662
	for _, name := range []string{"typ", "token_use", "token_type"} {
		switch strings.ToLower(c.text(name)) {
		case "", "bearer", "access_token", "access", "at+jwt", "jwt":
		default:
			return refused("the token is not a bearer access token")
		}
	}
	if c.text("typ") != "" { // the provider has said what it is
		return nil
	}
	for _, name := range []string{"at_hash", "c_hash", "nonce"} { // only ID tokens have them
		if _, is := c[name]; is {
			return refused("the token is an ID token, not an access token")
		}
	}
	return nil
}
