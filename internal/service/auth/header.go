package auth

import (
	"net/http"
	"strings"
)

// Most that is read of a credential. A token of Keycloak with a hundred roles has about 8 KiB; ours are 46 bytes.
const (
	maxTokenLength = 16 << 10
	maxKeyLength   = 512
)

// credential is what a request shows: at most one of the two is set.
type credential struct {
	key   string // X-API-Key
	token string // Authorization: Bearer
}

// credentialOf reads the headers. Where both are sent the key counts: a proxy in front may have an Authorization of its
// own. An error names no part of what was sent.
func credentialOf(h http.Header) (credential, error) {
	if keys := h.Values("X-Api-Key"); len(keys) > 0 {
		switch {
		case len(keys) > 1:
			return credential{}, refused("X-API-Key is there more than once")
		case keys[0] == "":
			return credential{}, refused("X-API-Key is empty")
		case len(keys[0]) > maxKeyLength:
			return credential{}, refused("X-API-Key is longer than %d bytes", maxKeyLength)
		}
		return credential{key: keys[0]}, nil
	}
	values := h.Values("Authorization")
	if len(values) == 0 {
		return credential{}, noCredentials()
	}
	if len(values) > 1 {
		return credential{}, refused("Authorization is there more than once")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return credential{}, refused("Authorization is not Bearer")
	}
	token = strings.TrimLeft(token, " ")
	switch {
	case token == "":
		return credential{}, refused("the bearer token is empty")
	case len(token) > maxTokenLength:
		return credential{}, refused("the bearer token is longer than %d bytes", maxTokenLength)
	case !isToken68(token):
		return credential{}, refused("the bearer token holds characters that no token has")
	}
	return credential{token: token}, nil
}

// isToken68 tells whether s is a b64token of RFC 6750, section 2.1. What is sent to the provider is not more than that,
// so that a 400 from there is not the caller's doing.
func isToken68(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		c := body[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return body != ""
}

// quoted makes an error's text fit for error_description, which RFC 6750 (section 3) allows only some of ASCII.
func quoted(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, text)
}
