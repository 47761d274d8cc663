package queue

import (
	"bytes"
	"context"
	"errors"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

// brokenTime is how long the database may refuse to write what it should while it still renews the lease: then it is not away, and
// waiting does not help. It is well above what a restart or a failover takes.
const brokenTime = 2 * time.Minute

// run writes what is there, until close has been called and everything is written, or nothing can be written any more. lost and
// broken are told when it is the last.
func (j *journal) run(ctx context.Context, lost func(), broken func(error)) {
	defer close(j.done)
	defer j.giveUp()
	for {
		batch, last := j.take()
		if len(batch) > 0 {
			if err := j.store(ctx, batch); err != nil {
				switch {
				case errors.Is(err, store.ErrLeaseLost):
					lost()
				case ctx.Err() == nil:
					broken(fault.Wrap(err, "write the log"))
				}
				return
			}
			j.written(batch)
		}
		if last {
			return
		}
		if !j.wait(ctx) {
			return
		}
	}
}

// wait waits until there is enough to write, or something that has waited long enough, or the end. It tells whether to go on.
func (j *journal) wait(ctx context.Context) bool {
	soon := time.NewTimer(flushTime)
	defer soon.Stop()
	waited := false
	for {
		j.mu.Lock()
		some, enough, over, given := len(j.waiting) > 0, j.size >= flushSize, j.closed, j.given
		j.mu.Unlock()
		switch {
		case given:
			return false
		case enough, over, some && waited:
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-soon.C:
			waited = true
		case <-j.live:
		}
	}
}

// take gives the entries to write next, numbered, and tells whether they are the last. They stay in the journal's account until
// written is called.
func (j *journal) take() (batch []store.LogEntry, last bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	size := 0
	for len(j.waiting) > 0 && size < batchSize {
		entry := j.waiting[0]
		part := entry
		if entry.Kind == store.LogOut {
			part.Data = entry.Data[:boundary(entry.Data)]
		}
		if len(part.Data) < len(entry.Data) {
			j.waiting[0].Data = entry.Data[len(part.Data):]
			j.size += entrySize // there are two now
		} else {
			j.waiting = j.waiting[1:]
		}
		part.Seq = j.next
		j.next++
		size += entrySize + len(part.Data)
		batch = append(batch, part)
	}
	return batch, j.closed && len(j.waiting) == 0
}

// boundary is how much of an output goes into one entry: all, or whole lines, or whole characters, or as much as an entry holds.
func boundary(data []byte) int {
	if len(data) <= rowSize {
		return len(data)
	}
	head := data[:rowSize]
	if end := bytes.LastIndexByte(head, '\n'); end >= 0 {
		return end + 1
	}
	return rowSize - partialRune(head)
}

// store writes a batch, again and again while the database is away.
func (j *journal) store(ctx context.Context, batch []store.LogEntry) error {
	var since time.Time
	for {
		call, cancel := context.WithTimeout(ctx, callTime)
		err := j.write(call, batch)
		cancel()
		if err == nil || errors.Is(err, store.ErrLeaseLost) {
			return err
		}
		if since.IsZero() {
			since = j.now()
		}
		if j.now().Sub(since) >= brokenTime {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryTime):
		}
	}
}

// written makes room for what comes.
func (j *journal) written(batch []store.LogEntry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, entry := range batch {
		j.size -= entrySize + len(entry.Data)
	}
	j.changed.Broadcast()
}

// giveUp lets go of everything: emit waits no more, and what comes is dropped.
func (j *journal) giveUp() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.given = true
	j.waiting, j.size = nil, 0
	j.changed.Broadcast()
}

// close ends the log and waits until it is written, or given up.
func (j *journal) close() {
	j.mu.Lock()
	for step := range j.rest {
		j.release(step)
	}
	j.closed = true
	j.changed.Broadcast()
	j.mu.Unlock()
	select {
	case j.live <- struct{}{}:
	default:
	}
	<-j.done
}
