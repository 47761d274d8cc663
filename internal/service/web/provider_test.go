package web_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/testbed"
)

// TestSignInThroughTheProvider signs in at a real OpenID provider, in the browser, and comes back to the page that was asked for.
func TestSignInThroughTheProvider(t *testing.T) {
	t.Parallel()
	var provider *testbed.OpenID
	s := startWith(t, func(url string, config *auth.Config) *auth.SignIn {
		provider = testbed.OpenIDProvider(t, url+auth.CallbackPath)
		config.JWT = &auth.JWT{Issuer: provider.Issuer, Audience: "urn:image-builder"}
		return &auth.SignIn{Issuer: provider.Issuer, ClientID: "web", Resource: "urn:image-builder"}
	})
	b := s.browse()
	b.expect(provider.Issuer) // its pages are not ours
	b.expect("fonts.googleapis.com")
	b.open("/builds?state=failed")
	b.until(`location.pathname === "/sign-in" && document.readyState === "complete"`)
	b.look("sign-in-provider")
	require.Equal(t, "Sign in with Example Ltd", b.text("a[href^='/sign-in/provider']"))
	b.press("a[href^='/sign-in/provider']")
	b.until(`document.querySelector("input[name=login]")`)
	b.fill("input[name=login]", "alice")
	b.fill("input[name=password]", "any")
	b.press("button[type=submit]")
	b.until(`document.body.innerText.includes("Authorize")`)
	b.press("button[type=submit]")
	b.until(`location.origin === "` + s.url + `" && document.readyState === "complete"`)
	require.Equal(t, "/builds?state=failed", js[string](b, `location.pathname + location.search`))
	require.Contains(t, js[string](b, `document.querySelector(".who span").title`), "user:alice")

	// An answer that belongs to nothing that was begun here.
	b.expect("status of 403")
	b.press("form[action='/sign-out'] button")
	b.until(`location.pathname === "/sign-in"`)
	require.Contains(t, b.text("main"), "signed out")
	b.open(auth.CallbackPath + "?" + url.Values{"code": {"x"}, "state": {"<script>"}, "iss": {provider.Issuer}}.Encode())
	require.Contains(t, b.text("[role=alert]"), "not begun in this browser")
}
