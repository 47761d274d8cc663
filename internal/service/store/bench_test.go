package store_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

func benched(b *testing.B) *store.Store {
	s, err := store.Open(b.Context(), onPostgres(testbed.Postgres(b)))
	require.NoError(b, err)
	b.Cleanup(s.Close)
	require.NoError(b, s.Migrate(b.Context()))
	return s
}

func BenchmarkSubmit(b *testing.B) {
	s := benched(b)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			sub := submission("a")
			sub.Images, sub.Labels, sub.MaxQueued = []string{"r/a:1", "r/a:2"}, map[string]string{"a": "b"}, 1000000
			_, _, err := s.Submit(b.Context(), sub)
			if err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

func BenchmarkGet(b *testing.B) {
	s := benched(b)
	ids := make([]string, 1000)
	for i := range ids {
		inv, _, err := s.Submit(b.Context(), submission("a"))
		require.NoError(b, err)
		ids[i] = inv.ID
	}
	b.ResetTimer()
	var n atomic.Int64
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(b.Context(), ids[n.Add(1)%1000]); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

func BenchmarkClaim(b *testing.B) {
	s := benched(b)
	for range b.N {
		_, _, err := s.Submit(b.Context(), submission("a"))
		require.NoError(b, err)
	}
	b.ResetTimer()
	for range b.N {
		l, err := s.Claim(b.Context(), "w", lease, 0)
		require.NoError(b, err)
		require.NoError(b, s.Finish(b.Context(), l, store.Outcome{State: store.StateSuccess}))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}
