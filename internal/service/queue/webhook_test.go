package queue_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
)

// webhookSecret is one as Standard Webhooks have it.
var webhookSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("canary-canary-canary-canary-0123"))

// received is one request to a webhook.
type received struct {
	header http.Header
	body   []byte
}

// receiver is a webhook that answers as it is told.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []received
}

func newReceiver(t *testing.T, answer func(n int) int) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		r.requests = append(r.requests, received{request.Header.Clone(), body})
		n := len(r.requests)
		r.mu.Unlock()
		w.WriteHeader(answer(n))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.requests...)
}

// hook gives a submission a webhook.
func (b *bed) hook(t *testing.T, url, secret string) func(*store.Submission) {
	t.Helper()
	return func(s *store.Submission) {
		sealed, err := b.sealer.Seal(s.ID, []byte(secret))
		require.NoError(t, err)
		s.Webhook = &store.Webhook{URL: url, Secret: sealed}
	}
}

func toLoopback(c *queue.Config) {
	c.Egress = egress.New(true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	c.WebhookRetry = func(tries int) (time.Duration, bool) { return 50 * time.Millisecond, tries < 5 }
}

// TestWebhookHearsOfEachState: signed, tried again after an error, and with the digests of what was pushed.
func TestWebhookHearsOfEachState(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			r := newReceiver(t, func(n int) int {
				return map[bool]int{true: http.StatusInternalServerError, false: http.StatusNoContent}[n == 1]
			})
			b.work(t, toLoopback)
			id := b.submit(t, b.dockerfile(t, "RUN true"), b.hook(t, r.URL+"/hook", webhookSecret))
			inv := b.ended(t, id)
			require.Equal(t, store.StateSuccess, inv.State, inv.Response)
			verifier, err := standardwebhooks.NewWebhook(webhookSecret)
			require.NoError(t, err)

			type payload struct {
				Type      string
				Timestamp time.Time
				Data      struct {
					ID, State, Reason string
					Images            []struct{ Image, Digest string }
				}
			}
			ids := map[string]int{}
			var last payload
			require.Eventually(t, func() bool {
				clear(ids)
				states := map[string]bool{}
				for _, one := range r.all() {
					require.NoError(t, verifier.Verify(one.body, one.header))
					require.NotContains(t, string(one.body), "canary")
					var p payload
					require.NoError(t, json.Unmarshal(one.body, &p))
					require.Equal(t, "invocation.state_changed", p.Type)
					require.WithinDuration(t, time.Now(), p.Timestamp, 5*time.Minute)
					require.Equal(t, id, p.Data.ID)
					states[p.Data.State] = true
					ids[one.header.Get("webhook-id")]++
					if p.Data.State == "success" {
						last = p
					}
				}
				return states["pending"] && states["in_progress"] && states["success"] && len(r.all()) == 4
			}, patience, 20*time.Millisecond)
			require.Len(t, ids, 3, "the same message, tried again, has the same id: %v", ids)
			require.Equal(t, b.Registry.Host+"/app:1", last.Data.Images[0].Image)
			require.Contains(t, inv.Response, last.Data.Images[0].Digest)
			require.NotEmpty(t, last.Data.Images[0].Digest)
		})
	}
}

// TestWebhookIsGuarded: by default nothing special is called, and nobody tries again.
func TestWebhookIsGuarded(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	r := newReceiver(t, func(int) int { return http.StatusOK })
	tries := make(chan error, 10)
	b.work(t, func(c *queue.Config) {
		c.WebhookRetry = func(int) (time.Duration, bool) { return 0, true }
		c.Observer = watcher{deliver: func(err error) { tries <- err }}
	})
	id := b.submit(t, "{}", b.hook(t, r.URL, webhookSecret))
	b.ended(t, id)
	for range 3 { // pending, in progress, failed
		select {
		case err := <-tries:
			require.ErrorIs(t, err, egress.ErrRefused)
		case <-time.After(patience):
			require.Fail(t, "a webhook was not tried")
		}
	}
	require.Never(t, func() bool { return len(tries) > 0 }, 500*time.Millisecond, 20*time.Millisecond)
	require.Empty(t, r.all())
}

// TestWebhookThatWantsNoMore: 410 Gone ends it, and so does the end of patience.
func TestWebhookThatWantsNoMore(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ status, requests int }{
		"gone":        {http.StatusGone, 3},
		"redirected":  {http.StatusFound, 3 * 5},
		"always down": {http.StatusServiceUnavailable, 3 * 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, "sqlite")
			r := newReceiver(t, func(int) int { return tt.status })
			b.work(t, toLoopback)
			b.ended(t, b.submit(t, "{}", b.hook(t, r.URL, webhookSecret)))
			require.Eventually(t, func() bool { return len(r.all()) >= tt.requests }, patience, 20*time.Millisecond)
			require.Never(t, func() bool { return len(r.all()) > tt.requests }, 500*time.Millisecond, 20*time.Millisecond)
		})
	}
}

func TestWebhookScheduleLastsThreeDays(t *testing.T) {
	t.Parallel()
	all, tries := time.Duration(0), 0
	for more := true; more; {
		var wait time.Duration
		if wait, more = queue.RetryDelivery(tries + 1); more {
			tries++
			all += wait
		}
	}
	require.Equal(t, 9, tries, "River has ten tries in all")
	require.Greater(t, all, 72*time.Hour)
}
