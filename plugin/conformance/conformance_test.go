package conformance_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/plugin"
	"imagebuilder/plugin/conformance"
)

// build compiles a plugin from a package or a file.
func build(t *testing.T, what string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin")
	out, err := exec.Command("go", "build", "-o", path, what).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

func TestExamplePlugin(t *testing.T) {
	t.Parallel()
	ask := func(operation, inputs string) plugin.Request {
		return plugin.Request{NodeType: "example.nodes.Echo", Operation: operation, Inputs: json.RawMessage(inputs)}
	}
	conformance.Run(t, build(t, "../internal/exampleplugin"), conformance.Config{
		Samples: []conformance.Sample{
			{Name: "echo", Request: ask("echo", `{"text": "hello"}`)},
			{Name: "echo of nothing", Request: ask("echo", `{}`)},
			{Name: "a wrong field", Request: ask("echo", `{"txt": ""}`), Fails: plugin.Invalid},
			{Name: "a failure", Request: ask("fail", `{"kind": "build_failed", "text": "no"}`), Fails: plugin.BuildFailed},
		},
		Slow: ask("slow", `{}`),
	})
}

// The page that tells how to write a plugin holds one, whole. It is compiled and tested here.
func TestPluginInTheDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/plugins.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(page), "```go\n")
	require.True(t, found)
	code, _, _ = strings.Cut(code, "```\n")
	source := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(source, []byte(code), 0o600))

	ask := func(inputs string) plugin.Request {
		return plugin.Request{NodeType: "example.nodes.Greeting", Operation: "create", Inputs: json.RawMessage(inputs)}
	}
	file := filepath.Join(t.TempDir(), "greeting.txt")
	conformance.Run(t, build(t, source), conformance.Config{
		Samples: []conformance.Sample{
			{Name: "a greeting", Request: ask(fmt.Sprintf(`{"file": %q, "name": "you"}`, file))},
			{Name: "no name", Request: ask(fmt.Sprintf(`{"file": %q, "name": ""}`, file)), Fails: plugin.Invalid, Pointer: "/name"},
			{Name: "no folder", Request: ask(fmt.Sprintf(`{"file": %q, "name": "you"}`, filepath.Join(filepath.Dir(file), "none", "x"))), Fails: plugin.NotFound},
		},
		Slow: ask(fmt.Sprintf(`{"file": %q, "name": "you", "every": "1h"}`, file+"2")),
	})
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "Hello, you!\n", string(text))
	require.NoFileExists(t, file+"2", "what was cancelled is removed")
}
