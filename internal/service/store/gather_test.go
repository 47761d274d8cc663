package store_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

// TestGatheredReads has many look at many invocations at once, some of which are not there: each gets its own.
func TestGatheredReads(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		var ids []string
		for range 20 {
			inv, _, err := s.Submit(t.Context(), store.Submission{ID: newID(), Subject: "a", BuildParams: []byte(`{}`)})
			require.NoError(t, err)
			ids = append(ids, inv.ID)
		}
		var all sync.WaitGroup
		for n := range 400 {
			all.Go(func() {
				id := ids[n%len(ids)]
				if n%10 == 9 {
					_, err := s.Get(t.Context(), newID())
					if err == nil {
						t.Error("an invocation that is not there was found")
					}
					return
				}
				inv, err := s.Get(t.Context(), id)
				if err != nil || inv.ID != id {
					t.Errorf("asked for %s, got %s: %v", id, inv.ID, err)
				}
			})
		}
		all.Wait()
	})
}
