package testbed_test

import (
	"sync"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

func TestEngineIsShared(t *testing.T) {
	t.Parallel()
	var addresses sync.Map
	t.Run("users", func(t *testing.T) {
		for range 3 {
			t.Run("user", func(t *testing.T) {
				t.Parallel()
				address := testbed.NewEngine(t)
				addresses.Store(address, true)
				c, err := bkclient.New(t.Context(), address)
				require.NoError(t, err)
				defer c.Close()
				workers, err := c.ListWorkers(t.Context())
				require.NoError(t, err)
				require.NotEmpty(t, workers)
			})
		}
	})
	count := 0
	addresses.Range(func(any, any) bool { count++; return true })
	require.Equal(t, 1, count)
}
