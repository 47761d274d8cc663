package follow

import (
	"context"
	"sort"
	"sync"

	"golang.org/x/sync/singleflight"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

// topic is one followed build. Its entries are the newest part of the log, up to tail, where all who have read everything wait.
// There is one reader at the tail, whoever needs it; it reads only when somebody waits. Those behind the entries read older
// parts, with one read for all who want the same.
type topic struct {
	source    Source
	id        string
	followers int // guarded by the Hub's lock
	ctx       context.Context
	end       context.CancelFunc // when the last follower has left
	older     singleflight.Group

	mu      sync.Mutex
	entries []store.LogEntry
	bytes   int
	tail    int64  // the last entry that was read
	placed  bool   // tail is known to be a place in the log
	past    []part // older parts that were read last, oldest first

	invocation store.Invocation
	version    int  // of invocation; 0: not read yet
	drained    bool // the build has ended, and nothing came after the tail since

	newEntries, newState bool          // there may be some
	reading              bool          // somebody reads at the tail
	waiting              bool          // somebody waits at the tail
	changed              chan struct{} // closed at any change
	err                  error         // of the last read
}

// part is a piece of the log.
type part struct {
	after   int64
	entries []store.LogEntry
	bytes   int
}

// position is how far a follower has come.
type position struct {
	seq     int64
	version int
	last    bool // it has got all there will ever be
}

func newTopic(source Source, id string) *topic {
	ctx, end := context.WithCancel(context.Background())
	return &topic{source: source, id: id, ctx: ctx, end: end, changed: make(chan struct{}), newState: true, newEntries: true}
}

// begin makes sure that a follower's beginning is a place in the log, and moves the tail there if it is newer.
func (t *topic) begin(ctx context.Context, after int64) error {
	t.mu.Lock()
	known := t.placed && after <= t.tail
	t.mu.Unlock()
	if known && after >= 0 {
		return nil
	}
	if after < 0 {
		return t.beyond(after)
	}
	if after > 0 {
		entries, err := t.source.Log(ctx, t.id, after-1, 1)
		if err != nil {
			return err
		}
		if len(entries) == 0 || entries[0].Seq != after {
			return t.beyond(after)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.placed || after > t.tail {
		t.placed, t.tail, t.entries, t.bytes, t.drained, t.newEntries = true, after, nil, 0, false, true
		t.broadcast()
	}
	return nil
}

func (t *topic) beyond(after int64) error {
	return fault.New(fault.Invalid, "follow build %s: its log has no entry %d to go on from", t.id, after).
		WithHint("begin again from its start")
}

// next gives what a follower gets next, or what to wait for.
func (t *topic) next(ctx context.Context, at *position) (Update, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var entries []store.LogEntry
	switch {
	case at.seq < t.tail:
		entries = from(t.entries, at.seq)
		if len(entries) == 0 || entries[0].Seq != at.seq+1 {
			t.mu.Unlock()
			var err error
			entries, err = t.read(ctx, at.seq)
			t.mu.Lock()
			if err != nil {
				return Update{}, nil, err
			}
		}
	case t.err != nil:
		return Update{}, nil, t.err
	case t.version == at.version && !t.drained:
		t.waiting = true
		t.advance()
		return Update{}, t.changed, nil
	}
	if len(entries) > 0 {
		at.seq = entries[len(entries)-1].Seq
	}
	at.version, at.last = t.version, t.drained && at.seq == t.tail
	return Update{Entries: entries, Invocation: t.invocation, Last: at.last}, nil, nil
}

// stale says that there may be news.
func (t *topic) stale(state bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newEntries, t.newState = true, t.newState || state
	t.advance()
}

// advance has somebody read at the tail, if that is wanted and nobody does. The lock is held.
func (t *topic) advance() {
	if t.waiting && !t.reading && (t.newEntries || t.newState) {
		t.reading = true
		go t.readTail()
	}
}

// broadcast wakes all who wait. The lock is held.
func (t *topic) broadcast() {
	close(t.changed)
	t.changed, t.waiting = make(chan struct{}), false
}

// readTail reads the state, then what is new in the log: a build whose state says that it has ended has written all of it.
func (t *topic) readTail() {
	t.mu.Lock()
	after, wantState := t.tail, t.newState
	t.newState, t.newEntries = false, false
	t.mu.Unlock()

	var invocation store.Invocation
	var got part
	err := t.patiently(func(ctx context.Context) (err error) {
		if wantState {
			if invocation, err = t.source.Get(ctx, t.id); err != nil {
				return err
			}
		}
		got, err = t.readPart(ctx, after)
		return err
	})

	t.mu.Lock()
	defer t.mu.Unlock()
	t.reading, t.err = false, err
	defer t.broadcast()
	if err != nil {
		t.newState, t.newEntries = true, true // for a follower who comes now
		return
	}
	if wantState {
		if t.version == 0 || t.invocation.State != invocation.State {
			t.version++
		}
		t.invocation = invocation
	}
	if t.tail != after { // a follower who is ahead has moved it
		t.newEntries = true
		return
	}
	t.drained = t.version > 0 && t.invocation.State.Ended() && len(got.entries) == 0
	if len(got.entries) > 0 {
		t.append(got)
		t.newEntries = true // perhaps: only an empty answer says that there is nothing
	}
}

// append puts new entries at the end, and lets go of the oldest. The lock is held.
func (t *topic) append(got part) {
	t.entries = append(t.entries, got.entries...)
	t.bytes += got.bytes
	t.tail = t.entries[len(t.entries)-1].Seq
	drop := 0
	for drop < len(t.entries) && t.bytes > keepBytes {
		t.bytes -= weight(t.entries[drop])
		drop++
	}
	if drop > 0 { // into memory of its own: followers hold on to what they were given
		t.entries = append([]store.LogEntry(nil), t.entries[drop:]...)
	}
}

// read gives entries of an older part of the log.
func (t *topic) read(ctx context.Context, after int64) ([]store.LogEntry, error) {
	if entries := t.remembered(after); len(entries) > 0 {
		return entries, nil
	}
	answer := t.older.DoChan(key(after), func() (any, error) {
		if entries := t.remembered(after); len(entries) > 0 {
			return entries, nil
		}
		var got part
		err := t.patiently(func(ctx context.Context) (err error) {
			if got, err = t.readPart(ctx, after); err == nil && len(got.entries) == 0 {
				// What was there is not any more: the build was deleted.
				if _, err = t.source.Get(ctx, t.id); err == nil {
					err = fault.New(fault.Internal, "follow build %s: its log has lost what comes after entry %d", t.id, after)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		t.remember(got)
		return got.entries, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-answer:
		entries, _ := got.Val.([]store.LogEntry)
		return entries, got.Err
	}
}

func (t *topic) readPart(ctx context.Context, after int64) (part, error) {
	entries, err := t.source.Log(ctx, t.id, after, readBytes)
	got := part{after: after, entries: entries}
	for _, e := range entries {
		got.bytes += weight(e)
	}
	return got, err
}

// remembered finds entries among the older parts that were read last.
func (t *topic) remembered(after int64) []store.LogEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.past {
		if p.after <= after {
			if entries := from(p.entries, after); len(entries) > 0 {
				return entries
			}
		}
	}
	return nil
}

func (t *topic) remember(got part) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.past = append(t.past, got)
	bytes := 0
	for i := len(t.past) - 1; i >= 0; i-- {
		if bytes += t.past[i].bytes; bytes > keepBytes && i < len(t.past)-1 {
			t.past = append([]part(nil), t.past[i+1:]...)
			return
		}
	}
}

// from is the entries after one.
func from(entries []store.LogEntry, after int64) []store.LogEntry {
	return entries[sort.Search(len(entries), func(i int) bool { return entries[i].Seq > after }):]
}

// weight is what an entry takes in memory, about.
func weight(e store.LogEntry) int { return len(e.Data) + len(e.Step) + 128 }
