package queue

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMaskFindsEveryForm has secrets as errors, results and displays show them: indented line by line, and escaped.
func TestMaskFindsEveryForm(t *testing.T) {
	t.Parallel()
	const pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n"
	const odd = `p"a&s\s<w>ord`
	document, err := json.Marshal(map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": "https://ghp_token-of-mine@git.example.com/a.git"}},
		"target": map[string]any{
			"registry": map[string]any{"url": "registry.example.com", "username": "u", "password": odd},
			"images":   []any{map[string]any{"image": "a", "tag": "b"}}},
		"options": map[string]any{"secrets": map[string]any{"key": pem}},
	})
	require.NoError(t, err)
	m, err := maskOf(document)
	require.NoError(t, err)
	indented := "exit code: 1\n    " + strings.ReplaceAll(pem, "\n", "\n    ")
	inResult, err := json.Marshal(map[string]string{"error": indented + odd + " ghp_token-of-mine"})
	require.NoError(t, err)
	for _, text := range []string{indented, odd, "https://ghp_token-of-mine@git.example.com/a.git", string(inResult)} {
		clean := m.text(text)
		for _, part := range []string{"MIIEvQIBADANBgkq", "BKcwggSjAgEAAoIB", "ghp_token", `a&s`, `a\u0026s`} {
			require.NotContains(t, clean, part)
		}
	}
	require.True(t, json.Valid(m.bytes(inResult)))
	require.Contains(t, m.text(indented), "exit code: 1")
}
