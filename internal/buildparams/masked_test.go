package buildparams

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/schemas"
)

// secretPlaces finds every value of format password in the schema, by place: * is any index or any name. It reads the schema
// itself, not this package's reading of it.
func secretPlaces(t *testing.T) []string {
	t.Helper()
	var places []string
	require.NoError(t, schemas.Places(func(at string, part map[string]any, _ bool) {
		if part["format"] == "password" {
			places = append(places, at)
		}
	}))
	slices.Sort(places)
	return places
}

// TestEverySecretFieldComesBack puts a canary into every secret field of the schema: the mask hides each, SecretPointers names each, and
// WithSecrets makes the document again.
func TestEverySecretFieldComesBack(t *testing.T) {
	t.Parallel()
	places := secretPlaces(t)
	require.Equal(t, []string{
		"/options/secrets/*", "/source/build_context/password", "/source/dockerfile/password", "/source/git_repo/password", "/target/registry/password",
	}, places, "a field is secret, or is not any more: the table in docs/rest-security.md has to say so")
	for _, source := range []string{
		`git_repo: {url: "https://git.example.com/a.git", username: u, password: x}`,
		`dockerfile: {url: "https://files.example.com/D", username: u, password: x}, build_context: {url: "https://git.example.com/c.git", username: u, password: x}`,
	} {
		base := "source: {" + source + "}\ntarget: {registry: {url: registry.example.com, username: u, password: x}, images: [{image: a, tag: b, build_args: {NPM_TOKEN: x, PLAIN: y}}]}\n" +
			"options: {secrets: {one: x, a/b: x, reference: 'env:HOME', nothing: ''}, build_args: {FROM_URL: 'https://me:x@example.com/p', OTHER: ok}}\n"
		n, problems := parse([]byte(base), "x.yaml")
		require.Empty(t, problems)
		secrets := map[string]string{}
		eachText(n, nil, func(at path, n *node) {
			switch {
			case n.text == "x":
				n.text = fmt.Sprintf("canary-%d", len(secrets))
			case strings.Contains(n.text, ":x@"):
				n.text = strings.Replace(n.text, ":x@", fmt.Sprintf(":canary-%d@", len(secrets)), 1)
			default:
				return
			}
			secrets[at.pointer()] = n.text
		})
		for _, place := range places {
			at := strings.TrimSuffix(place, "/*")
			asked := slices.ContainsFunc(slices.Collect(maps.Keys(secrets)), func(pointer string) bool { return strings.HasPrefix(pointer, at) })
			require.True(t, asked || !strings.Contains(source, strings.Split(place, "/")[2]+":"), place)
		}
		document := writeJSON(n)
		_, err := Decode(document, "")
		require.NoError(t, err)

		masked, err := Mask(document)
		require.NoError(t, err)
		require.NotContains(t, string(masked), "canary")
		for _, form := range [][]byte{document, masked} {
			pointers, err := SecretPointers(form)
			require.NoError(t, err)
			require.ElementsMatch(t, slices.Collect(maps.Keys(secrets)), pointers)
		}
		again, err := WithSecrets(masked, secrets)
		require.NoError(t, err)
		require.Equal(t, string(document), string(again))
	}
}

func TestWithSecretsRefuses(t *testing.T) {
	t.Parallel()
	const masked = `{"target":{"registry":{"password":"****","insecure":true}}}`
	for _, pointer := range []string{"/target", "/target/registry/insecure", "/target/registry/nothing", "", "target", "/target/registry/password/0"} {
		_, err := WithSecrets([]byte(masked), map[string]string{pointer: "canary", "/target/registry/password": "canary"})
		require.Equal(t, fault.Invalid, fault.KindOf(err), pointer)
		require.Equal(t, []fault.Problem{{Pointer: pointer, Message: "is not a text of the document"}}, fault.As(err).Problems)
		require.NotContains(t, err.Error(), "canary")
	}
	_, err := SecretPointers([]byte("password: \"canary\n"))
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.NotContains(t, err.Error(), "canary")
}

// FuzzSecrets looks for documents whose mask loses something that cannot be put back, or whose pointers change when it is masked.
func FuzzSecrets(f *testing.F) {
	addExamples(f, func(data []byte, _ string) { f.Add(data) })
	for _, s := range []string{
		`{"password":["a",{"b":"c"}],"secrets":{"a":1}}`, `{"a":"https://u:p@h/?token=x&sig=y https://t@h"}`, "a: '-----BEGIN PRIVATE KEY-----'\n", `{"a":"****","password":"env:X"}`,
		`{"token":"http://a:b@c","x":"1://:@0"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pointers, err := SecretPointers(data)
		if err != nil {
			requireInvalid(t, err)
			return
		}
		masked, err := Mask(data)
		require.NoError(t, err)
		ofMasked, err := SecretPointers(masked)
		require.NoError(t, err)
		require.Equal(t, pointers, ofMasked)

		n, problems := parse(data, ".yaml")
		require.Empty(t, problems)
		texts, secrets := map[string]string{}, map[string]string{}
		eachText(n, nil, func(at path, n *node) { texts[at.pointer()] = n.text })
		for _, pointer := range pointers {
			value, ok := texts[pointer]
			if !ok {
				return // a number in the place of a secret, which no valid document has: it comes back as text
			}
			secrets[pointer] = value
		}
		again, err := WithSecrets(masked, secrets)
		require.NoError(t, err)
		require.Equal(t, string(writeJSON(n)), string(again))
	})
}
