package admission

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/schemas"
)

// leaves are the places of all values that the schema allows, * for any index or name.
func leaves(t *testing.T) []string {
	t.Helper()
	var places []string
	require.NoError(t, schemas.Places(func(at string, _ map[string]any, leaf bool) {
		if leaf {
			places = append(places, at)
		}
	}))
	slices.Sort(places)
	return places
}

func TestEveryFieldHasADecision(t *testing.T) {
	t.Parallel()
	require.Equal(t, leaves(t), slices.Sorted(maps.Keys(decisions)))

	page, err := os.ReadFile("../../../../docs/rest-security.md")
	require.NoError(t, err)
	told := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); strings.HasPrefix(line, "| `/") && len(cells) == 4 {
			told[strings.Trim(strings.TrimSpace(cells[1]), "`")] = strings.Contains(cells[2], "refused")
		}
	}
	for place, decide := range decisions {
		refused, ok := told[place]
		require.True(t, ok, "docs/rest-security.md says nothing about %s", place)
		require.Equal(t, decide != nil, refused, place)
	}
	require.Len(t, told, len(decisions))
}

const (
	gitSource        = `"source":{"git_repo":{"url":"https://git.example.com/a.git"}}`
	dockerfileSource = `"source":{"dockerfile":{"url":"https://files.example.com/D"},"build_context":{"url":"https://git.example.com/c.git"}}`
	someTarget       = `"target":{"registry":{"url":"registry.example.com","username":"u","password":"p"},"images":[{"image":"a","tag":"b"}]}`
)

// with is a valid document with a value set in it.
func with(t *testing.T, place, value string) []byte {
	t.Helper()
	source := gitSource
	if strings.HasPrefix(place, "/source/dockerfile") || strings.HasPrefix(place, "/source/build_context") {
		source = dockerfileSource
	}
	var root any
	require.NoError(t, json.Unmarshal([]byte("{"+source+","+someTarget+"}"), &root))
	var v any
	if json.Unmarshal([]byte(value), &v) != nil {
		v = value
	}
	if place == "/source/build_context/path" {
		delete(root.(map[string]any)["source"].(map[string]any)["build_context"].(map[string]any), "url")
	}
	var put func(at any, keys []string) any
	put = func(at any, keys []string) any {
		if len(keys) == 0 {
			return v
		}
		switch key := keys[0]; {
		case key == "*" && (len(keys) == 1 || strings.HasPrefix(place, "/target/images")):
			if list, ok := at.([]any); ok {
				list[0] = put(list[0], keys[1:])
				return list
			}
			if strings.Contains(place, "platforms") {
				return []any{put(nil, keys[1:])}
			}
			return map[string]any{nameAt(place): put(nil, keys[1:])}
		default:
			m, ok := at.(map[string]any)
			if !ok {
				m = map[string]any{}
			}
			m[key] = put(m[key], keys[1:])
			return m
		}
	}
	root = put(root, strings.Split(place, "/")[1:])
	if username := "/username"; strings.HasSuffix(place, "/password") && !strings.HasPrefix(place, "/target") {
		place, v = strings.TrimSuffix(place, "/password")+username, "u"
		root = put(root, strings.Split(place, "/")[1:])
	} else if strings.HasSuffix(place, username) && !strings.HasPrefix(place, "/target") {
		place, v = strings.TrimSuffix(place, username)+"/password", "p"
		root = put(root, strings.Split(place, "/")[1:])
	}
	if place == "/options/cache/ref" || place == "/options/cache/scope" {
		place, v = "/options/cache/mode", "registry"
		root = put(root, strings.Split(place, "/")[1:])
	}
	data, err := json.Marshal(root)
	require.NoError(t, err)
	return data
}

// nameAt is a name of a user's own for a place that ends with one.
func nameAt(place string) string {
	if strings.Contains(place, "/bases/") {
		return "alpine"
	}
	return "NAME"
}

// addresses are hosts that strangers may not name, in all the ways in which somebody may write them.
var addresses = []string{
	"127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255",
	"localhost", "LOCALHOST", "localhost.", "db.localhost", "metadata.google.internal", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "017700000001",
}

// TestPolicy has for every place of a document what strangers may write there, and what they may not.
func TestPolicy(t *testing.T) {
	t.Parallel()
	urls := func(format string) (all []string) {
		for _, host := range append(slices.Clone(addresses), "[::1]", "[fd00:ec2::254]", "[fe80::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[::]") {
			all = append(all, strings.Replace(format, "HOST", host, 1), strings.Replace(format, "HOST", host+":8443", 1))
		}
		return all
	}
	references := []string{"env:HOME", "file:/etc/passwd", "file:x", "****"}
	repository := append(urls("https://HOST/a.git"), "file:///srv/a.git", "file://localhost/srv/a.git", "ssh://git@git.example.com/a.git", "git@git.example.com:a.git", "http://127.0.0.1/a.git", "HTTPS://127.0.0.1/a.git")
	images := append(urls("HOST/base:1"), "localhost:5000/base", "10.1.2.3:5000/base@sha256:"+strings.Repeat("a", 64))
	images = slices.DeleteFunc(images, func(s string) bool {
		return !strings.ContainsAny(s[:strings.IndexByte(s, '/')], ".:") && !strings.HasPrefix(strings.ToLower(s), "localhost")
	}) // names of Docker Hub
	cases := map[string]struct{ may, mayNot []string }{
		"/source/git_repo/url":        {[]string{"https://git.example.com/a.git", "http://git.example.com/a.git", "https://8.8.8.8/a.git", "https://[2606:4700::1]/a.git", "https://1.example.com/a"}, repository},
		"/source/git_repo/version":    {[]string{"main"}, nil},
		"/source/git_repo/username":   {[]string{"u"}, nil},
		"/source/git_repo/password":   {[]string{"p", "environment", "File:x"}, references},
		"/source/git_repo/dockerfile": {[]string{"deploy/Dockerfile"}, nil},
		"/source/git_repo/workdir":    {[]string{"services/web"}, nil},

		"/source/dockerfile/url":      {[]string{"https://files.example.com/D"}, append(urls("https://HOST/D"), "file:///srv/D", "http://169.254.169.254/latest/meta-data")},
		"/source/dockerfile/username": {[]string{"u"}, nil},
		"/source/dockerfile/password": {[]string{"p"}, references},

		"/source/build_context/url":      {[]string{"https://git.example.com/c.git"}, repository},
		"/source/build_context/path":     {nil, []string{"/etc", "./site", "~", "."}},
		"/source/build_context/version":  {[]string{"main"}, nil},
		"/source/build_context/username": {[]string{"u"}, nil},
		"/source/build_context/password": {[]string{"p"}, references},
		"/source/build_context/subdir":   {[]string{"docs"}, nil},

		"/target/registry/url":      {[]string{"docker.io", "registry.example.com:5000", "https://registry.example.com"}, append(slices.DeleteFunc(urls("https://HOST"), func(s string) bool { return strings.Contains(s, "[") }), "http://registry.example.com", "HTTP://registry.example.com", "localhost:5000", "10.0.0.1:5000")},
		"/target/registry/username": {[]string{"u"}, nil},
		"/target/registry/password": {[]string{"p"}, references},
		"/target/registry/insecure": {[]string{"false"}, []string{"true"}},
		"/target/registry/ca_cert":  {nil, []string{"file:/etc/ssl/ca.pem"}},

		"/target/images/*/image":        {[]string{"shop/web"}, nil},
		"/target/images/*/tag":          {[]string{"v1"}, nil},
		"/target/images/*/base":         {[]string{"alpine:3", "registry.example.com/base:1", "shop/base"}, images},
		"/target/images/*/bases/*":      {[]string{"alpine:3"}, images},
		"/target/images/*/platforms/*":  {[]string{"linux/arm64"}, nil},
		"/target/images/*/build_args/*": {[]string{"env:HOME", "https://127.0.0.1/"}, nil},
		"/target/images/*/labels/*":     {[]string{"file:/etc/passwd"}, nil},
		"/target/images/*/stage":        {[]string{"run"}, nil},

		"/options/build_args/*":      {[]string{"1"}, nil},
		"/options/labels/*":          {[]string{"1"}, nil},
		"/options/secrets/*":         {[]string{"p", "two\nlines"}, references},
		"/options/no_cache":          {[]string{"true"}, nil},
		"/options/timeout":           {[]string{"30m"}, nil},
		"/options/compression":       {[]string{"zstd"}, nil},
		"/options/compression_level": {[]string{"3"}, nil},
		"/options/source_date_epoch": {[]string{"commit"}, nil},
		"/options/cache/mode":        {[]string{"inline"}, nil},
		"/options/cache/ref":         {[]string{"registry.example.com/cache"}, []string{"127.0.0.1:5000/cache", "localhost:5000/cache"}},
		"/options/cache/scope":       {[]string{"main"}, nil},
	}
	require.Equal(t, leaves(t), slices.Sorted(maps.Keys(cases)))
	for place, c := range cases {
		for _, value := range c.may {
			if place == "/options/build_args/*" || place == "/options/labels/*" {
				value = `"` + value + `"`
			}
			document := with(t, place, value)
			doc, problems, err := Policy{}.Read(document, "", few)
			require.NoError(t, err, "%s", document)
			require.Empty(t, problems, "%s", document)
			require.NotNil(t, doc)
		}
		for _, value := range c.mayNot {
			document := with(t, place, value)
			doc, problems, err := Policy{}.Read(document, "/build_params", few)
			require.NoError(t, err, "%s", document)
			require.Nil(t, doc, "%s", document)
			pointer := "/build_params" + strings.NewReplacer("images/*", "images/0", "/*", "/"+nameAt(place)).Replace(place)
			require.True(t, slices.ContainsFunc(problems, func(p fault.Problem) bool { return p.Pointer == pointer }), "%s: %v", document, problems)
			for _, p := range problems {
				require.NotContains(t, p.String(), "passwd")
			}
		}
	}
}

// TestPolicyAllows opens what an operator opens, and nothing beside it.
func TestPolicyAllows(t *testing.T) {
	t.Parallel()
	inside := Policy{
		Addresses:       []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("fd12::/16")},
		PlainRegistries: []string{"registry.example.com", "localhost:5000"},
	}
	for _, c := range []struct {
		policy       Policy
		place, value string
		allowed      bool
	}{
		{inside, "/source/git_repo/url", "https://10.1.2.3/a.git", true},
		{inside, "/source/git_repo/url", "https://10.2.2.3/a.git", false},
		{inside, "/source/git_repo/url", "https://[fd12::1]/a.git", true},
		{inside, "/source/git_repo/url", "https://[::1]/a.git", false},
		{inside, "/source/git_repo/url", "https://[::ffff:10.1.2.3]/a.git", true},
		{inside, "/source/git_repo/url", "file:///srv/a.git", false},
		{inside, "/target/registry/url", "localhost:5000", true},
		{inside, "/target/registry/url", "http://registry.example.com", true},
		{inside, "/target/registry/url", "http://registry.example.com:5000", false},
		{inside, "/target/registry/insecure", "true", true},
		{Policy{PlainRegistries: []string{"*"}}, "/target/registry/insecure", "true", true},
		{Policy{PlainRegistries: []string{"other.example.com"}}, "/target/registry/insecure", "true", false},
		{Policy{AnyAddress: true}, "/source/git_repo/url", "https://169.254.169.254/a.git", true},
		{Policy{AnyAddress: true}, "/source/git_repo/url", "git@git.example.com:a.git", false},
		{Policy{AnyAddress: true}, "/source/build_context/path", "/etc", false},
		{Policy{AnyAddress: true}, "/options/secrets/*", "env:HOME", false},
	} {
		_, problems, err := c.policy.Read(with(t, c.place, c.value), "", few)
		require.NoError(t, err)
		require.Equal(t, c.allowed, len(problems) == 0, "%+v: %v", c, problems)
	}
}

// TestAllProblemsAtOnce has what the schema refuses and what the policy refuses in one answer.
func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	const document = `
source:
  dockerfile: {url: "file:///srv/D"}
  build_context: {path: ./site}
target:
  registry: {url: "http://127.0.0.1:5000", username: u, password: "env:HOME", ca_cert: "file:/etc/ssl/ca.pem"}
  images: [{image: UPPER, tag: v1, base: "localhost:5000/base"}, {image: b, tag: c, platforms: [linux/amd64, linux/arm64, linux/s390x]}]
options: {secrets: {a: "file:/etc/shadow"}, timeout: soon, mode: fast}
`
	_, problems, err := Policy{}.Read([]byte(document), "", Limits{Bytes: 1 << 20, Images: 3})
	require.NoError(t, err)
	pointers := map[string]bool{}
	for _, p := range problems {
		pointers[p.Pointer] = true
	}
	require.Equal(t, []string{
		"/options/mode", "/options/secrets/a", "/options/timeout", "/source/build_context/path", "/source/dockerfile/url", "/target/images", "/target/images/0/base",
		"/target/images/0/image", "/target/registry/ca_cert", "/target/registry/password", "/target/registry/url",
	}, slices.Sorted(maps.Keys(pointers)))
	for _, p := range problems {
		require.NotContains(t, p.String(), "env:HOME")
	}
	_, problems, err = Policy{}.Read([]byte(document), "/at", Limits{Bytes: 100, Images: 3})
	require.NoError(t, err)
	require.Equal(t, []fault.Problem{{Pointer: "/at", Message: "the document is larger than 100 bytes"}}, problems)
}
