package queue

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
	"imagebuilder/plugin"
)

const (
	// reapTime is how often work is taken from workers that are gone. With a lease of 20 s it keeps the promise of 30 s.
	reapTime = 5 * time.Second
	// purgeTime is how often old records are removed. Retention is a matter of days.
	purgeTime = 10 * time.Minute

	// fetchCooldown and ticketPoll are how soon a ticket is seen: the first when the database tells of it; the second when it does
	// not, as of all but one of those that come within 100 ms.
	fetchCooldown = 20 * time.Millisecond
	ticketPoll    = 200 * time.Millisecond
	// rescueAfter is when River takes the delivery of a webhook for dead whose worker is gone; each has less time than that. It
	// leaves tickets alone, which have no bound.
	rescueAfter = 2 * time.Minute
	// ticketsKept is how long worked tickets are kept: nobody looks at them.
	ticketsKept = time.Hour
	// deliveries is how many webhooks are called at once.
	deliveries = 4

	// handBackTime is the part of Grace in which builds are stopped and handed back: the plugin's grace, its end, and what is
	// written about it.
	handBackTime = 8 * time.Second
)

func (w *Worker) run(ctx context.Context) error {
	if err := w.checkPlugin(ctx); err != nil {
		return err
	}
	// What runs outlives ctx, by Grace.
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var leaving atomic.Bool
	workers := river.NewWorkers()
	if err := errors.Join(
		river.AddWorkerSafely(workers, &ticketWorker{worker: w, working: working, leaving: &leaving}),
		river.AddWorkerSafely(workers, newDeliverer(w)),
	); err != nil {
		return fault.New(fault.Internal, "set up River: %w", err)
	}
	client, err := w.config.Store.NewRiver(&river.Config{
		ID: w.config.Owner, Workers: workers, Logger: slog.New(newSparing(w.logger.Handler())), JobTimeout: -1, RescueStuckJobsAfter: rescueAfter,
		FetchCooldown: fetchCooldown, CompletedJobRetentionPeriod: ticketsKept,
		Queues: map[string]river.QueueConfig{
			store.QueueBuilds:   {MaxWorkers: w.config.Concurrency, FetchPollInterval: ticketPoll},
			store.QueueWebhooks: {MaxWorkers: deliveries},
		},
	})
	if err != nil {
		return err
	}
	w.reap(working, w.config.OnlyProcess)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer end()
	helpers.Go(func() { w.every(working, reapTime, func() { w.reap(working, false) }) })
	helpers.Go(func() { w.every(working, purgeTime, func() { w.purge(working) }) })
	helpers.Go(func() { w.listen(working) })
	if err := client.Start(working); err != nil {
		return fault.New(fault.Unavailable, "start River: %w", err)
	}

	<-ctx.Done()
	leaving.Store(true)
	return w.leave(client, end)
}

// leave waits for the running builds, then stops them, and in the end leaves them to their fate.
func (w *Worker) leave(client store.River, end func()) error {
	last := min(handBackTime, w.config.Grace/2)
	w.logger.Info("the worker ends", "running", w.Running(), "grace", w.config.Grace)
	waiting, cancel := context.WithTimeout(context.Background(), w.config.Grace-last)
	err := client.Stop(waiting)
	cancel()
	if err == nil {
		return nil
	}
	w.builds.stop()
	handing, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	if err := client.Stop(handing); err == nil {
		return nil
	}
	end() // nothing is written any more: leases run out, and plugins end with this process
	return fault.New(fault.Unavailable, "end the worker: %d builds did not end within %s", w.Running(), w.config.Grace)
}

// checkPlugin finds out before any build whether the plugin does what builds need.
func (w *Worker) checkPlugin(ctx context.Context) error {
	client, err := plugin.FindFor(ctx, []string{w.config.PluginPath}, imageNode, create, plugin.Options{
		Base: PluginEnvironment(w.config.Environment), Env: w.config.PluginEnvironment, TempDir: w.config.TempDir,
	})
	if err != nil {
		return fault.Wrap(err, "check the plugin")
	}
	return client.Close()
}

// every calls f again and again until ctx ends, with some luck in the pauses, so that workers do not do it all at once.
func (w *Worker) every(ctx context.Context, pause time.Duration, f func()) {
	for {
		timer := time.NewTimer(pause - time.Duration(rand.Int64N(int64(pause/10)))) //nolint:gosec // G404: not a secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			f()
		}
	}
}

func (w *Worker) reap(ctx context.Context, dead bool) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	found, err := w.config.Store.Reap(ctx, store.ReapOptions{MaxAttempts: w.config.MaxAttempts, DeadOwners: dead, Lease: w.config.Lease})
	switch {
	case err != nil && ctx.Err() == nil:
		w.logger.Warn("look for lost builds", "error", err)
	case err == nil && len(found.Requeued)+len(found.Lost)+len(found.Cancelled)+len(found.Expired) > 0:
		w.logger.Info("builds were lost", "again", found.Requeued, "failed", found.Lost, "cancelled", found.Cancelled, "expired", found.Expired)
		w.config.Observer.Reaped(ctx, found)
	}
}

func (w *Worker) purge(ctx context.Context) {
	removed, err := w.config.Store.Purge(ctx, w.config.Retention)
	switch {
	case err != nil && ctx.Err() == nil:
		w.logger.Warn("remove old builds", "error", err)
	case removed > 0:
		w.logger.Info("old builds were removed", "number", removed)
	}
}

// listen passes cancellations on as they happen. The heartbeat sees them too, only later.
func (w *Worker) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.config.Store.Watch(ctx, func(n store.Notice) {
			switch n.Kind {
			case store.NoticeCancel:
				w.builds.ask(n.ID)
			case store.NoticeAll:
				w.builds.ask("")
			}
		})
		if ctx.Err() != nil {
			return
		}
		w.logger.Warn("listen to the database", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
		}
	}
}

// ticketWorker works tickets: each is one place in which builds run one after the other.
type ticketWorker struct {
	river.WorkerDefaults[store.Ticket]
	worker  *Worker
	working context.Context
	leaving *atomic.Bool
}

// Work claims and builds until nothing is left to claim.
func (t *ticketWorker) Work(context.Context, *river.Job[store.Ticket]) error {
	w := t.worker
	for !t.leaving.Load() {
		claimed := w.now()
		lease, err := w.claim(t.working)
		if err != nil {
			return err
		}
		if lease == nil {
			return nil
		}
		w.build(t.working, lease, claimed)
	}
	ctx, cancel := context.WithTimeout(t.working, callTime)
	defer cancel()
	return w.config.Store.PutTicket(ctx)
}

func (w *Worker) claim(ctx context.Context) (*store.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return w.config.Store.Claim(ctx, w.config.Owner, w.config.Lease, w.config.MaxRunningPerSubject)
}
