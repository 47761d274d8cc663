package command

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine/managed"
)

// TestDefaultCacheCap keeps what the host says of the engine, which it does not link, true.
func TestDefaultCacheCap(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, managed.DefaultCacheCap, defaultCacheCap)
}

func TestSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "500MB": 500_000_000, "20GB": 20_000_000_000, "20gb": 20_000_000_000, "1.5G": 1_500_000_000,
		"20GiB": 20 << 30, "512kib": 512 << 10, "1TiB": 1 << 40,
	} {
		var s Size
		require.NoError(t, s.Set(text), text)
		require.Equal(t, want, int64(s), text)
	}
	for _, text := range []string{"", "0", "-1", "-5GB", "much", "GB", "20XB", "20 potatoes", "NaN", "Inf", "1e400GB"} {
		var s Size
		require.Error(t, s.Set(text), text)
		require.Zero(t, s, text)
	}
}
