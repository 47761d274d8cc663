package auth

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"imagebuilder/internal/fault"
)

// FuzzHeaders: whatever is sent, at most one credential comes out, within its bounds; an error does not repeat it.
func FuzzHeaders(f *testing.F) {
	f.Add("", "Bearer abc.def-_~+/==", true)
	f.Add("ib_0123456789012345678901234567890123456789012", "", false)
	f.Add("a", "Basic YTpi", true)
	f.Add("", "bearer   x", true)
	f.Add("", "Bearer a b", true)
	f.Fuzz(func(t *testing.T, key, authorization string, both bool) {
		h := http.Header{}
		if key != "" || both {
			h.Add("X-API-Key", key)
		}
		if authorization != "" {
			h.Add("Authorization", authorization)
		}
		c, err := credentialOf(h)
		if err != nil {
			if fault.KindOf(err) != fault.Denied || c != (credential{}) {
				t.Fatalf("%v with %v", err, c)
			}
			if len(authorization) > 12 && strings.Contains(err.Error(), authorization) {
				t.Fatalf("the error says what was sent: %v", err)
			}
			return
		}
		if (c.key == "") == (c.token == "") || len(c.key) > maxKeyLength || len(c.token) > maxTokenLength {
			t.Fatalf("%d and %d bytes", len(c.key), len(c.token))
		}
		if c.token != "" && (strings.ContainsAny(c.token, " \t\r\n\x00%&") || !strings.HasSuffix(authorization, c.token)) {
			t.Fatalf("%q is no token", c.token)
		}
	})
}

// FuzzToken: what a stranger calls a JWT is read without being believed, and makes no caller that cannot be shown.
func FuzzToken(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ", `{"iss":"https://a","aud":["b"],"exp":1e9,"sub":"s","scope":"email"}`)
	f.Add("e30", `{"sub":"a","client_id":"a","groups":["g","\u0000"],"realm_access":{"roles":["builds:admin"]}}`)
	f.Add("e30", `{"exp":-1e400,"nbf":"x","aud":{}}`)
	claims, err := Claims{Groups: []string{"groups", "a.b.c"}}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		peek(header + "." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".")
		set, err := parseClaims([]byte(payload))
		if err != nil {
			return
		}
		set.time("exp")
		_ = set.checkUse()
		p, err := claims.principal(set)
		if err != nil {
			return
		}
		identifier := p.Subject[strings.IndexByte(p.Subject, ':')+1:]
		if identifier == "" || p.Name == "" || len(p.Groups) > maxGroups {
			t.Fatalf("%+v", p)
		}
		for _, text := range append(p.Groups, identifier, p.Name) {
			if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n\r") || utf8.RuneCountInString(text) > maxIdentifier {
				t.Fatalf("%q", text)
			}
		}
		for _, scope := range p.Scopes {
			if scope != ScopeSubmit && scope != ScopeRead && scope != ScopeReadAll && scope != ScopeAdmin {
				t.Fatalf("%q", scope)
			}
		}
	})
}

// FuzzKeysFile: a file is refused or makes keys that are whole.
func FuzzKeysFile(f *testing.F) {
	f.Add([]byte("- {name: ci, hash: 'sha256:" + strings.Repeat("ab", 32) + "', groups: [a], expires: 2030-01-01T00:00:00Z}\n"))
	f.Add([]byte("- name: ci\n  hash: &a sha256:x\n- *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		keys, err := parseKeys(data)
		if err != nil {
			return
		}
		for _, k := range keys {
			if !strings.HasPrefix(k.principal.Subject, "key:") || k.principal.Subject == "key:"+defaultKey || k.expires.After(time.Unix(1<<60, 0)) {
				t.Fatalf("%+v", k.principal)
			}
		}
	})
}

// FuzzLocalPath: nobody is sent to another site.
func FuzzLocalPath(f *testing.F) {
	for _, path := range []string{"/builds?a=b", "//evil", "/\\evil", "https://evil", "/a//b", "/%5cevil"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := LocalPath(path)
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.HasPrefix(got, "/\\") || strings.ContainsAny(got, "\r\n\t\x00\\") {
			t.Fatalf("%q becomes %q", path, got)
		}
	})
}
