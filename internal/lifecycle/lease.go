package lifecycle

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
)

// leaseCheck is how often a lease is looked at while work goes on. A caller that renews in time has seconds to spare, so this
// bounds how long a build runs on that nobody owns any more.
const leaseCheck = time.Second

// lease is the caller's right to the request, which may end while the caller cannot say so: when it is stopped, or its machine
// was asleep. Another may have begun the same request by then, so nothing that others see may be done after the lease's end.
// The wall clock counts: it goes on while a machine sleeps, and writer and reader share it.
type lease struct {
	file string // result.Settings.LeaseFile; "" is a request that nobody can lose
	now  func() time.Time
}

// hold gives a context that ends when the lease does. release has to be called.
func (l lease) hold(ctx context.Context) (held context.Context, release func()) {
	if l.file == "" {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(leaseCheck)
		defer tick.Stop()
		for {
			if err := l.check(ctx); err != nil {
				cancel(err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// check tells why nothing may be pushed any more: ctx has ended, or the lease has.
func (l lease) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil || l.file == "" {
		return err
	}
	data, err := os.ReadFile(l.file)
	if err != nil {
		return fault.New(fault.Cancelled, "the lease ran out: %w", err)
	}
	until, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return fault.New(fault.Cancelled, "the lease ran out: read %s: %w", l.file, err)
	}
	if over := l.now().Sub(time.UnixMilli(until)); over >= 0 {
		return fault.New(fault.Cancelled, "the lease ran out %s ago", over.Round(time.Millisecond))
	}
	return nil
}
