package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/secret"
)

const canary = "canary-s3cr3t"

func TestNothingShowsASecret(t *testing.T) {
	t.Parallel()
	v := secret.New(canary)
	holder := struct {
		Name     string       `json:"name"`
		Password secret.Value `json:"password"`
		Pointer  *secret.Value
		List     []secret.Value
		Map      map[string]secret.Value
		hidden   secret.Value // fmt asks no method of what is not exported
	}{"a", v, &v, []secret.Value{v}, map[string]secret.Value{"k": v}, v}

	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&out, verb+"\n", v)
		fmt.Fprintf(&out, verb+"\n", &v)
		fmt.Fprintf(&out, verb+"\n", holder)
		fmt.Fprintf(&out, verb+"\n", &holder)
	}
	fmt.Fprintln(&out, v, holder, errors.Join(fmt.Errorf("x %v", v)))
	data, err := json.Marshal(holder)
	require.NoError(t, err)
	out.Write(data)
	data, err = yaml.Marshal(holder)
	require.NoError(t, err)
	out.Write(data)
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "v", v, "holder", holder)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "v", v, "holder", holder)
	out.Write(logged.Bytes())

	table := struct{ T secret.Table }{secret.Table{"env:A": canary}}
	fmt.Fprintf(&out, "%v %+v %#v %s %v", table, table, table, table.T, &table)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "table", table.T)
	out.Write(logged.Bytes())

	require.NotContains(t, out.String(), canary)
	require.NotContains(t, out.String(), fmt.Sprintf("%x", canary))
	require.Contains(t, out.String(), secret.Mask)
	require.Empty(t, secret.New("").String(), "an absent secret is not shown as one")
}

func TestReveal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("from-file\r\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, 2<<20), 0o600))
	host := secret.Resolver{Dir: dir, LookupEnv: func(name string) (string, bool) {
		return "from-env", name == "TOKEN"
	}}
	given := host // which knows all the others, and is not asked
	given.Given = secret.Table{"file:token": "env:TOKEN"}
	tests := []struct {
		name, text, want, fails string
		resolver                secret.Resolver
	}{
		{name: "literal", text: "plain", want: "plain", resolver: host},
		{name: "environment", text: "env:TOKEN", want: "from-env", resolver: host},
		{name: "unset", text: "env:OTHER", fails: "environment variable OTHER is not set", resolver: host},
		{name: "relative file", text: "file:token", want: "from-file", resolver: host},
		{name: "absolute file", text: "file:" + filepath.Join(dir, "token"), want: "from-file", resolver: host},
		{name: "no such file", text: "file:missing", fails: "no such file", resolver: host},
		{name: "large file", text: "file:large", fails: "larger than", resolver: host},
		{name: "a stranger's environment", text: "env:TOKEN", fails: "not allowed", resolver: secret.Resolver{NoFiles: true}},
		{name: "given", text: "file:token", want: "env:TOKEN", resolver: given},
		{name: "a literal beside what is given", text: "plain", want: "plain", resolver: given},
		{name: "not given", text: "env:TOKEN", fails: "was not given", resolver: given},
		{name: "a stranger's file", text: "file:token", fails: "not allowed", resolver: secret.Resolver{NoFiles: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.resolver.Reveal(secret.New(tt.text))
			if tt.fails != "" {
				require.ErrorContains(t, err, tt.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// TestTable: what one process has looked up, another one takes, and a literal is never taken for a reference.
func TestTable(t *testing.T) {
	t.Parallel()
	found := secret.Table{}
	here := secret.Resolver{LookupEnv: func(string) (string, bool) { return "env:NOT_A_REFERENCE", true }, Found: found}
	for _, text := range []string{"env:TOKEN", "plain"} {
		_, err := here.Reveal(secret.New(text))
		require.NoError(t, err)
	}
	require.Equal(t, map[string]string{"env:TOKEN": "env:NOT_A_REFERENCE"}, map[string]string(found))
	data, err := json.Marshal(found)
	require.NoError(t, err)
	var given secret.Table
	require.NoError(t, json.Unmarshal(data, &given))
	value, err := secret.Resolver{Given: given}.Reveal(secret.New("env:TOKEN"))
	require.NoError(t, err)
	require.Equal(t, "env:NOT_A_REFERENCE", value)
}

func TestReference(t *testing.T) {
	t.Parallel()
	require.Equal(t, "env:A", secret.New("env:A").Reference())
	require.Empty(t, secret.New(canary).Reference())
	var v secret.Value
	require.NoError(t, json.Unmarshal([]byte(`"file:x"`), &v))
	require.True(t, v.IsReference())
}
