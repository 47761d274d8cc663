package api

import (
	"crypto/sha256"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"imagebuilder/internal/service/auth"
)

// remembered is how many callers, addresses and credentials are kept apart; who is forgotten begins anew. 1 MB or so.
const remembered = 8192

// limiters hold how much everybody may still ask for.
type limiters struct {
	callers *buckets // by subject
	hosts   *buckets // by address: requests with missing or wrong credentials
	good    *lru.Cache[[sha256.Size]byte, struct{}]
	now     func() time.Time
}

func newLimiters(l Limits, now func() time.Time) (*limiters, error) {
	good, err := lru.New[[sha256.Size]byte, struct{}](remembered)
	if err != nil {
		return nil, err
	}
	out := &limiters{good: good, now: now}
	if out.callers, err = newBuckets(l.PerCaller); err != nil {
		return nil, err
	}
	out.hosts, err = newBuckets(l.PerHost)
	return out, err
}

// caller takes one request of a caller; it gives how long to wait when there is none left.
func (l *limiters) caller(subject string) time.Duration { return l.callers.take(subject, l.now()) }

// failed takes one wrong request of an address.
func (l *limiters) failed(host string) { l.hosts.take(host, l.now()) }

// refuse gives how long an address has to wait which has sent too many wrong credentials. Credentials that were right before are
// let through all the same: their owner may share the address with whoever guesses.
func (l *limiters) refuse(host string, r *http.Request) time.Duration {
	wait := l.hosts.wait(host, l.now())
	if wait > 0 && l.good.Contains(credentials(r)) {
		return 0
	}
	return wait
}

// succeeded remembers that the request's credentials are right.
func (l *limiters) succeeded(r *http.Request) {
	if l.hosts != nil {
		l.good.Add(credentials(r), struct{}{})
	}
}

// credentials stands for what the request shows, without being it.
func credentials(r *http.Request) [sha256.Size]byte {
	return sha256.Sum256([]byte(r.Header.Get("X-Api-Key") + "\n" + r.Header.Get("Authorization")))
}

// buckets are token buckets by name; nil is no limit.
type buckets struct {
	rate rate.Limit
	of   *lru.Cache[string, *rate.Limiter]
}

func newBuckets(perSecond float64) (*buckets, error) {
	if perSecond < 0 {
		return nil, nil
	}
	cache, err := lru.New[string, *rate.Limiter](remembered)
	return &buckets{rate: rate.Limit(perSecond), of: cache}, err
}

func (b *buckets) limiter(name string) *rate.Limiter {
	if l, found := b.of.Get(name); found {
		return l
	}
	l := rate.NewLimiter(b.rate, int(max(1, 2*b.rate)))
	if before, found, _ := b.of.PeekOrAdd(name, l); found {
		return before
	}
	return l
}

// take takes a token, or gives how long to wait for one.
func (b *buckets) take(name string, now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	l := b.limiter(name)
	if l.AllowN(now, 1) {
		return 0
	}
	return b.wait(name, now)
}

// wait is how long it takes until there is a token.
func (b *buckets) wait(name string, now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	l, found := b.of.Peek(name)
	if !found {
		return 0
	}
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(b.rate) * float64(time.Second))
}

// sparing lets an address send no more than so many requests a second to the page that change something, or that end a sign-in: whoever
// sends them need not be known yet, and each may cost a look at keys, or a question to the provider.
func (s *server) sparing(rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost || r.URL.Path == auth.CallbackPath {
			if wait := s.limits.hosts.take(s.host(r), s.Now()); wait > 0 {
				s.tooMany(w, r, "too many requests from this address", seconds(wait))
				return
			}
		}
		rest.ServeHTTP(w, r)
	})
}
