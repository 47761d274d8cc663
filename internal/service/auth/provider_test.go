package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/testbed"
)

const (
	audience = "urn:image-builder"
	asJWT    = audience
	asES256  = audience + ":es256"
	asOpaque = audience + ":opaque"
)

func introspection(o *testbed.OpenID) *auth.Introspection {
	return &auth.Introspection{Endpoint: o.IntrospectionURL(), ClientID: "image-builder", ClientSecret: "image-builder-secret"}
}

func TestOpaqueTokens(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	var time1 clock
	var log buffer
	a := newAuthenticator(t, auth.Config{Introspection: introspection(o), Now: time1.now, Logger: logger(&log)})

	token := o.Token(t, "ci", "", "email")
	for range 3 {
		p, err := a.Authenticate(withToken(token))
		require.NoError(t, err)
		require.Equal(t, auth.Principal{Subject: "client:ci", Name: "ci", Scopes: []string{auth.ScopeSubmit}}, p, "the original's clients have the scope email")
	}
	require.Equal(t, 1, o.Count("/token/introspection"), "the answer is remembered")

	// One question for many who ask at once.
	many := o.Token(t, "ci", "")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			p, err := a.Authenticate(withToken(many))
			if err != nil || p.May(auth.ScopeRead) {
				t.Errorf("a token without scopes: %v %v", p, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 2, o.Count("/token/introspection"))

	// Revoked: good for as long as the answer is remembered, and no longer.
	o.Revoke(t, "ci", token)
	require.NoError(t, errorOf(a.Authenticate(withToken(token))))
	time1.forward(30 * time.Second)
	requireDenied(t, errorOf(a.Authenticate(withToken(token))))
	asked := o.Count("/token/introspection")
	requireDenied(t, errorOf(a.Authenticate(withToken(token))))
	requireDenied(t, errorOf(a.Authenticate(withToken("made-up"))))
	requireDenied(t, errorOf(a.Authenticate(withToken("made-up"))))
	require.Equal(t, asked+1, o.Count("/token/introspection"), "a refusal is remembered too")

	// Groups and roles of a program.
	p, err := a.Authenticate(withToken(o.Token(t, "deployer", asOpaque, "builds:submit")))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{Subject: "client:deployer", Name: "deployer", Groups: []string{"team-a"}, Scopes: []string{auth.ScopeSubmit, auth.ScopeReadAll}}, p)
	require.NotContains(t, log.String(), token)
}

func TestShortOpaqueToken(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	a := newAuthenticator(t, auth.Config{Introspection: introspection(o)})
	token := o.Token(t, "short", "", "email")
	require.NoError(t, errorOf(a.Authenticate(withToken(token))))
	// It lives for two seconds: the answer must not be remembered for longer.
	require.Eventually(t, func() bool {
		_, err := a.Authenticate(withToken(token))
		return fault.KindOf(err) == fault.Denied
	}, 10*time.Second, 100*time.Millisecond)
	require.LessOrEqual(t, o.Count("/token/introspection"), 3)
}

func TestAudienceOfOpaqueTokens(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	c := introspection(o)
	c.Audience, c.Issuer = audience, o.Issuer
	a := newAuthenticator(t, auth.Config{Introspection: c})
	require.NoError(t, errorOf(a.Authenticate(withToken(o.Token(t, "ci", asOpaque, "email")))))
	requireDenied(t, errorOf(a.Authenticate(withToken(o.Token(t, "ci", "", "email")))))
	c.Issuer = "https://elsewhere.example.com"
	a = newAuthenticator(t, auth.Config{Introspection: c})
	requireDenied(t, errorOf(a.Authenticate(withToken(o.Token(t, "ci", asOpaque, "email")))))
	require.Equal(t, 3, o.Count("/token/introspection"))
}

func TestJWTs(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	var time1 clock
	a := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}, Now: time1.now})
	for _, resource := range []string{asJWT, asES256} {
		p, err := a.Authenticate(withToken(o.Token(t, "ci", resource, "builds:submit")))
		require.NoError(t, err)
		require.Equal(t, auth.Principal{Subject: "client:ci", Name: "ci", Scopes: []string{auth.ScopeSubmit}}, p)
	}
	token := o.Token(t, "deployer", asJWT, "builds:admin")
	p, err := a.Authenticate(withToken(token))
	require.NoError(t, err)
	require.Equal(t, []string{"team-a"}, p.Groups)
	require.Equal(t, []string{auth.ScopeReadAll, auth.ScopeAdmin}, p.Scopes)
	require.Equal(t, 1, o.Count("/jwks"))

	parts := strings.Split(token, ".")
	for name, bad := range map[string]string{
		"another audience": o.Token(t, "ci", "urn:other", "email"),
		"opaque":           o.Token(t, "ci", asOpaque, "email"),
		"signature":        parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no signature":     parts[0] + "." + parts[1] + ".",
		"other claims":     parts[0] + "." + changed(t, parts[1], func(c map[string]any) { c["sub"] = "root" }) + "." + parts[2],
		"none":             encoded(t, map[string]any{"alg": "none"}) + "." + parts[1] + ".",
		"None":             encoded(t, map[string]any{"alg": "None", "kid": ""}) + "." + parts[1] + "." + parts[2],
		"HS256":            encoded(t, map[string]any{"alg": "HS256"}) + "." + parts[1] + "." + parts[2],
		"two dots":         "..",
		"no JSON":          "AAAA.AAAA.AAAA",
	} {
		p, err := a.Authenticate(withToken(bad))
		require.ErrorIs(t, err, auth.ErrBadCredentials, name)
		require.Equal(t, fault.Denied, fault.KindOf(err), name)
		require.Empty(t, p, name)
		require.Contains(t, a.Challenge(err)[0], `error="invalid_token"`, name)
	}
	require.Equal(t, 1, o.Count("/jwks"), "nothing of that is a reason to fetch keys")

	time1.forward(9 * time.Minute)
	require.NoError(t, errorOf(a.Authenticate(withToken(token))))
	time1.forward(time.Minute + 31*time.Second) // it lives for ten minutes, and the clocks may differ by 30 s
	requireDenied(t, errorOf(a.Authenticate(withToken(token))))

	b := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: o.Issuer + "/", Audience: audience}})
	_, err = b.Authenticate(withToken(o.Token(t, "ci", asJWT, "email")))
	requireDenied(t, err)
	require.ErrorContains(t, err, "another issuer")
	for _, c := range []auth.JWT{{Issuer: o.Issuer}, {Issuer: "keycloak", Audience: audience}} {
		_, err := auth.New(t.Context(), auth.Config{JWT: &c})
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}

// forger signs tokens with a key of its own.
type forger struct {
	t   *testing.T
	key *rsa.PrivateKey
}

func newForger(t *testing.T) forger {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return forger{t: t, key: key}
}

func (f forger) token(kid string, claims map[string]any) string {
	options := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: f.key}, options)
	require.NoError(f.t, err)
	payload, err := json.Marshal(claims)
	require.NoError(f.t, err)
	signed, err := signer.Sign(payload)
	require.NoError(f.t, err)
	text, err := signed.CompactSerialize()
	require.NoError(f.t, err)
	return text
}

func TestUnknownKeysByTheHundred(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	time1 := frozen()
	a := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}, Now: time1.now})
	forge := newForger(t)
	claims := map[string]any{"iss": o.Issuer, "aud": audience, "sub": "root", "exp": time.Now().Add(time.Hour).Unix(), "scope": "builds:admin"}
	var wg sync.WaitGroup
	for i := range 300 {
		token := forge.token(fmt.Sprintf("key-%d", i), claims)
		wg.Go(func() {
			if kind := kindOf(a.Authenticate(withToken(token))); kind != fault.Denied {
				t.Errorf("a token signed with a made-up key: %s", kind)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, o.Count("/jwks"))
	time1.forward(10 * time.Second)
	for i := range 100 {
		requireDenied(t, errorOf(a.Authenticate(withToken(forge.token(fmt.Sprintf("key-%d", i), claims)))))
	}
	require.Equal(t, 2, o.Count("/jwks"), "one fetch in ten seconds")

	good := o.Token(t, "ci", asJWT, "email")
	require.NoError(t, errorOf(a.Authenticate(withToken(good))))
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[0])
	require.NoError(t, err)
	var real struct{ Kid string }
	require.NoError(t, json.Unmarshal(header, &real))
	requireDenied(t, errorOf(a.Authenticate(withToken(forge.token(real.Kid, claims)))))
	requireDenied(t, errorOf(a.Authenticate(withToken(forge.token("", claims)))))
	require.Equal(t, 2, o.Count("/jwks"))
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	var time1 clock
	a := newAuthenticator(t, auth.Config{JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}, Now: time1.now})
	old := o.Token(t, "ci", asJWT, "email")
	require.NoError(t, errorOf(a.Authenticate(withToken(old))))
	o.Stop()
	require.NoError(t, errorOf(a.Authenticate(withToken(old))), "keys that are known need no provider")
	require.NoError(t, o.Start())
	fresh := o.Token(t, "ci", asJWT, "email")
	time1.forward(10 * time.Second)
	require.NoError(t, errorOf(a.Authenticate(withToken(fresh))))
	requireDenied(t, errorOf(a.Authenticate(withToken(old))))
}

func TestProviderIsDown(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	opaque, jwt := o.Token(t, "ci", asOpaque, "email"), o.Token(t, "ci", asJWT, "email")
	other := o.Token(t, "ci", "", "email")
	time1 := frozen()
	var log buffer
	both := auth.Config{Introspection: introspection(o), JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}, Now: time1.now, Logger: logger(&log)}
	a := newAuthenticator(t, both)
	require.NoError(t, errorOf(a.Authenticate(withToken(opaque))))
	o.Stop()
	require.NoError(t, errorOf(a.Authenticate(withToken(opaque))), "what is remembered is still good")
	for range 5 {
		require.Equal(t, fault.Unavailable, kindOf(a.Authenticate(withToken(jwt))))
		require.Equal(t, fault.Unavailable, kindOf(a.Authenticate(withToken(other))))
	}
	require.Equal(t, 1, strings.Count(log.String(), "tokens cannot be verified"), "said once, not for each request")
	// net/http asks a second time when the connection is one of before.
	require.LessOrEqual(t, o.Count("/.well-known/openid-configuration"), 2, "and asked once in a second, not five times")
	require.Equal(t, fault.Denied, kindOf(a.Authenticate(withToken("a b"))), "what is wrong in itself is no reason to ask")
	require.NotContains(t, log.String(), other)

	require.NoError(t, o.Start())
	time1.forward(time.Second)
	fresh := o.Token(t, "ci", asJWT, "email")
	require.NoError(t, errorOf(a.Authenticate(withToken(fresh))))
	requireDenied(t, errorOf(a.Authenticate(withToken(other)))) // it has forgotten its tokens
}

func TestBothWaysChooseByIssuer(t *testing.T) {
	t.Parallel()
	o := testbed.OpenIDProvider(t)
	a := newAuthenticator(t, auth.Config{Introspection: introspection(o), JWT: &auth.JWT{Issuer: o.Issuer, Audience: audience}})
	require.NoError(t, errorOf(a.Authenticate(withToken(o.Token(t, "ci", asJWT, "email")))))
	require.Equal(t, 0, o.Count("/token/introspection"))
	require.NoError(t, errorOf(a.Authenticate(withToken(o.Token(t, "ci", "", "email")))))
	require.Equal(t, 1, o.Count("/token/introspection"))
	// A JWT of another issuer is the provider's to judge; this one says 400 unsupported_token_type: refused, not down.
	forged := newForger(t).token("k", map[string]any{"iss": "https://elsewhere.example.com", "aud": audience, "sub": "root", "exp": time.Now().Add(time.Hour).Unix()})
	requireDenied(t, errorOf(a.Authenticate(withToken(forged))))
	require.Equal(t, 2, o.Count("/token/introspection"))
	onlyAsks := newAuthenticator(t, auth.Config{Introspection: introspection(o)})
	requireDenied(t, errorOf(onlyAsks.Authenticate(withToken(o.Token(t, "ci", asJWT, "email")))))
}

// What a real provider cannot be made to say.
func TestAnswersThatAreNoVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   fault.Kind
	}{
		"active":                 {200, `{"active":true,"sub":"a"}`, ""},
		"keycloak":               {200, `{"active":true,"sub":"a","typ":"Bearer","nonce":"n","token_type":"Bearer"}`, ""},
		"without active":         {200, `{"sub":"a","scope":"email"}`, fault.Denied},
		"active is text":         {200, `{"active":"true","sub":"a"}`, fault.Denied},
		"active is null":         {200, `{"active":null,"sub":"a"}`, fault.Denied},
		"expired":                {200, `{"active":true,"sub":"a","exp":1}`, fault.Denied},
		"expiry is no number":    {200, `{"active":true,"sub":"a","exp":"never"}`, fault.Denied},
		"expiry is out of range": {200, `{"active":true,"sub":"a","exp":1e300}`, fault.Denied},
		"refresh token":          {200, `{"active":true,"sub":"a","typ":"Refresh"}`, fault.Denied},
		"bound to a key":         {200, `{"active":true,"sub":"a","token_type":"DPoP"}`, fault.Denied},
		"nobody":                 {200, `{"active":true}`, fault.Denied},
		"odd subject":            {200, `{"active":true,"sub":"a\nb"}`, fault.Denied},
		"long subject":           {200, `{"active":true,"sub":"` + strings.Repeat("a", 300) + `"}`, fault.Denied},
		"unsupported":            {400, `{"error":"unsupported_token_type"}`, fault.Denied},
		"another 400":            {400, `{"error":"invalid_request"}`, fault.Unavailable},
		"our password is wrong":  {401, `{"error":"invalid_client"}`, fault.Unavailable},
		"forbidden":              {403, ``, fault.Unavailable},
		"too many":               {429, ``, fault.Unavailable},
		"broken":                 {500, `{"active":true,"sub":"a"}`, fault.Unavailable},
		"a web page":             {200, `<html>`, fault.Unavailable},
		"a list":                 {200, `[]`, fault.Unavailable},
		"two objects":            {200, `{"active":true,"sub":"a"}{}`, fault.Unavailable},
		"null":                   {200, `null`, fault.Unavailable},
		"huge":                   {200, `{"active":true,"sub":"a","x":"` + strings.Repeat("x", 2<<20) + `"}`, fault.Unavailable},
		"elsewhere":              {307, ``, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				id, secret, _ := r.BasicAuth()
				got = append(got, r.Method+" "+r.URL.Path+" "+id+" "+secret+" "+r.FormValue("token"))
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			defer server.Close()
			a := newAuthenticator(t, auth.Config{Introspection: &auth.Introspection{Endpoint: server.URL + "/ask", ClientID: "me", ClientSecret: "a:b%+ü"}})
			p, err := a.Authenticate(withToken("abc"))
			require.Equal(t, c.want, fault.KindOf(err), "%v", err)
			if c.want == "" {
				require.Equal(t, "user:a", p.Subject)
			}
			require.Equal(t, []string{"POST /ask me a:b%+ü abc"}, got, "the password as it is, and no redirect followed")
		})
	}
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString(data)
}

func changed(t *testing.T, payload string, change func(map[string]any)) string {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(payload)
	require.NoError(t, err)
	var claims map[string]any
	require.NoError(t, json.Unmarshal(data, &claims))
	change(claims)
	return encoded(t, claims)
}
