package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// A worker that is stopped in the middle of a claim holds the lock that all claims wait for.
func TestAFrozenClaimStopsTheOthersNotForLong(t *testing.T) {
	t.Parallel()
	s := open(t, onPostgres(testbed.Postgres(t)))
	require.NoError(t, s.Migrate(t.Context()))
	release := store.FreezeInClaim(t, s)
	defer release()
	submit(t, s, submission("a"))
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	l, err := s.Claim(ctx, "w", lease, 0)
	require.NoError(t, err)
	require.NotNil(t, l)
}
