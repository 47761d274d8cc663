package buildparams_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

// badDocument is a document with something wrong in it: a whole one, or what is put into a good one.
type badDocument struct {
	name     string
	file     string // whose name the document has; none is YAML
	whole    string
	git      string // replaces the url line under git_repo
	source   string // replaces the source
	registry string // replaces the url line under registry
	image    string // is added to the only image
	images   string // replaces the images
	rest     string // is added at the end
}

func (b badDocument) text() string {
	if b.whole != "" {
		return b.whole
	}
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	lines := func(indent, s string) string {
		return indent + strings.ReplaceAll(s, "\n", "\n"+indent) + "\n"
	}
	s := "source:\n" + or(b.source, "  git_repo:\n"+lines("    ", or(b.git, "url: https://git.example.com/shop/web.git")))
	s += "target:\n  registry:\n" + lines("    ", or(b.registry, "url: registry.example.com"))
	s += "  images:\n"
	switch {
	case b.images != "":
		s += lines("    ", b.images)
	case b.image != "":
		s += lines("      ", b.image)
		s = strings.Replace(s, "  images:\n      ", "  images:\n    - ", 1)
		s += "      image: shop/web\n      tag: v1\n"
	default:
		s += "    - image: shop/web\n      tag: v1\n"
	}
	return s + b.rest
}

const goodURL = "url: https://git.example.com/shop/web.git\n"

func badDocuments() []badDocument {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	laughs := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'h'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 9), c-1)
	}
	return []badDocument{
		// Text that is no document.
		{name: "empty", whole: " \n"},
		{name: "only a comment", whole: "# nothing\n"},
		{name: "binary", whole: "\x7fELF\x02\x01\x00\x00"},
		{name: "not UTF-8", whole: "source:\n  git_repo: {url: 'caf\xe9'}\n"},
		{name: "UTF-16", whole: "\xff\xfes\x00o\x00"},
		{name: "a list", whole: "- source\n- target\n"},
		{name: "a word", whole: "build\n"},
		{name: "two documents", whole: "a: 1\n---\nb: 2\n"},
		{name: "too deep JSON", file: "x.json", whole: deep},
		{name: "too deep YAML", whole: "a: " + deep},
		{name: "billion laughs", whole: laughs},
		{name: "alias in itself", whole: "source: &a\n  git_repo: *a\n"},
		{name: "unknown alias", whole: "source: *nothing\n"},
		{name: "infinity", whole: "source: .inf\n"},
		{name: "unknown tag", whole: "source: !vault abc\n"},
		{name: "key that is a list", whole: "? [a, b]\n: c\n"},
		// Syntax.
		{name: "JSON without a comma", file: "x.json", whole: "{\n  \"source\": {\n    \"dockerfile\": {\n      \"url\": \"https://files.example.com/Dockerfile\"\n      \"username\": \"me\"\n    }\n  }\n}\n"},
		{name: "JSON without a comma in YAML", file: "x.yaml", whole: "{\n  \"source\": {\n    \"dockerfile\": {\n      \"url\": \"https://files.example.com/Dockerfile\"\n      \"username\": \"me\"\n    }\n  }\n}\n"},
		{name: "JSON with a comma too many", file: "x.json", whole: "{\n  \"source\": {},\n}\n"},
		{name: "JSON list with a comma too many", file: "x.json", whole: "{\"a\": [1, 2,]}\n"},
		{name: "JSON list without a comma", file: "x.json", whole: "{\"a\": [\"é\" \"b\"]}\n"},
		{name: "JSON cut off", file: "x.json", whole: "{\n  \"source\": {"},
		{name: "two JSON documents", file: "x.json", whole: "{}\n{}\n"},
		{name: "JSON line break in a string", file: "x.json", whole: "{\"a\": \"b\nc\"}"},
		{name: "JSON comment", file: "x.json", whole: "{\n  // why\n  \"a\": 1\n}"},
		{name: "YAML in a .json", file: "x.json", whole: "source:\n"},
		{name: "YAML tab", whole: "source:\n\tgit_repo: {}\n"},
		{name: "YAML quote", whole: "source:\n  git_repo: \"abc\n"},
		{name: "YAML colons", whole: "source: git_repo: url\n"},
		{name: "YAML bracket", whole: "source: [a, b\ntarget: c\n"},
		{name: "YAML indentation", whole: "source:\n    git_repo: {}\n  target: {}\n"},
		{name: "JSON duplicate keys", file: "x.json", whole: "{\"source\": {\"git_repo\": {\"url\": \"https://a.example.com/b\",\n \"url\": \"https://a.example.com/c\"}}, \"source\": 1}"},
		{name: "YAML duplicate keys", whole: "source:\n  git_repo:\n    url: https://a.example.com/b\n    url: https://a.example.com/c\nsource: 1\n"},
		// Fields.
		{name: "nothing there", whole: "{}\n"},
		{name: "all absent", whole: "source: null\ntarget: \"\"\n"},
		{name: "misspelled fields", git: "uri: https://git.example.com/a.git\nworkDir: .\nDockerfile: D\npasswrod: hunter2", rest: "option: {}\n"},
		{name: "field in the wrong place", image: "timeout: 5m\ninsecure: true", rest: "platforms: [linux/amd64]\n"},
		{name: "number for a tag", images: "- image: shop/web\n  tag: 3.10"},
		{name: "numbers for text", git: goodURL + "version: 0123456\npassword: 12345678", image: "stage: 1e3\nbuild_args: {DEBUG: true, N: 0x1F}"},
		{name: "JSON number for a tag", file: "x.json", whole: `{"source": {"git_repo": {"url": "https://git.example.com/a.git"}}, "target": {"registry": {"url": "docker.io"}, "images": [{"image": "a/b", "tag": 1.20}]}}`},
		{name: "text for a boolean", rest: "options:\n  no_cache: yes\n"},
		{name: "text for a list", image: "platforms: linux/amd64"},
		{name: "map for a list", images: "image: shop/web\ntag: v1"},
		{name: "text for a map", source: "  git_repo: https://git.example.com/a.git\n", rest: "options:\n  build_args: A=1\n"},
		{name: "no images", images: "[]"},
		{name: "null in a list", images: "- null\n- image: a/b\n  tag: c"},
		{name: "no platforms", image: "platforms: []"},
		// Source.
		{name: "no source", source: "  {}\n"},
		{name: "both sources", source: "  git_repo: {url: 'https://git.example.com/a.git'}\n  dockerfile: {url: 'https://files.example.com/D'}\n"},
		{name: "context with a repository", source: "  git_repo: {url: 'https://git.example.com/a.git'}\n  build_context: {path: .}\n"},
		{name: "context alone", source: "  build_context: {path: .}\n"},
		{name: "context with both", source: "  dockerfile: {url: 'https://files.example.com/D'}\n  build_context: {path: ., url: 'https://git.example.com/a.git'}\n"},
		{name: "context with neither", source: "  dockerfile: {url: 'https://files.example.com/D'}\n  build_context: {subdir: a}\n"},
		{name: "path with a version", source: "  dockerfile: {url: 'https://files.example.com/D'}\n  build_context: {path: ., version: main, username: u, password: p}\n"},
		{name: "path that is a URL", source: "  dockerfile: {url: 'https://files.example.com/D'}\n  build_context: {path: 'https://git.example.com/a.git'}\n"},
		{name: "git scheme", git: "url: git://git.example.com/a.git"},
		{name: "ftp scheme", git: "url: ftp://git.example.com/a.git"},
		{name: "no scheme", git: "url: git.example.com/shop/web"},
		{name: "a path for a URL", git: "url: /srv/git/web.git"},
		{name: "no host", git: "url: https:///a.git"},
		{name: "no repository", git: "url: https://git.example.com/"},
		{name: "remote file", git: "url: file://server/a.git"},
		{name: "fragment", git: "url: 'https://git.example.com/a.git#main'"},
		{name: "query", git: "url: 'https://git.example.com/a.git?private_token=hunter2'"},
		{name: "password in the URL", git: "url: https://me:hunter2@git.example.com/a.git"},
		{name: "token in the URL", git: "url: https://hunter2@git.example.com/a.git"},
		{name: "awkward password in the URL", git: "url: https://me:hunter2/%zz@git.example.com/a.git"},
		{name: "password in an ssh URL", git: "url: ssh://git:hunter2@git.example.com/a.git"},
		{name: "Dockerfile by ssh", source: "  dockerfile: {url: 'ssh://git@git.example.com/D'}\n"},
		{name: "Dockerfile by path", source: "  dockerfile: {url: ./Dockerfile}\n"},
		{name: "Dockerfile without a path", source: "  dockerfile: {url: 'file:///'}\n"},
		{name: "Dockerfile with a password in the URL", source: "  dockerfile: {url: 'https://me:hunter2@files.example.com/D'}\n"},
		{name: "password without username", git: goodURL + "password: hunter2", registry: "url: docker.io\npassword: hunter2"},
		{name: "username without password", git: goodURL + "username: me", registry: "url: docker.io\nusername: me"},
		{name: "awkward credentials", git: goodURL + "username: |\n  me\npassword: |\n  hunter2", registry: "url: docker.io\nusername: 'me:hunter2'\npassword: 'env:NOT A NAME'"},
		{name: "references to nothing", git: goodURL + "username: me\npassword: 'env:'", registry: "url: docker.io\nusername: me\npassword: 'file:'"},
		{name: "absolute paths", git: goodURL + "workdir: /\ndockerfile: /etc/passwd"},
		{name: "paths that leave", git: goodURL + "workdir: a/../../b\ndockerfile: ../Dockerfile"},
		{name: "context path that leaves", source: "  dockerfile: {url: 'https://files.example.com/D'}\n  build_context: {path: ., subdir: '..'}\n"},
		{name: "awkward paths", git: goodURL + "workdir: 'a\\b'\ndockerfile: \"docker/\\0file\""},
		{name: "Dockerfile is a folder", git: goodURL + "dockerfile: docker/"},
		{name: "version with a space", git: goodURL + "version: my branch"},
		{name: "version that is an option", git: goodURL + "version: --upload-pack=x"},
		// Registry.
		{name: "registry scheme", registry: "url: oci://registry.example.com"},
		{name: "registry with a path", registry: "url: https://registry.example.com/shop"},
		{name: "registry with a password", registry: "url: https://me:hunter2@registry.example.com"},
		{name: "registry without a point", registry: "url: registry"},
		{name: "registry with an odd port", registry: "url: registry.example.com:99999"},
		{name: "registry with a space", registry: "url: my registry"},
		{name: "certificate that is none", registry: "url: registry.example.com\nca_cert: /etc/ssl/ca.pem"},
		{name: "certificate by env", registry: "url: registry.example.com\nca_cert: env:CA"},
		{name: "certificate of nowhere", registry: "url: registry.example.com\nca_cert: 'file:'"},
		{name: "certificate that is broken", registry: "url: registry.example.com\nca_cert: |\n  -----BEGIN CERTIFICATE-----\n  aGVsbG8=\n  -----END CERTIFICATE-----"},
		{name: "private key for a certificate", registry: "url: registry.example.com\nca_cert: |\n  -----BEGIN PRIVATE KEY-----\n  aGVsbG8=\n  -----END PRIVATE KEY-----"},
		// Images.
		{name: "capital letters", images: "- image: Shop/Web\n  tag: V1"},
		{name: "tag in the name", images: "- image: shop/web:v1\n  tag: v1"},
		{name: "digest in the name", images: "- image: shop/web@sha256:aaaa\n  tag: v1"},
		{name: "registry in the name", images: "- image: registry.example.com/shop/web\n  tag: v1"},
		{name: "scheme in the name", images: "- image: https://registry.example.com/shop/web\n  tag: v1"},
		{name: "bad names", images: "- image: /shop/web\n  tag: v1\n- image: shop//web\n  tag: v1\n- image: 'shop web'\n  tag: v1\n- image: shop/-web\n  tag: v1"},
		{name: "long name", images: "- image: " + strings.Repeat("a", 256) + "\n  tag: v1"},
		{name: "bad tags", images: "- image: a\n  tag: -v1\n- image: b\n  tag: 'v 1'\n- image: c\n  tag: a/b\n- image: d\n  tag: " + strings.Repeat("a", 129) + "\n- image: e"},
		{name: "the same twice", images: "- image: shop/web\n  tag: v1\n- image: shop/web\n  tag: v2\n- image: shop/web\n  tag: v1\n  base: alpine\n- image: shop/web\n  tag: v1"},
		{name: "bad bases", image: "base: Alpine\nbases: {scratch: alpine, alpine: scratch, 'UP CASE': 'a b', golang: 'https://registry.example.com/go'}"},
		{name: "bad platforms", image: "platforms: [amd64, linux, linux/amd46, linuks/amd64, linux/arm/v9, linux/*, '', a/b/c/d, x86]"},
		{name: "the same platform twice", image: "platforms: [linux/arm64, linux/arm/v7, linux/aarch64, linux/arm64/v8, linux/arm]"},
		{name: "bad stage", image: "stage: 'my stage'"},
		{name: "bad names of arguments and labels", image: "build_args: {1A: x, 'A-B': x, OK: ''}\nlabels: {'': x, 'a b': y, ok: ''}"},
		// Options.
		{name: "bad timeouts", rest: "options:\n  timeout: 30\n"},
		{name: "timeout without a unit", rest: "options:\n  timeout: '30'\n"},
		{name: "negative timeout", rest: "options:\n  timeout: -5m\n"},
		{name: "bad secrets", rest: "options:\n  secrets:\n    a b: hunter2\n    'a,b': hunter2\n    c: 'env:'\n    d: 5\n"},
		{name: "everything at once", whole: "source:\n  git_repo: {url: 'ftp://x/y', workdir: ../.., branch: main}\n  build_context: {}\ntarget:\n  registry: {url: a/b/c, insecure: maybe}\n  images:\n  - {image: A, tag: 'a b', platforms: [amd64]}\n  - {tag: 1.0, bases: [alpine]}\noptions: {timeout: soon, nocache: true}\n"},
	}
}

// TestBadDocuments compares every problem of every document with testdata/bad.golden.
func TestBadDocuments(t *testing.T) {
	t.Parallel()
	const golden = "testdata/bad.golden"
	var got strings.Builder
	documents := badDocuments()
	require.GreaterOrEqual(t, len(documents), 70)
	for _, b := range documents {
		file := b.file
		if file == "" {
			file = "x.yaml"
		}
		_, err := buildparams.Decode([]byte(b.text()), file)
		var f *fault.Error
		require.True(t, errors.As(err, &f), "%s: %v\n%s", b.name, err, b.text())
		require.Equal(t, fault.Invalid, f.Kind, b.name)
		require.NotContains(t, f.Error(), "hunter2", b.name)
		require.NotEmpty(t, f.Problems, b.name)
		fmt.Fprintf(&got, "== %s\n", b.name)
		for _, p := range f.Problems {
			fmt.Fprintf(&got, "%s\n    %s\n", strings.TrimSpace("pointer "+p.Pointer), p.Message)
			if p.Hint != "" {
				fmt.Fprintf(&got, "    → %s\n", p.Hint)
			}
		}
	}
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), got.String())
}
