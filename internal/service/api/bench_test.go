package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/seal"
)

// overHTTP measures requests of one kind by two clients that keep their connections, on SQLite: client, server and database share the processors.
func overHTTP(b *testing.B, status int, prepare func(s *site) func() *http.Request) {
	s := start(b, func(c *setup) { c.builds.Limits.Queued = -1 })
	request := prepare(s)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := request()
			r.Header.Set("X-API-Key", s.keys["alice"])
			answer, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			if answer.StatusCode != status {
				b.Errorf("status %d", answer.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func BenchmarkSubmitHTTP(b *testing.B) {
	overHTTP(b, 202, func(s *site) func() *http.Request {
		return func() *http.Request {
			r, err := http.NewRequest(http.MethodPost, s.url+"/build/", strings.NewReader(document("shop/web")))
			require.NoError(b, err)
			r.Header.Set("Content-Type", "application/json")
			return r
		}
	})
}

func BenchmarkStatusHTTP(b *testing.B) {
	overHTTP(b, 200, func(s *site) func() *http.Request {
		id := s.submit("alice", build("shop/web")).ID
		return func() *http.Request {
			r, err := http.NewRequest(http.MethodGet, s.url+"/status/"+id, nil)
			require.NoError(b, err)
			return r
		}
	})
}

// BenchmarkSubmitHandler is what this package, builds and the sealing cost, without a database.
func BenchmarkSubmitHandler(b *testing.B) {
	_, recipient, err := seal.GenerateKey()
	require.NoError(b, err)
	sealer, err := seal.NewSealer(recipient)
	require.NoError(b, err)
	handler, err := api.New(api.Config{Builds: builds.New(builds.Config{Store: empty{}, Sealer: sealer}), Auth: everybody{}, Limits: api.Limits{PerCaller: -1}})
	require.NoError(b, err)
	for name, target := range map[string][2]string{"build": {"/build/", document("shop/web")}, "v1": {"/v1/invocations", build("shop/web")}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, target[0], strings.NewReader(target[1]))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				if w.Code != 202 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
