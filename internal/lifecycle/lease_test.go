package lifecycle_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// leaseUntil writes a lease file as its writer does: whole, under another name first.
func leaseUntil(t *testing.T, file string, until time.Time) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", []byte(strconv.FormatInt(until.UnixMilli(), 10)), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// manifestPuts counts what is made visible in a registry.
type manifestPuts struct{ byDigest, byTag atomic.Int64 }

func (m *manifestPuts) count(r *http.Request) {
	switch _, name, ok := strings.Cut(r.URL.Path, "/app/manifests/"); {
	case !ok || r.Method != http.MethodPut:
	case strings.HasPrefix(name, "sha256:"):
		m.byDigest.Add(1)
	default:
		m.byTag.Add(1)
	}
}

// TestNothingIsPushedWithoutALease: at each moment at which the lease may end, nothing is made visible after it.
func TestNothingIsPushedWithoutALease(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		dockerfile string
		write      func(t *testing.T, file string)
		onInspect  func(t *testing.T, file string) // when the image has been pushed, and no tag moved yet
		says       string
		pushed     int64
	}{
		{name: "over before the start", dockerfile: "RUN true", says: "the lease ran out",
			write: func(t *testing.T, file string) { leaseUntil(t, file, time.Now().Add(-time.Millisecond)) }},
		{name: "no file", dockerfile: "RUN true", says: "the lease ran out: open ", write: func(*testing.T, string) {}},
		{name: "no time in it", dockerfile: "RUN true", says: "the lease ran out: read ",
			write: func(t *testing.T, file string) { require.NoError(t, os.WriteFile(file, []byte("soon"), 0o600)) }},
		{name: "over while a step runs", dockerfile: "RUN exec sleep 27182818", says: "the lease ran out",
			write: func(t *testing.T, file string) { leaseUntil(t, file, time.Now().Add(2*time.Second)) }},
		{name: "over between push and tag", dockerfile: "RUN true", says: "the lease ran out", pushed: 1,
			write:     func(t *testing.T, file string) { leaseUntil(t, file, time.Now().Add(time.Hour)) },
			onInspect: func(t *testing.T, file string) { leaseUntil(t, file, time.Now().Add(-time.Millisecond)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			front, puts, file := &switchable{}, &manifestPuts{}, filepath.Join(t.TempDir(), "lease")
			b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
			b.pushBases(t)
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\n" + tt.dockerfile + "\n"})
			front.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
				puts.count(r)
				if tt.onInspect != nil && r.Method != http.MethodPut && strings.Contains(r.URL.Path, "/app/manifests/sha256:") {
					tt.onInspect(t, file)
				}
				return false
			})
			tt.write(t, file)
			began := time.Now()
			out, _, err := b.createWith(t, t.Context(), document(url, ""),
				&result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, LeaseFile: file})
			require.Equal(t, fault.Cancelled, fault.KindOf(err), "%v", err)
			require.Contains(t, err.Error(), tt.says)
			require.Less(t, time.Since(began), 20*time.Second)
			if out != nil {
				require.NotNil(t, out.Images[0].Error)
			}
			require.Empty(t, b.tags(t, "app"))
			require.Zero(t, puts.byTag.Load())
			require.LessOrEqual(t, puts.byDigest.Load(), tt.pushed)
		})
	}
}

// TestRenewedLeaseKeepsABuildGoing: a build may last longer than any one lease.
func TestRenewedLeaseKeepsABuildGoing(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 4; date >/made\n"})
	file := filepath.Join(t.TempDir(), "lease")
	const length = 2 * time.Second
	leaseUntil(t, file, time.Now().Add(length))
	ctx, cancel := context.WithCancel(t.Context())
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		tick := time.NewTicker(length / 10)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				leaseUntil(t, file, time.Now().Add(length))
			}
		}
	}()
	_, _, err := b.createWith(t, t.Context(), document(url, ""),
		&result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, LeaseFile: file})
	cancel()
	<-renewed
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, b.tags(t, "app"))
}
