package follow

import (
	"context"
	"errors"
	"strconv"
	"time"

	"imagebuilder/internal/service/store"
)

const (
	// readTime is the longest that one read may take.
	readTime = 30 * time.Second
	// outage is how long a read is tried again while the store does not answer: as long as a PostgreSQL takes to come back.
	outage = 30 * time.Second
	// retryPause is the time between two of these tries.
	retryPause = 500 * time.Millisecond
)

// patiently reads for all followers, until the last of them has left. A store that is away for a moment is asked again.
func (t *topic) patiently(read func(ctx context.Context) error) error {
	giveUp := time.NewTimer(outage)
	defer giveUp.Stop()
	for {
		ctx, cancel := context.WithTimeout(t.ctx, readTime)
		err := read(ctx)
		cancel()
		if err == nil || errors.Is(err, store.ErrNotFound) || t.ctx.Err() != nil {
			return err
		}
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-giveUp.C:
			pause.Stop()
			return err
		case <-t.ctx.Done():
			pause.Stop()
			return err
		}
	}
}

func key(after int64) string { return strconv.FormatInt(after, 10) }
