package auth

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// providerTimeout is how long the provider has for one answer: callers wait for it.
	providerTimeout = 5 * time.Second
	// pauseAfterSuccess is the shortest time between two fetches of what was fetched well. Tokens with made-up key
	// names cost the provider one request in that time; a token signed with a really new key may be refused for as long.
	pauseAfterSuccess = 10 * time.Second
	// pauseAfterFailure is the same for a provider that does not answer: short, since callers get 503 until it does.
	pauseAfterFailure = time.Second
)

// kept is something of the provider's that is fetched when it is needed, kept, and fetched again when it is old or
// does not hold what is wanted: by one caller at a time, and not too often.
type kept[T any] struct {
	fetch  func(context.Context) (T, error)
	now    func() time.Time
	maxAge time.Duration // a value older than this is fetched again; it stays good when that fails

	flight  singleflight.Group
	mu      sync.Mutex
	value   T
	has     bool
	fetched time.Time // when value came
	tried   time.Time // last fetch, good or bad
	err     error     // of the last fetch
}

// get gives the value. Without an error it is as new as it can be had, and may still not hold what is wanted; an error
// says that the provider could not be asked and nothing that is wanted is there.
func (k *kept[T]) get(ctx context.Context, wanted func(T) bool) (T, error) {
	value, good, due, err := k.look(wanted)
	if !due {
		return value, err
	}
	// The request of the one who came first may end early: that must not be everybody's error.
	done := k.flight.DoChan("", func() (any, error) {
		if _, _, due, _ := k.look(wanted); !due { // somebody else's fetch has just ended
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), providerTimeout)
		defer cancel()
		fetched, err := k.fetch(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.tried, k.err = k.now(), err
		if err == nil {
			k.value, k.has, k.fetched = fetched, true, k.tried
		}
		return nil, nil
	})
	if good { // it is only old: nobody waits for the new one
		return value, nil
	}
	select {
	case <-done:
	case <-ctx.Done():
		return value, unavailable("wait for the OpenID provider: %w", ctx.Err())
	}
	value, _, _, err = k.look(wanted)
	return value, err
}

// look tells what there is, whether it is what is wanted, and whether it is time to fetch.
func (k *kept[T]) look(wanted func(T) bool) (value T, good, due bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	good = k.has && wanted(k.value)
	pause := pauseAfterSuccess
	if k.err != nil {
		pause = pauseAfterFailure
	}
	stale := !good || now.Sub(k.fetched) >= k.maxAge
	due = stale && (k.tried.IsZero() || now.Sub(k.tried) >= pause)
	if !good {
		err = k.err
	}
	return k.value, good, due, err
}
