package queue

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
	"imagebuilder/plugin"
)

const (
	imageNode = "imagebuilder.nodes.Image"
	create    = "create"

	// pluginGrace is what a cancelled build gets to tell the engine and to end, before its process is killed. It keeps a cancelled
	// build well below the 10 s that a caller may wait.
	pluginGrace = 3 * time.Second
)

// attempt is one attempt to build an invocation.
type attempt struct {
	worker  *Worker
	lease   *store.Lease
	began   time.Time
	keeper  *keeper
	journal *journal
	mask    mask
	seen    context.Context // the observer's
}

// build runs an invocation that was claimed at a time, to its end or until it is somebody else's. ctx ends only when nothing more
// can be waited for.
func (w *Worker) build(ctx context.Context, lease *store.Lease, claimed time.Time) {
	inv := lease.Invocation
	a := &attempt{worker: w, lease: lease, began: claimed}
	a.seen = w.config.Observer.Claimed(ctx, inv, inv.StartedAt.Sub(inv.SubmittedAt))
	logger := w.logger.With("invocation_id", inv.ID, "attempt", inv.Attempt)
	logger.InfoContext(a.seen, "build begins", "subject", inv.Subject, "again", lease.Again)

	// Three things end one after the other: the build, what it has to say, and the lease.
	keeping, release := context.WithCancel(ctx)
	defer release()
	writing, forget := context.WithCancel(keeping)
	defer forget()
	building, stop := context.WithCancelCause(writing)
	defer stop(nil)
	a.keeper = &keeper{
		store: w.config.Store, lease: lease, length: w.config.Lease, beat: w.config.Heartbeat, now: w.now, stop: stop, forget: forget,
	}
	keep(keeping, a.keeper, claimed)
	leave := w.builds.add(inv.ID, a.keeper)
	defer leave()
	if w.builds.stopping() { // it was told to all before this one was among them
		stop(errShutdown)
	}

	end := a.run(building, writing)
	end = a.settle(writing, building, end)
	release()
	<-a.keeper.done
	end.Took = w.now().Sub(claimed)
	w.config.Observer.Ended(a.seen, inv, end.Ending)
	logger.InfoContext(a.seen, "build ended", "how", end.How, "reason", end.Reason, "took", end.Took, "error", end.Err)
}

// run opens the document and has the plugin build it.
func (a *attempt) run(building, writing context.Context) ending {
	w, inv := a.worker, a.lease.Invocation
	document, err := w.config.Opener.Open(inv.ID, a.lease.Sealed)
	if err != nil {
		// Another worker may have the identity that this one lacks, as while identities are changed.
		err = fault.New(fault.Unavailable, "this worker cannot open the document: %w", err)
	} else {
		a.mask, err = maskOf(document)
	}
	a.journal = newJournal(a.lease, w.config.LogLimit, a.mask, w.now, func(ctx context.Context, entries []store.LogEntry) error {
		return w.config.Store.AppendLog(ctx, a.lease, entries)
	})
	go a.journal.run(writing, a.keeper.lose, a.keeper.stop)
	defer a.journal.close()
	if err != nil {
		return a.judge(building, nil, err)
	}

	limit := inv.Timeout
	if limit <= 0 {
		limit = w.config.DefaultTimeout
	}
	building, cancel := context.WithTimeoutCause(building, limit, &timeoutError{limit})
	defer cancel()
	out, err := a.execute(building, document)
	return a.judge(building, out, err)
}

// execute runs the plugin in a process of its own.
func (a *attempt) execute(ctx context.Context, document []byte) (json.RawMessage, error) {
	w := a.worker
	client, err := plugin.Start(ctx, w.config.PluginPath, plugin.Options{
		Base: PluginEnvironment(w.config.Environment), Env: w.config.PluginEnvironment,
		Grace: pluginGrace, TempDir: w.config.TempDir,
	})
	if err != nil {
		if ctx.Err() == nil { // it worked when this worker began; another may still be able to
			f := fault.As(err)
			err = fault.New(fault.Unavailable, "%s", f.Message).WithHint("%s", f.Hint)
		}
		return nil, err
	}
	defer func() {
		a.keeper.unshare()
		if err := client.Close(); err != nil {
			w.logger.Warn("close a plugin", "error", err)
		}
	}()
	settings := w.config.PluginSettings
	settings.LeaseFile = filepath.Join(client.Folder(), "lease")
	if err := a.keeper.share(settings.LeaseFile); err != nil {
		return nil, fault.New(fault.Unavailable, "%w", err)
	}
	encoded, err := json.Marshal(settings)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the plugin's settings: %w", err)
	}
	return client.Execute(ctx, plugin.Request{
		NodeType: imageNode, Operation: create, Inputs: document, Settings: encoded, WorkDir: client.Folder(),
	}, func(e event.Event) {
		e = a.mask.event(e)
		if e.Step != nil || e.Note != nil {
			w.config.Observer.Event(a.seen, e)
		}
		a.journal.emit(e)
	})
}

// settle writes how the attempt ended, as long as the lease is ours.
func (a *attempt) settle(writing, building context.Context, end ending) ending {
	w := a.worker
	lost := ending{Ending: Ending{How: Lost, Err: errLost}}
	var since time.Time
	for !a.keeper.isLost() && writing.Err() == nil {
		call, cancel := context.WithTimeout(writing, callTime)
		var err error
		if end.How == HandedBack {
			err = w.config.Store.HandBack(call, a.lease, end.handBack)
		} else {
			err = w.config.Store.Finish(call, a.lease, end.outcome)
		}
		cancel()
		switch {
		case err == nil:
			return end
		case errors.Is(err, store.ErrLeaseLost) && !since.IsZero() && a.isSettled(writing, end):
			return end // by the call before, whose answer was lost
		case errors.Is(err, store.ErrLeaseLost):
			a.keeper.lose()
			return lost
		}
		w.logger.Warn("write the end of a build", "invocation_id", a.lease.Invocation.ID, "error", err)
		if since.IsZero() {
			since = w.now()
		}
		if w.now().Sub(since) >= brokenTime { // it renews, but does not take this: the reaper decides
			return lost
		}
		select {
		case <-writing.Done():
		case <-time.After(retryTime):
		}
	}
	if cause := context.Cause(building); cause != nil && !errors.Is(cause, context.Canceled) {
		lost.Err = cause
	}
	return lost
}

// isSettled tells whether the invocation has ended as this attempt wanted it to.
func (a *attempt) isSettled(ctx context.Context, end ending) bool {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	inv, err := a.worker.config.Store.Get(ctx, a.lease.Invocation.ID)
	return err == nil && end.How != HandedBack && inv.Attempt == a.lease.Invocation.Attempt && inv.State == end.outcome.State
}
