package buildparams_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

// certificate is a certificate authority's own, in PEM.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// canary is in every literal secret of secretive.
const canary = "canary-4711"

const secretive = `
source:
  dockerfile: {url: "https://files.example.com/D", username: a, password: canary-4711-dockerfile}
  build_context: {url: "https://git.example.com/c.git", username: b, password: canary-4711-context}
target:
  registry: {url: registry.example.com, username: c, password: canary-4711-registry, ca_cert: "file:ca.pem"}
  images: [{image: shop/web, tag: v1}]
options:
  secrets: {literal: canary-4711-secret, a/b: "env:TOKEN", file: "file:token", empty: "env:EMPTY"}
  timeout: 1h30m
`

func resolver(t *testing.T, env map[string]string, files map[string]string) secret.Resolver {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return secret.Resolver{Dir: dir, LookupEnv: func(name string) (string, bool) { s, ok := env[name]; return s, ok }}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	doc, err := buildparams.Decode([]byte(secretive), "")
	require.NoError(t, err)
	cert := certificate(t)
	got, err := buildparams.Resolve(doc, resolver(t,
		map[string]string{"TOKEN": "from the environment", "EMPTY": ""}, map[string]string{"ca.pem": cert, "token": "two\nlines\n"}))
	require.NoError(t, err)
	require.Equal(t, []string{"", canary + "-dockerfile", canary + "-context", canary + "-registry"},
		[]string{got.GitPassword, got.DockerfilePassword, got.ContextPassword, got.RegistryPassword})
	require.Equal(t, cert, string(got.CACert))
	require.Equal(t, map[string][]byte{
		"literal": []byte(canary + "-secret"), "a/b": []byte("from the environment"), "file": []byte("two\nlines"), "empty": {},
	}, got.Secrets)
}

func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	doc, err := buildparams.Decode([]byte(secretive), "")
	require.NoError(t, err)
	doc.Options.Secrets = map[string]secret.Value{"a": secret.New(canary)}
	doc.Target.Registry.CACert = ""
	revealed, err := buildparams.Resolve(doc, secret.Resolver{})
	require.NoError(t, err)
	encoded, err := json.Marshal(doc)
	require.NoError(t, err)
	encodedRevealed, err := json.Marshal(revealed)
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "doc", doc, "revealed", revealed, "value", *revealed)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "doc", doc, "revealed", revealed, "value", *revealed)
	shown := []string{string(encoded), string(encodedRevealed), log.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{
			doc, *doc, []any{doc}, struct{ D *buildparams.Document }{doc}, doc.Source, doc.Source.Dockerfile, *doc.Source.Dockerfile, *doc.Source.BuildContext,
			buildparams.GitRepo{Password: secret.New(canary)}, doc.Target, doc.Target.Registry, doc.Options, revealed, *revealed,
		} {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
	}
	for _, s := range shown {
		require.NotContains(t, s, canary)
		require.NotContains(t, s, fmt.Sprintf("%x", canary))
	}
	clear, err := buildparams.MarshalWithSecrets(doc)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(string(clear), canary))
}

func TestResolveTellsAllThatIsMissing(t *testing.T) {
	t.Parallel()
	doc, err := buildparams.Decode([]byte(secretive), "")
	require.NoError(t, err)
	doc.Source.Dockerfile.Password = secret.New("env:EMPTY")
	doc.Source.BuildContext.Password = secret.New("file:two-lines")
	doc.Target.Registry.Password = secret.New("file:nowhere")
	r := resolver(t, map[string]string{"EMPTY": ""}, map[string]string{"ca.pem": "no certificate", "two-lines": canary + "\nb\n"})
	_, err = buildparams.Resolve(doc, r)
	var f *fault.Error
	require.True(t, errors.As(err, &f))
	require.Equal(t, fault.Invalid, f.Kind)
	var lines []string
	for _, p := range f.Problems {
		lines = append(lines, strings.ReplaceAll(p.Pointer+": "+p.Message, r.Dir, "DIR"))
	}
	require.Equal(t, []string{
		"/source/dockerfile/password: env:EMPTY is empty",
		"/source/build_context/password: file:two-lines holds a line break or another control character",
		"/target/registry/password: open DIR/nowhere: no such file or directory",
		"/options/secrets/a~1b: environment variable TOKEN is not set",
		"/options/secrets/file: open DIR/token: no such file or directory",
		"/target/registry/ca_cert: ca.pem holds no certificate in PEM form",
	}, lines)
	require.NotContains(t, f.Error(), canary)

	_, err = buildparams.Resolve(doc, secret.Resolver{NoFiles: true})
	require.ErrorContains(t, err, "env: references are not allowed here")
	require.ErrorContains(t, err, "/target/registry/ca_cert: file: references are not allowed here")
}

func TestMarshalWithSecretsComesBack(t *testing.T) {
	t.Parallel()
	documents := map[string]string{"secretive": secretive}
	for _, name := range seedNames() {
		documents[name] = string(example(t, "json/"+name+".json"))
	}
	for name, text := range documents {
		doc, err := buildparams.Decode([]byte(text), "")
		require.NoError(t, err, name)
		clear, err := buildparams.MarshalWithSecrets(doc)
		require.NoError(t, err, name)
		again, err := buildparams.Decode(clear, "")
		require.NoError(t, err, name)
		require.Equal(t, doc, again, name)
		require.NotContains(t, string(clear), secret.Mask)
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"every secret field": {
			`{"source":{"git_repo":{"password":"x1"},"dockerfile":{"password":"x2"},"build_context":{"password":"x3"}},"target":{"registry":{"username":"me","password":"x4"}},"options":{"secrets":{"a":"x5","b":"env:B","c":""}}}`,
			`{"source":{"git_repo":{"password":"****"},"dockerfile":{"password":"****"},"build_context":{"password":"****"}},"target":{"registry":{"username":"me","password":"****"}},"options":{"secrets":{"a":"****","b":"env:B","c":""}}}`,
		},
		"wrong types":       {`{"target":{"registry":{"password":12345}},"options":{"secrets":["x",{"y":["z"]}]}}`, `{"target":{"registry":{"password":"****"}},"options":{"secrets":["****",{"y":["****"]}]}}`},
		"misspelled":        {`{"target":{"registry":{"passwrod":"x","Password":"y","api_token":"z"}}}`, `{"target":{"registry":{"passwrod":"****","Password":"****","api_token":"****"}}}`},
		"another place":     {`{"registry":{"password":"x"},"secrets":{"a":"b"}}`, `{"registry":{"password":"****"},"secrets":{"a":"****"}}`},
		"build arguments":   {`{"options":{"build_args":{"NPM_TOKEN":"x","VERSION":"1"}}}`, `{"options":{"build_args":{"NPM_TOKEN":"****","VERSION":"1"}}}`},
		"references":        {`{"target":{"registry":{"password":"file:/run/secrets/x"}}}`, `{"target":{"registry":{"password":"file:/run/secrets/x"}}}`},
		"URLs":              {`{"source":{"git_repo":{"url":"https://me:x@git.example.com/a@b"}},"a":["https://tok@h/x","ssh://git@h/x","git@h:x","https://h/x"]}`, `{"source":{"git_repo":{"url":"https://me:****@git.example.com/a@b"}},"a":["https://****@h/x","ssh://git@h/x","git@h:x","https://h/x"]}`},
		"broken URLs":       {`["https://me:x/y@git.example.com/a","https://me:x%zz@h","https://h/a?private_token=x&ref=main&X-Amz-Signature=y"]`, `["https://me:****@git.example.com/a","https://me:****@h","https://h/a?private_token=****&ref=main&X-Amz-Signature=****"]`},
		"private key":       {`{"target":{"registry":{"ca_cert":"-----BEGIN PRIVATE KEY-----\nx"}}}`, `{"target":{"registry":{"ca_cert":"****"}}}`},
		"YAML":              {"source: {git_repo: {password: x}}\n", `{"source":{"git_repo":{"password":"****"}}}`},
		"ordinary document": {`{"source":{"git_repo":{"url":"https://h/a","version":"main"}},"target":{"images":[{"image":"a","tag":1}]}}`, `{"source":{"git_repo":{"url":"https://h/a","version":"main"}},"target":{"images":[{"image":"a","tag":1}]}}`},
	} {
		got, err := buildparams.Mask([]byte(c.in))
		require.NoError(t, err, name)
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, got), name)
		require.Equal(t, c.want, compact.String(), name)
	}
	_, err := buildparams.Mask([]byte("password: \"hunter2\n"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}
