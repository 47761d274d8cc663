package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"imagebuilder/internal/service/store"
)

// Why a build's context ends, besides the build's own end.
var (
	errLost      = errors.New("the lease is lost")
	errCancelled = errors.New("somebody has cancelled the build")
	errShutdown  = errors.New("the worker ends")
)

const (
	// callTime is what one call of the database gets before it is given up and tried anew; on an idle database it takes
	// milliseconds.
	callTime = 5 * time.Second
	// retryTime is the wait before a call that failed is repeated. It is well below a lease.
	retryTime = 500 * time.Millisecond
	// mostMargin is how long before a lease's end its build has to be over: the plugin looks each second, takes up to 2 s to
	// clean up, and a second is for what nobody has thought of.
	mostMargin = 4 * time.Second
)

// renewer is the part of the store that keeps leases.
type renewer interface {
	Renew(ctx context.Context, l *store.Lease, leaseFor time.Duration) (cancel bool, err error)
}

// keeper renews the lease of one build, and stops the build when it cannot, or when somebody wants it cancelled.
//
// Whoever else may take the build goes by the database's clock. Here only the length of the lease counts, from before the question
// that renewed it, so that this end thinks it over first.
type keeper struct {
	store  renewer
	lease  *store.Lease
	length time.Duration
	beat   time.Duration
	now    func() time.Time
	stop   context.CancelCauseFunc // of the build
	forget context.CancelFunc      // of what waits to be written
	asked  chan struct{}           // holds one when the database is to be asked at once
	done   chan struct{}           // closed when nothing is renewed any more
	lost   chan struct{}           // closed when the lease is lost

	mu    sync.Mutex
	until time.Time // when the build has to be over, if nothing is renewed; as the wall clock says, which goes on while a machine sleeps
	file  string    // the plugin's copy of until; "" is none yet
}

// keep begins to renew a lease that was claimed at a time, until ctx ends.
func keep(ctx context.Context, k *keeper, claimed time.Time) {
	k.asked, k.done, k.lost = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	k.until = k.end(claimed)
	go func() {
		defer close(k.done)
		k.run(ctx)
	}()
}

// end is when a build whose lease was renewed at a time has to be over.
func (k *keeper) end(renewed time.Time) time.Time {
	return renewed.Round(0).Add(k.length - min(mostMargin, k.length/4))
}

func (k *keeper) run(ctx context.Context) {
	wait := k.beat
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.asked:
			timer.Stop()
		case <-timer.C:
		}
		var err error
		if wait, err = k.renew(ctx); errors.Is(err, errLost) {
			k.lose()
			return
		}
	}
}

// renew renews the lease once, and says when to do it again.
func (k *keeper) renew(ctx context.Context) (next time.Duration, err error) {
	left := k.until.Sub(k.now())
	if left <= 0 { // the plugin has stopped by itself
		return 0, errLost
	}
	asked := k.now()
	call, cancel := context.WithTimeout(ctx, min(left, callTime))
	wanted, err := k.store.Renew(call, k.lease, k.length)
	cancel()
	switch {
	case errors.Is(err, store.ErrLeaseLost):
		return 0, errLost
	case err != nil:
		return min(retryTime, max(0, k.until.Sub(k.now()))), err
	}
	if wanted {
		k.stop(errCancelled)
	}
	if err := k.extend(k.end(asked)); err != nil {
		return retryTime, err // the plugin stops when the time in its file has passed
	}
	return k.beat, nil
}

// extend says until when the build may go on.
func (k *keeper) extend(until time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until = until
	if k.file == "" {
		return nil
	}
	return writeLease(k.file, until)
}

// share writes the lease down for the plugin, in a file that is kept up to date from then on.
func (k *keeper) share(file string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.file = file
	return writeLease(file, k.until)
}

// unshare leaves the file alone: its reader has ended.
func (k *keeper) unshare() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.file = ""
}

// writeLease replaces a lease file whole: its reader never sees half of a number.
func writeLease(file string, until time.Time) error {
	if err := os.WriteFile(file+".new", []byte(strconv.FormatInt(until.UnixMilli(), 10)), 0o600); err != nil {
		return fmt.Errorf("write the lease: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write the lease: %w", err)
	}
	return nil
}

// ask has the database asked at once: a notice says that there is news.
func (k *keeper) ask() {
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

// lose stops the build: it is somebody else's.
func (k *keeper) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.lost:
	default:
		close(k.lost)
		k.stop(errLost)
		k.forget()
	}
}

// isLost tells whether nothing can be written any more.
func (k *keeper) isLost() bool {
	select {
	case <-k.lost:
		return true
	default:
		return false
	}
}
