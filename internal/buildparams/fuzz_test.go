package buildparams

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/schemas"
)

// addExamples seeds a fuzz target with every document that comes with image-builder.
func addExamples(f *testing.F, add func(data []byte, name string)) {
	f.Helper()
	examples := schemas.Examples()
	require.NoError(f, fs.WalkDir(examples, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "sample-repo/") {
			return err
		}
		data, err := fs.ReadFile(examples, name)
		add(data, name)
		return err
	}))
}

// awkwardYAML is what parsers of YAML have stumbled over.
func awkwardYAML() []string {
	return []string{
		"a: &x {b: *x}", "a: &x 1\nb: *x", "&a [*a]", "- - - - 1", "? a\n: b", "? [a]\n: b", "<<: {a: 1}\na: 2", "a: |2-\n   x\n  y\n",
		"a: !!str 3.10", "!!binary aGk=", "%YAML 1.2\n---\na: 1\n", "a: 1\n---\nb: 2\n", "a: 1\na: 2", "\ta: 1", "a:\n\t- b", "{a: b, c}", "[1,,2]",
		"'it''s'", `"\u00e9\x41\U0001F600\
 x"`, "a: 'x\n\n  y'", "key with spaces: v", "a: b: c", "- a\nb: c", "a: [", "a: }", "\"a", "# only a comment", "---", "...", "a: >-\n  x\n  y\n\n  z\n",
		"a: .inf", "a: -.INF", "a: .NaN", "a: 0o17", "a: 0x1F", "a: +1", "a: 012", "a: 1_000", "a: 1e3", "a: .5", "a: 5.", "a: 12:30:45", "null: 1", "~: 1", ": 1", "a: \n  \n b: 1",
		"a: &b\n  c: 1\nd:\n  <<: *b\n", "- !a !b c", "&a &b c", "a: *nothing", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]", "a: \"\\/\"", "@a", "`a", "a: %b", "a: - b",
	}
}

// FuzzDecode looks for documents that crash the decoder, that give an error without a place, or whose decoded form is not accepted again.
func FuzzDecode(f *testing.F) {
	addExamples(f, func(data []byte, name string) { f.Add(data, name) })
	for _, s := range awkwardYAML() {
		f.Add([]byte(s), "x.yaml")
	}
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":}`, `[1,]`, `{"source":{"git_repo":null}}`, `{"a":"\u0000\ud800"}`, "{", "\xff", "\x00", `{"source":[],"target":{"images":[null,{}]}}`} {
		f.Add([]byte(s), "x.json")
		f.Add([]byte(s), "")
	}
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		doc, err := Decode(data, name)
		if err != nil {
			requireInvalid(t, err)
			return
		}
		clear, err := MarshalWithSecrets(doc)
		require.NoError(t, err)
		again, err := Decode(clear, "")
		require.NoError(t, err)
		require.Equal(t, doc, again)
		for i := range doc.Target.Images {
			require.NotEmpty(t, doc.Ref(i))
		}
		_, err = Mask(data)
		if err != nil {
			requireInvalid(t, err)
		}
	})
}

// requireInvalid demands an error as Decode and its like promise it.
func requireInvalid(t *testing.T, err error) {
	t.Helper()
	var f *fault.Error
	require.True(t, errors.As(err, &f), "%v", err)
	require.Equal(t, fault.Invalid, f.Kind)
	require.NotEmpty(t, f.Problems)
	for _, p := range f.Problems {
		require.NotEmpty(t, p.Message)
	}
}

// FuzzConvert looks for documents that do not come back from YAML as they went there.
func FuzzConvert(f *testing.F) {
	addExamples(f, func(data []byte, name string) { f.Add(data) })
	for _, s := range awkwardYAML() {
		f.Add([]byte(s))
	}
	for _, s := range awkwardStrings() {
		f.Add([]byte(jsonString(s)))
		f.Add([]byte(`{"k":[` + jsonString(s) + `],` + jsonString(s) + `:{"x":` + jsonString(s) + `}}`))
	}
	for _, s := range []string{"1e400", "-0", "0.10", "1E5", "1e-5", "123456789012345678901234567890", "[]", "{}", "[[],{}]", `[[1,[2]],{"a":[{"b":1},[]]}]`, "null", "true"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if utf8.Valid(data) {
			// The bytes as a string, as a key, and within a list and a map.
			s, list := textNode(string(data)), &node{kind: array}
			list.items = append(list.items, s, s)
			whole := &node{kind: object, members: []member{{"a", s}, {"b", list}}}
			if badKey(s.text) == "" && s.text != "a" && s.text != "b" {
				whole.put(s.text, &node{kind: array, items: []*node{clone(whole)}})
			}
			requireRoundTrip(t, whole)
			requireRoundTrip(t, s)
		}
		if n, problems := parse(data, ""); problems == nil {
			requireRoundTrip(t, n)
		}
	})
}

// requireRoundTrip writes a tree as YAML and as JSON and reads it back.
func requireRoundTrip(t *testing.T, n *node) {
	t.Helper()
	asJSON := writeJSON(n)
	asYAML := writeYAML(n)
	back, problems := parse(asYAML, "x.yaml")
	require.Empty(t, problems, "%s", asYAML)
	require.True(t, sameValues(n, back), "%s", asYAML)
	require.Equal(t, string(asYAML), string(writeYAML(back)), "the second time gives other bytes")
	again, problems := parse(asJSON, "x.json")
	require.Empty(t, problems)
	require.Equal(t, string(asJSON), string(writeJSON(again)))
	require.Equal(t, order(n), order(back))
}

// sameValues is equal, with numbers compared as YAML writes them: 1e3 is 1.0e+3.
func sameValues(a, b *node) bool {
	a, b = clone(a), clone(b)
	plainNumbers(a)
	plainNumbers(b)
	return a.equal(b)
}

func plainNumbers(n *node) {
	if n.kind == number {
		n.text = yamlNumber(n.text)
	}
	for _, item := range n.items {
		plainNumbers(item)
	}
	for _, m := range n.members {
		plainNumbers(m.value)
	}
}

// order is every key of a tree in the order of the document.
func order(n *node) []string {
	var keys []string
	for _, item := range n.items {
		keys = append(keys, order(item)...)
	}
	for _, m := range n.members {
		keys = append(append(keys, m.key), order(m.value)...)
	}
	return keys
}

// FuzzSet looks for flags that crash, that show their value in an error, or that change more than they name.
func FuzzSet(f *testing.F) {
	for _, s := range []string{
		"target.images[0].tag=v2", "target.images[1].tag=v2", "target.images[7].tag=x", `options.labels.org\.example\.x=1`, "options.no_cache=true", "options.no_cache=maybe",
		`target.images[0].platforms=["linux/arm64"]`, "source.git_repo.password=", "a", "=", "a.=b", "[0]=1", "a[=1", "a[0]b=1", `a\=b=c`, `a\`, "source=1", "target.registry.url[0]=1", "target.images[00].tag=1",
	} {
		f.Add(s)
	}
	document, err := fs.ReadFile(schemas.Examples(), "json/git.json")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, assignment string) {
		_, err := DecodeWith(document, "git.json", []string{assignment})
		if err != nil {
			requireInvalid(t, err)
		}
		name, _, ok := cutPath(assignment)
		rules, loadErr := loadRules()
		require.NoError(t, loadErr)
		n, _ := parse(document, "git.json")
		problem := rules.set(n, assignment)
		const canary = "{canary-4711"
		if ok && !strings.Contains(name, canary) {
			other, _ := parse(document, "git.json")
			if problem := rules.set(other, name+"="+canary); problem != nil {
				require.NotContains(t, problem.String(), canary)
			}
		}
		if problem == nil {
			steps, err := parsePath(name)
			require.NoError(t, err)
			var at path
			for _, s := range steps {
				at = at.with(s.text())
			}
			require.NotNil(t, find(n, at), "%v", at)
			require.True(t, slices.Equal(order(n)[:1], []string{"source"}))
		}
	})
}

// awkwardStrings are strings that some reader of YAML takes for something else when they are not quoted.
func awkwardStrings() []string {
	return []string{
		"", " ", "y", "n", "Y", "yes", "No", "on", "OFF", "true", "False", "null", "~", "Null", "1", "1.0", "3.10", "1e3", "1E+3", "0o7", "07", "0x1F", "0b1", "1_000", ".5", "5.", ".inf", "-.INF", ".nan",
		"2024-01-01", "2024-01-01T00:00:00Z", "12:30", "12:30:45", "1:2", "<<", "=", "-", "- a", "?", "? a", ":", "a: b", "a:", ":a", "a #b", "#a", "a#b", "&a", "*a", "!a", "!!str", "|", ">", "%a", "@a", "`a", "'a'", `"a"`, `a"b`, `\`, `a\nb`,
		"{a}", "[a]", "a,b", "{}", "[]", "---", "--- a", "...", "a\nb", "a\nb\n", "a\nb\n\n", "\na", "a\n\nb", " a\nb", "a\n b", "a\n\tb", "a \nb", "a\tb", "\ta", "a\r\nb", "a\rb", "\u0085", "\u2028", "\u00a0", "\ufeff", "\ufffe", "é", "日本語", "😀", "\x00", "\x1b[0m", "\x7f",
		"e3", "inf", "nan", "python:3.8-alpine", "https://example.com/a?b=c#d", "+1", "-1", "1-2", "a\n#b\n", "#a\nb", "a\n---\nb\n", "- a\n- b\n", "a: 1\nb: 2\n", "|\na", "%a\nb",
	}
}
