package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestExampleInDocs: the page's example is whole: it is valid and has every field that there is.
func TestExampleInDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 1)
	dir := t.TempDir()
	for _, name := range []string{"tls/site-ca.pem", "auth.json"} {
		write(t, filepath.Join(dir, name), "{}")
	}
	f, err := Load(write(t, filepath.Join(dir, "config.yaml"), blocks[0][1]))
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"engine": "managed", "engine-idle": "30m", "engine-cache-cap": "40GB", "parallel": "4",
		"state-dir": "/srv/image-builder/engine", "cache-dir": "/srv/image-builder/cache",
		"buildkit-host": "tcp://builder.example.com:1234", "buildkit-ca": filepath.Join(dir, "tls/ca.pem"),
		"buildkit-cert": filepath.Join(dir, "tls/cert.pem"), "buildkit-key": filepath.Join(dir, "tls/key.pem"),
	}, f.Flags())
	require.Equal(t, Node{
		Platforms: []string{"linux/arm64", "linux/arm/v7"}, Address: "tcp://builder-arm.example.com:1234",
		CA: filepath.Join(dir, "tls/ca.pem"), Cert: filepath.Join(dir, "tls/cert.pem"), Key: filepath.Join(dir, "tls/key.pem"),
	}, f.Nodes[0])
	settings := f.RegistrySettings()
	require.Equal(t, []string{"mirror.example.com:5000", "https://harbor.example.com/docker-hub"}, settings["docker.io"].Mirrors)
	require.Equal(t, filepath.Join(dir, "tls/site-ca.pem"), settings["harbor.example.com"].CA)
	require.Equal(t, filepath.Join(dir, "auth.json"), settings["harbor.example.com"].Credentials)
	require.True(t, settings["mirror.example.com:5000"].PlainHTTP)
	require.True(t, settings["lab.example.com"].Insecure)
	for name, field := range Fields() {
		require.Contains(t, string(page), "`--"+strings.TrimSuffix(strings.TrimSuffix(name, "-cert"), "-key"), field)
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, says string }{
		{"unknown field", "engine: auto\nregistrys: {}\n", "config.yaml:2:1: unknown field"},
		{"unknown field below", "registries:\n  docker.io:\n    mirror: a\n", "config.yaml:3:5: unknown field"},
		{"another type", "parallel: many\n", "config.yaml:1:11: "},
		{"twice", "engine: auto\nengine: managed\n", "config.yaml:2:1: "},
		{"no YAML", "engine: [\n", "config.yaml:1:"},
		{"two documents", "engine: auto\n---\nengine: auto\n", "second document"},
		{"idle", "engine_idle: soon\n", "/engine_idle: it is a time"},
		{"negative", "parallel: -1\nengine_idle: -1s\n", "/parallel: it is negative"},
		{"key alone", "buildkit: {key: k.pem}\n", "/buildkit: cert and key go together"},
		{"node of nothing", "nodes: [{address: \"tcp://a:1\"}]\n", "/nodes/0/platforms: "},
		{"node without address", "nodes: [{platforms: [linux/arm64]}]\n", "/nodes/0/address: "},
		{"URL for a registry", "registries: {\"https://a.example.com\": {}}\n", "/registries/https:~1~1a.example.com: "},
		{"path for a registry", "registries: {a.example.com/b: {}}\n", "no host of a registry"},
		{"mirror", "registries: {docker.io: {mirrors: [\"ftp://a\"]}}\n", "/registries/docker.io/mirrors/0: "},
		{"password in a mirror", "registries: {docker.io: {mirrors: [\"https://u:p@a\"]}}\n", "/registries/docker.io/mirrors/0: "},
		{"missing CA", "registries: {docker.io: {ca: none.pem}}\n", "/registries/docker.io/ca: "},
		{"folder for credentials", "registries: {docker.io: {credentials: .}}\n", "is a folder"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(write(t, filepath.Join(t.TempDir(), "config.yaml"), tt.text))
			require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
			require.ErrorContains(t, err, tt.says)
			require.NotContains(t, err.Error(), "u:p@")
		})
	}
}

func TestEmptyFiles(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# nothing\n", "---\n"} {
		f, err := Load(write(t, filepath.Join(t.TempDir(), "config.yaml"), text))
		require.NoError(t, err, "%q", text)
		require.Empty(t, f.Flags())
		require.Nil(t, f.RegistrySettings())
	}
	f, err := Load("")
	require.NoError(t, err)
	require.Empty(t, f.Flags())
}

func TestFind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	home := write(t, filepath.Join(dir, "home", ".config", "image-builder", "config.yaml"), "")
	xdg := write(t, filepath.Join(dir, "xdg", "image-builder", "config.yaml"), "")
	environment := func(values map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	}
	tests := []struct {
		name, explicit string
		values         map[string]string
		want           string
	}{
		{"the explicit one, there or not", filepath.Join(dir, "other.yaml"), map[string]string{"HOME": filepath.Join(dir, "home")}, filepath.Join(dir, "other.yaml")},
		{"XDG_CONFIG_HOME", "", map[string]string{"HOME": filepath.Join(dir, "home"), "XDG_CONFIG_HOME": filepath.Join(dir, "xdg")}, xdg},
		{"home", "", map[string]string{"HOME": filepath.Join(dir, "home")}, home},
		{"a relative XDG_CONFIG_HOME counts for nothing", "", map[string]string{"HOME": filepath.Join(dir, "home"), "XDG_CONFIG_HOME": "xdg"}, home},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Find(tt.explicit, environment(tt.values))
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
	_, err := Load(filepath.Join(dir, "none.yaml"))
	require.Equal(t, fault.Invalid, fault.KindOf(err))
}
