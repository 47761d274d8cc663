//go:build soak

package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSilentStepOfFiveMinutes is TestSilentStepIsNoCut with a step that compiles something large without a word.
func TestSilentStepOfFiveMinutes(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, "build", quietVariable+"=300")
	require.Empty(t, got.Kind, got.Message)
}
