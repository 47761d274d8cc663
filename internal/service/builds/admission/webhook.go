package admission

import (
	"encoding/base64"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
)

// Webhook looks at where a webhook goes, and what it is signed with; pointers are /webhook/url and /webhook/secret. As with documents,
// what a name leads to is looked at where it is dialled.
func (p Policy) Webhook(url, secret string) []fault.Problem {
	c := &refusals{policy: p}
	const at, maxURL = "/webhook/url", 2048
	scheme, host := splitURL(url)
	switch {
	case len(url) > maxURL:
		c.wrong(at, "is longer than "+strconv.Itoa(maxURL)+" characters", "")
	case (scheme != "https" && scheme != "http") || host == "" || strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		c.wrong(at, "is not an http or https URL", "for example https://ci.example.com/hooks/images")
	case strings.Contains(url, "@"):
		c.wrong(at, "holds a user name or password", "deliveries are signed with the secret: check that")
	default:
		c.host(at, host)
	}
	if secret != "" {
		// Standard Webhooks: 24 to 64 random bytes.
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if !strings.HasPrefix(secret, "whsec_") || err != nil || len(key) < 24 || len(key) > 64 {
			c.wrong("/webhook/secret", "is not a secret as Standard Webhooks have it", "whsec_ and the base64 of 24 to 64 random bytes")
		}
	}
	return c.problems
}
