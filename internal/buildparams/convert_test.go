package buildparams

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConvertToYAML(t *testing.T) {
	t.Parallel()
	const in = `{
  "b": {"z": 1, "a": [1.50, 1e3, -0, 1E-7, true, null, "x"]},
  "empty": [{}, [], "", {"a": {}, "b": []}],
  "nested": [[1, [2]], [{"a": 1, "b": 2}, {"c": [3]}]],
  "numbers": ["3.10", "1e3", "0o7", "0x1F", "1_000", "12:30:45", ".5", "+1", "2024-01-01"],
  "words": ["y", "No", "on", "null", "~", "True", "yes sir"],
  "plain": ["python:3.8-alpine", "https://example.com/a", "git@example.com:a/b.git", "linux/arm/v7", "/srv", "a b"],
  "quoted": ["a: b", "a #b", "- a", "*a", "&a", "é", "日本語", "tab\there", " a", "a ", "\u001b\u0085\ufeff", "https://h/?a=b#c"],
  "block": "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
  "blocks": ["a\n\n  b\n# c", "a\nb\n\n", "a \nb"],
  "1.0": 1, "yes": 2, "a: b": 3, "golang:1.13": 4
}`
	const want = `b:
  z: 1
  a:
    - 1.50
    - 1.0e+3
    - -0
    - 1.0e-7
    - true
    - null
    - x
empty:
  - {}
  - []
  - ""
  - a: {}
    b: []
nested:
  - - 1
    - - 2
  - - a: 1
      b: 2
    - c:
        - 3
numbers:
  - "3.10"
  - "1e3"
  - "0o7"
  - "0x1F"
  - "1_000"
  - "12:30:45"
  - ".5"
  - "+1"
  - "2024-01-01"
words:
  - "y"
  - "No"
  - "on"
  - "null"
  - "~"
  - "True"
  - yes sir
plain:
  - python:3.8-alpine
  - https://example.com/a
  - git@example.com:a/b.git
  - linux/arm/v7
  - /srv
  - a b
quoted:
  - "a: b"
  - "a #b"
  - "- a"
  - "*a"
  - "&a"
  - "é"
  - "日本語"
  - "tab\there"
  - " a"
  - "a "
  - "\x1b\x85\ufeff"
  - "https://h/?a=b#c"
block: |
  -----BEGIN CERTIFICATE-----
  aGVsbG8=
  -----END CERTIFICATE-----
blocks:
  - |-
    a

      b
    # c
  - "a\nb\n\n"
  - "a \nb"
"1.0": 1
"yes": 2
"a: b": 3
golang:1.13: 4
`
	got, err := Convert([]byte(in), "x.json", YAML)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	again, err := Convert(got, "x.yaml", YAML)
	require.NoError(t, err)
	require.Equal(t, want, string(again))
	back, err := Convert(got, "", JSON)
	require.NoError(t, err)
	twice, err := Convert(back, "", YAML)
	require.NoError(t, err)
	require.Equal(t, want, string(twice))
}

func TestConvertToJSON(t *testing.T) {
	t.Parallel()
	const in = "%YAML 1.2\n---\n# comment\nbase: &base\n  a: 1\n  b: [x, 'y', \"\\u00e9\"]\n" +
		"merged:\n  <<: *base\n  a: 2\nalias: *base\nnumbers: [0x1F, 0o17, +1, 007, 1., .5, 1e3, -0]\n" +
		"words: [yes, True, ~, null, , 2024-01-01, 1_000, !!str 3.10]\n1.0: key\n? long\n: value\nfolded: >-\n  a\n  b\nhtml: <a&b>\n..."
	const want = `{
  "base": {
    "a": 1,
    "b": [
      "x",
      "y",
      "é"
    ]
  },
  "merged": {
    "a": 2,
    "b": [
      "x",
      "y",
      "é"
    ]
  },
  "alias": {
    "a": 1,
    "b": [
      "x",
      "y",
      "é"
    ]
  },
  "numbers": [
    31,
    15,
    1,
    7,
    1.0,
    0.5,
    1e3,
    -0
  ],
  "words": [
    "yes",
    true,
    null,
    null,
    "2024-01-01",
    "1_000",
    "3.10"
  ],
  "1.0": "key",
  "long": "value",
  "folded": "a b",
  "html": "<a&b>"
}
`
	got, err := Convert([]byte(strings.ReplaceAll(in, ", ,", ",")), "x.yml", JSON)
	require.NoError(t, err)
	require.Equal(t, want, string(got))

	_, err = Convert([]byte("{}"), "", "toml")
	require.ErrorContains(t, err, `convert build_params: no format "toml"`)
	_, err = Convert([]byte("a: .nan"), "in.yaml", JSON)
	require.ErrorContains(t, err, "read in.yaml: 1 problem")
}

// TestStringsStayStrings holds for every reader, whatever version of YAML it reads: what is not quoted has no other meaning.
func TestStringsStayStrings(t *testing.T) {
	t.Parallel()
	for _, s := range awkwardStrings() {
		written := yamlString(s)
		if written != s {
			require.True(t, strings.HasPrefix(written, `"`), "%q", s)
			continue
		}
		require.Equal(t, &node{kind: text, text: s}, plainScalar(s), "%q", s)
		require.Regexp(t, `^[a-zA-Z/_]`, s)
		require.NotRegexp(t, `(?i)^(y|n|yes|no|on|off)$`, s)
	}
}

func TestNameAndTextTellTheFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"a.json", `{"a": 1}`, true},
		{"a.JSON", `a: 1`, false},
		{"a.yaml", `{"a": 1}`, true},
		{"a.yaml", `{"a": 1,}`, true},
		{"a.yaml", `{a: 1}`, true},
		{"a.yml", "\ufeffa: 1\r\nb: 2\r\n", true},
		{"", `{"a": 1}`, true},
		{"", `{"a": 1,}`, false},
		{"", `{a: 1}`, true},
		{"-", "a: 1", true},
		{"build_params", "---\na: 1\n...\n", true},
		{"", `[a, b]`, true},
		{"", `["a", "b"]`, true},
	} {
		_, problems := parse([]byte(c.text), c.name)
		require.Equal(t, c.ok, problems == nil, "%s %s %v", c.name, c.text, problems)
	}
}

// TestLimits makes documents that would take a parser's memory, stack or minutes of its time.
func TestLimits(t *testing.T) {
	t.Parallel()
	// fill repeats s as often as the text may be large, and less often than it is overfull.
	fill := func(s string) string { return strings.Repeat(s, min(maxSize, maxMarks/2)/len(s)) }
	for name, text := range map[string]string{
		"brackets": fill("["), "braces": fill("{"), "pairs": fill("{a: "), "dashes": fill("- "), "question marks": fill("? "), "anchors": fill("&a "), "joined anchors": fill("&"),
		"tags": fill("!a "), "aliases": fill("*a "), "colons": fill("a: "), "fields": fill("a: b\n"), "keys": fill("? a\n"), "directives": fill("%a\n"),
		"documents": fill("---\n") + "a", "JSON fields": "{" + strings.Repeat(`"a":1,`, 2*maxFields) + `"a":1}`, "JSON items": "[" + strings.Repeat(`1,`, 2*maxValues) + `1]`,
		"long key": fill("a") + ": b", "too large": strings.Repeat("a", maxSize+1), "overfull": strings.Repeat("- a\n", maxSize/4),
	} {
		start := time.Now()
		_, problems := parse([]byte(text), "x.yaml")
		require.NotEmpty(t, problems, name)
		require.Less(t, time.Since(start), time.Minute, name) // it is a second; without limits some take ten minutes
	}
	for name, text := range map[string]string{
		"certificates": "a: |\n" + strings.Repeat("  "+strings.Repeat("A", 64)+"\n", 7000),
		"many fields": func() string {
			var b strings.Builder
			for i := range maxFields {
				b.WriteString("k" + path{}.index(i)[0] + ": {a: b, c: d}\n")
			}
			return b.String()
		}(),
	} {
		_, problems := parse([]byte(text), "x.yaml")
		require.Empty(t, problems, name)
	}
}
