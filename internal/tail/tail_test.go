package tail_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/tail"
)

func TestTail(t *testing.T) {
	t.Parallel()
	var kept tail.Tail
	require.Empty(t, kept.String())
	for _, text := range []string{strings.Repeat("a", 5000), "the ", "end"} {
		n, err := kept.Write([]byte(text))
		require.NoError(t, err)
		require.Len(t, text, n)
	}
	require.Equal(t, strings.Repeat("a", 4096-len("the end"))+"the end", kept.String())
}
