package queue

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

const (
	// flushTime is the longest that something waits to be written: a person who follows sees no delay.
	flushTime = 200 * time.Millisecond
	// flushSize is how much is written at once without waiting: an insert of it costs about as much as one of a line.
	flushSize = 32 << 10
	// rowSize is the most output in one entry.
	rowSize = 64 << 10
	// batchSize bounds what one transaction writes.
	batchSize = 1 << 20
	// waitingSize is how much may wait while the database is slow or away. Then the plugin waits, and with it the build.
	waitingSize = 8 << 20
	// entrySize is what an entry counts for besides its data, so that many small ones are bounded, too.
	entrySize = 128
)

// journal writes the log of one attempt: what the plugin tells, in its order, as entries without a gap.
type journal struct {
	write func(context.Context, []store.LogEntry) error // one call at a time; a failed one is repeated with the same entries
	mask  mask
	now   func() time.Time
	limit int64
	live  chan struct{} // holds one when there is something to write

	mu      sync.Mutex
	changed *sync.Cond // room, or an end
	waiting []store.LogEntry
	size    int
	attempt int
	next    int64 // Seq
	kept    int64 // bytes of output, of all attempts
	cut     bool
	rest    map[string][]byte // bytes of a step's output that wait for more: see mask.held
	steps   map[string]event.Step
	tails   map[string]*tail // of the steps that run
	failed  *failedStep      // the first that broke
	given   bool             // up: nothing is written any more
	closed  bool
	done    chan struct{} // closed when the last entry is written, or given up
}

// failedStep is the step that broke the build.
type failedStep struct {
	name string
	tail []string
}

func newJournal(lease *store.Lease, limit int64, m mask, now func() time.Time, write func(context.Context, []store.LogEntry) error) *journal {
	j := &journal{
		write: write, mask: m, now: now, limit: limit, live: make(chan struct{}, 1),
		attempt: lease.Invocation.Attempt, next: lease.NextSeq, kept: lease.LogBytes, cut: lease.LogCut,
		rest: map[string][]byte{}, steps: map[string]event.Step{}, tails: map[string]*tail{}, done: make(chan struct{}),
	}
	j.changed = sync.NewCond(&j.mu)
	if lease.Again != "" {
		j.add(store.LogAttempt, "", j.now(), mustJSON(map[string]any{"attempt": j.attempt, "reason": lease.Again}))
	}
	return j
}

// mustJSON encodes what can always be encoded: texts, numbers, times.
func mustJSON(v any) []byte {
	data, _ := json.Marshal(v)
	return data
}

// emit takes an event, of which only output may still hold secrets. It waits while too much is waiting to be written.
func (j *journal) emit(e event.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.size >= waitingSize && !j.given && !j.closed {
		j.changed.Wait()
	}
	if j.given {
		return
	}
	switch {
	case e.Log != nil:
		j.output(e.Log)
	case e.Step != nil:
		j.step(*e.Step)
	case e.Note != nil:
		j.add(store.LogNote, "", j.now(), mustJSON(e.Note))
	}
}

// output adds what a step has put out, without what may be the beginning of something.
func (j *journal) output(log *event.Log) {
	data := log.Data
	if rest := j.rest[log.Step]; len(rest) > 0 {
		data = append(rest, data...)
	}
	data = j.mask.bytes(data)
	held := j.mask.held(data)
	if held > 0 {
		j.rest[log.Step] = append([]byte(nil), data[len(data)-held:]...)
	} else {
		delete(j.rest, log.Step)
	}
	j.keep(log.Step, log.At, data[:len(data)-held])
}

// keep adds output up to the limit, and then the mark that says so.
func (j *journal) keep(step string, at time.Time, data []byte) {
	if len(data) == 0 {
		return
	}
	t := j.tails[step]
	if t == nil {
		t = &tail{}
		j.tails[step] = t
	}
	t.write(data)
	if j.cut {
		return
	}
	if at.IsZero() {
		at = j.now()
	}
	whole := len(data)
	if left := j.limit - j.kept; int64(len(data)) > left {
		data = data[:max(0, left)]
		data = data[:len(data)-partialRune(data)]
	}
	j.kept += int64(len(data))
	if last := len(j.waiting) - 1; len(data) > 0 {
		if last >= 0 && j.waiting[last].Kind == store.LogOut && j.waiting[last].Step == step {
			j.waiting[last].Data = append(j.waiting[last].Data, data...)
			j.grown(len(data))
		} else {
			j.add(store.LogOut, step, at, append([]byte(nil), data...)) // the event's data is not ours to keep
		}
	}
	if len(data) < whole {
		j.cut = true
		j.add(store.LogCut, step, at, mustJSON(map[string]int64{"dropped_from": j.kept, "limit": j.limit}))
	}
}

// step adds a step's beginning and its end; what else an engine says of it in between adds nothing.
func (j *journal) step(s event.Step) {
	if s.Completed != nil {
		j.release(s.ID)
	}
	key := s.ID + "\x00" + s.Group // variants share steps, and each of them shows them
	if before, known := j.steps[key]; s.Started == nil && s.Completed == nil ||
		known && (before.Started == nil) == (s.Started == nil) && (before.Completed == nil) == (s.Completed == nil) && before.Error == s.Error {
		return
	}
	j.steps[key] = s
	at := j.now()
	switch {
	case s.Completed != nil:
		at = *s.Completed
	case s.Started != nil:
		at = *s.Started
	}
	j.add(store.LogStep, s.ID, at, mustJSON(s))
	if s.Completed == nil {
		return
	}
	if event.Broken(s.Error) && j.failed == nil {
		j.failed = &failedStep{name: s.Name}
		if t := j.tails[s.ID]; t != nil {
			j.failed.tail = t.lines()
		}
	}
	delete(j.tails, s.ID)
}

// release adds what was held of a step's output: nothing more comes.
func (j *journal) release(step string) {
	rest := j.rest[step]
	delete(j.rest, step)
	j.keep(step, time.Time{}, rest)
}

// add puts an entry at the end. Its number is given when it is written, since output is split then.
func (j *journal) add(kind store.LogKind, step string, at time.Time, data []byte) {
	j.waiting = append(j.waiting, store.LogEntry{Attempt: j.attempt, Kind: kind, Step: step, At: at, Data: data})
	j.grown(entrySize + len(data))
}

func (j *journal) grown(by int) {
	j.size += by
	select {
	case j.live <- struct{}{}:
	default:
	}
}

// failure is the step that broke the build, nil if none did.
func (j *journal) failure() *failedStep {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}
