package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A request that fails for a reason that passes is sent up to maxTries times; between them lie 0.3, 0.9 and 2.7 s,
// give or take a half. That outlasts a restart of a registry behind a proxy and a short rate limit.
const (
	maxTries    = 4
	firstPause  = 300 * time.Millisecond
	pauseGrowth = 3
)

// triedError counts the tries that ended with an error.
type triedError struct {
	times int
	err   error
}

func (t *triedError) Error() string { return t.err.Error() }
func (t *triedError) Unwrap() error { return t.err }

// try runs an operation until it succeeds, fails for good, or has failed often enough.
func try(ctx context.Context, temporary func(error) bool, operation func() error) error {
	pause := firstPause
	for times := 1; ; times++ {
		err := operation()
		if err == nil {
			return nil
		}
		if times == maxTries || ctx.Err() != nil || !temporary(err) {
			return &triedError{times: times, err: err}
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) // spreads clients out; nothing to guess
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &triedError{times: times, err: err}
		}
		pause *= pauseGrowth
	}
}

// request runs a small request, with a limit on each try.
func (e *endpoint) request(ctx context.Context, operation func(context.Context) error) error {
	return try(ctx, temporary, func() error {
		ctx, cancel := e.noLaterThan(ctx)
		defer cancel()
		return operation(ctx)
	})
}

// temporary tells whether a small request may succeed when it is sent again. A connection that is refused is not taken
// for temporary, and neither is silence: who waits has waited long enough then.
func temporary(err error) bool {
	var (
		response *transport.Error
		token    remoteerrors.ErrUnexpectedStatus
	)
	switch {
	case errors.As(err, &token):
		return temporaryStatus(token.StatusCode)
	case errors.As(err, &response):
		return temporaryStatus(response.StatusCode)
	default:
		return isCut(err)
	}
}

// temporaryUpload tells whether the upload of a blob may succeed when it is begun anew: uploads also get lost
// between the machines of a registry, or are mixed up under load.
func temporaryUpload(err error) bool {
	var response *transport.Error
	if errors.As(err, &response) {
		switch response.StatusCode {
		case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
			return true
		case http.StatusBadRequest:
			for _, d := range response.Errors {
				if d.Code == transport.DigestInvalidErrorCode || d.Code == transport.BlobUploadInvalidErrorCode || d.Code == transport.SizeInvalidErrorCode {
					return true
				}
			}
		}
	}
	return temporary(err)
}
