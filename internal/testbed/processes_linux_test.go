package testbed_test

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestWatchArguments sees a process that ends soon, one that has become another program, and no process that was there no longer.
func TestWatchArguments(t *testing.T) {
	t.Parallel()
	require.NoError(t, exec.Command("sh", "-c", ":", "before").Run())
	watched := testbed.WatchArguments()
	require.NoError(t, exec.Command("sh", "-c", "sleep 0.1; :", "short").Run())
	require.NoError(t, exec.Command("sh", "-c", "sleep 0.1; exec sleep 0.2000").Run())
	time.Sleep(10 * time.Millisecond)
	all := watched.All()
	require.Contains(t, all, "sh\x00-c\x00sleep 0.1; :\x00short\x00")
	require.Contains(t, all, "sleep\x000.2000\x00")
	require.False(t, slices.Contains(all, "sh\x00-c\x00:\x00before\x00"))
}
