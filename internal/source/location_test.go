package source

import (
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func absolute(p string) (string, error) { return path.Join("/a folder", p), nil }

func TestParseLocation(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]location{
		"https://Example.com/a/b.git":           {scheme: "https", host: "example.com", path: "/a/b.git"},
		"HTTPS://example.com:443/a":             {scheme: "https", host: "example.com", path: "/a"},
		"http://example.com:8080/a%20b":         {scheme: "http", host: "example.com:8080", path: "/a%20b"},
		"https://u:p%40x@example.com/a":         {scheme: "https", host: "example.com", path: "/a", username: "u", password: "p@x"},
		"http://[::1]:80/a":                     {scheme: "http", host: "[::1]", path: "/a"},
		"ssh://git@example.com:22/~u/a":         {scheme: "ssh", host: "example.com", user: "git", path: "/~u/a"},
		"ssh://git@example.com:2222/a":          {scheme: "ssh", host: "example.com:2222", user: "git", path: "/a"},
		"git@example.com:org/a.git":             {scheme: "ssh", host: "example.com", user: "git", path: "org/a.git", scp: true},
		"example.com:/srv/a.git":                {scheme: "ssh", host: "example.com", path: "/srv/a.git", scp: true},
		"git@[::1]:a.git":                       {scheme: "ssh", host: "[::1]", user: "git", path: "a.git", scp: true},
		"/srv/a.git":                            {scheme: "file", path: "/a folder/srv/a.git"},
		"a.git":                                 {scheme: "file", path: "/a folder/a.git"},
		"./a:b":                                 {scheme: "file", path: "/a folder/a:b"},
		"file:///srv/a%20b":                     {scheme: "file", path: "/srv/a b"},
		"file://localhost/srv/a":                {scheme: "file", path: "/srv/a"},
		"git+ssh://git@example.com/a":           {scheme: "ssh", host: "example.com", user: "git", path: "/a"},
		"ssh://git:ignored@example.com/a":       {scheme: "ssh", host: "example.com", user: "git", path: "/a"},
		"user@corp@example.com:a":               {scheme: "ssh", host: "example.com", user: "user@corp", path: "a", scp: true},
		"https://example.com/a/../b%2Fc//d.git": {scheme: "https", host: "example.com", path: "/a/../b%2Fc//d.git"},
	} {
		got, err := parseLocation(text, absolute)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "-x", "--upload-pack=x", "ext::sh -c x", "git://example.com/a", "ftp://example.com/a", "https://", "https:///a", "https://example.com",
		"https://example.com/", "https://example.com/a?b=c", "https://example.com/a#main", "file://elsewhere/a", "ssh://-oProxyCommand=x/a",
		"-oProxyCommand=x:a", "git@-x:a", "a b:c", "x\ny", "host:", "ssh://host", "https://u:canary%zz@example.com/a", "ssh://-x@host/a",
	} {
		_, err := parseLocation(text, absolute)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "canary")
	}
}

func TestSubmoduleLocation(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"https://h/org/app.git", "../lib.git", "https://h/org/lib.git"},
		{"https://h/org/app.git/", "../../other/lib.git", "https://h/other/lib.git"},
		{"https://h/org/app.git", "./lib.git", "https://h/org/app.git/lib.git"},
		{"https://h/app.git", "../../lib.git", ""},
		{"https://h/app.git", "../x/../lib.git", "https://h/x/../lib.git"},
		{"git@h:org/app.git", "../lib.git", "git@h:org/lib.git"},
		{"git@h:app.git", "../lib.git", "git@h:lib.git"},
		{"git@h:app.git", "../../lib.git", ""},
		{"git@h:/srv/app.git", "../lib.git", "git@h:/srv/lib.git"},
		{"ssh://git@h:22/org/app.git", "../lib.git", "ssh://git@h/org/lib.git"},
		{"https://h/app.git", "https://other/lib.git", "https://other/lib.git"},
		{"https://h/app.git", "git@other:lib.git", "git@other:lib.git"},
		{"https://h/app.git", "/srv/lib.git", ""},
		{"https://h/app.git", "file:///srv/lib.git", ""},
		{"/srv/app.git", "../lib.git", ""},
		{"/srv/app.git", "https://h/lib.git", "https://h/lib.git"},
	} {
		parent, err := parseLocation(c[0], func(p string) (string, error) { return p, nil })
		require.NoError(t, err)
		got, err := parent.submodule(c[1])
		if c[2] == "" {
			require.Error(t, err, "%s %s", c[0], c[1])
			continue
		}
		require.NoError(t, err, "%s %s", c[0], c[1])
		require.Equal(t, c[2], got.String())
	}
}

func TestCredentialsBelongToAnOrigin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bound, asked string
		may          bool
	}{
		{"https://h", "https://h:443/x", true},
		{"https://h", "https://H/x", true},
		{"http://h", "https://h/x", true},
		{"http://h", "https://h:8443/x", false},
		{"http://h:8080", "https://h/x", false},
		{"https://h", "http://h/x", false},
		{"https://h", "https://h:444/x", false},
		{"https://h", "https://sub.h/x", false},
		{"https://h", "https://h.evil/x", false},
		{"http://[::1]:80", "https://[::1]/x", false},
	} {
		asked, err := url.Parse(c.asked)
		require.NoError(t, err)
		require.Equal(t, c.may, mayHave(c.bound, originOf(asked)), "%s %s", c.bound, c.asked)
	}
}

func FuzzParseLocation(f *testing.F) {
	for _, s := range []string{"git@h:a/b", "https://u:p@h:1/a", "[::1]:a", "u@[::1]:22:a", "ssh://h/a", "file:///a", "./a:b", "a::b", ":", "@:x", "h:-x"} {
		f.Add(s, "../x")
	}
	f.Fuzz(func(t *testing.T, text, sub string) {
		l, err := parseLocation(text, absolute)
		if err != nil {
			return
		}
		if !slices.Contains([]string{"http", "https", "ssh", "file"}, l.scheme) {
			t.Fatalf("scheme %q", l.scheme)
		}
		shown := l.String()
		if strings.HasPrefix(shown, "-") || strings.ContainsAny(shown, "\n\x00") {
			t.Fatalf("%q could be an option", shown)
		}
		ep := l.endpoint()
		if l.local() {
			if !path.IsAbs(l.path) {
				t.Fatalf("%q is relative", l.path)
			}
		} else if host, _, err := net.SplitHostPort(l.host); err == nil && strings.Trim(ep.Host, "[]") != host || ep.Host == "" {
			t.Fatalf("%q is not the host of %q", ep.Host, l.host)
		}
		if !l.local() {
			again, err := parseLocation(shown, absolute)
			if err == nil && again.origin() != l.origin() {
				t.Fatalf("%q is at %q, and is shown as %q, which is at %q", text, l.origin(), shown, again.origin())
			}
		}
		if s, err := l.submodule(sub); err == nil {
			if s.local() {
				t.Fatalf("submodule %q of %q is local", sub, text)
			}
			if strings.HasPrefix(sub, "../") && s.origin() != l.origin() {
				t.Fatalf("relative submodule %q of %q leaves its host", sub, text)
			}
		}
	})
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"", ".", "a/b", "../a", "a/..", "/a", "./a//b/", "..a", "a\x00b", "a/../../b", "...", `..\a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean, err := cleanPath("field", p)
		if err != nil {
			return
		}
		if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(clean, "/../") || clean == "" {
			t.Fatalf("%q is taken as %q", p, clean)
		}
		if again, err := cleanPath("field", clean); err != nil || again != clean {
			t.Fatalf("%q is not clean", clean)
		}
	})
}
