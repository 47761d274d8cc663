package buildparams_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
)

func TestRegistryHost(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]struct {
		host  string
		plain bool
	}{
		"docker.io":                         {"docker.io", false},
		"https://docker.io":                 {"docker.io", false},
		"index.docker.io":                   {"docker.io", false},
		"https://index.docker.io/v1/":       {"docker.io", false},
		"registry-1.docker.io":              {"docker.io", false},
		"localhost":                         {"localhost", false},
		"localhost:5000":                    {"localhost:5000", false},
		"127.0.0.1:5000":                    {"127.0.0.1:5000", false},
		"[::1]:5000":                        {"[::1]:5000", false},
		"http://localhost:5000/":            {"localhost:5000", true},
		"HTTP://Registry.Example.com/v2/":   {"registry.example.com", true},
		"https://registry.example.com:8443": {"registry.example.com:8443", false},
		"registry:5000":                     {"registry:5000", false},
		"http://registry":                   {"registry:80", true},
		"https://registry":                  {"registry:443", false},
		"ghcr.io":                           {"ghcr.io", false},
		"registry":                          {"", false},
		"a/b":                               {"", false},
		"":                                  {"", false},
	} {
		r := buildparams.Registry{URL: url}
		require.Equal(t, want.host, r.Host(), url)
		require.Equal(t, want.plain, r.PlainHTTP(), url)
	}
}

func TestRef(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ registry, image, repository, ref string }{
		{"docker.io", "shop/web", "docker.io/shop/web", "docker.io/shop/web:v1"},
		{"https://index.docker.io/v1/", "web", "docker.io/library/web", "docker.io/library/web:v1"},
		{"localhost:5000", "web", "localhost:5000/web", "localhost:5000/web:v1"},
		{"https://Registry.example.com", "a/b/c", "registry.example.com/a/b/c", "registry.example.com/a/b/c:v1"},
		{"http://registry", "web", "registry:80/web", "registry:80/web:v1"},
	} {
		doc := &buildparams.Document{Target: buildparams.Target{
			Registry: buildparams.Registry{URL: c.registry},
			Images:   []buildparams.Image{{Image: c.image, Tag: "v1"}},
		}}
		require.Equal(t, c.repository, doc.Repository(0))
		require.Equal(t, c.ref, doc.Ref(0))
	}
}
