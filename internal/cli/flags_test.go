package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/lifecycle"
)

// TestPromises keeps what the host says of things that it does not link true.
func TestPromises(t *testing.T) {
	t.Parallel()
	require.Equal(t, lifecycle.ImageNode, imageNode)
	require.Equal(t, lifecycle.Create, create)
	require.Equal(t, lifecycle.EngineNode, engineNode)
	require.Equal(t, lifecycle.Doctor, doctor)
}
