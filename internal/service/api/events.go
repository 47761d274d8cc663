package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

const (
	eventStream = "text/event-stream"
	// firstWord is how long an error may come as one. After that the stream begins, so that the follower knows that it is served.
	firstWord = 200 * time.Millisecond
	// reconnect is what followers are told to wait before they come again.
	reconnect = 2 * time.Second
)

// errGone says that the follower does not take what it is sent.
var errGone = errors.New("the follower has gone")

// events follows the log as server-sent events.
func (s *server) events(ctx context.Context, w http.ResponseWriter, r *http.Request, inv store.Invocation, after int64) {
	ctx, cancel := context.WithCancel(ctx)
	stream := &stream{w: w, control: http.NewResponseController(w), first: LogState{State: shownState(inv.State)}}
	var watch sync.WaitGroup
	watch.Go(func() { stream.keepAlive(ctx, s.Limits.KeepAlive, cancel) })
	err := s.Builds.Follow(ctx, caller(r), inv.ID, after, func(entries []store.LogEntry, state store.State) error {
		return stream.update(entries, state)
	})
	expired := ctx.Err()
	cancel()
	watch.Wait()
	switch {
	case err != nil && !stream.begun && !errors.Is(expired, context.DeadlineExceeded):
		s.fail(w, r, err)
		return
	case err != nil: // without an end the follower comes again
		_ = stream.breathe() // one whose time was over before its first word is a stream all the same
		s.brokenOff(r, err)
		return
	}
	last := LogState{State: BuildState(inv.State), Reason: Reason(inv.Reason)}
	if !inv.State.Ended() {
		ended, err := s.Builds.Status(r.Context(), caller(r), inv.ID)
		if err != nil { // deleted or unreachable since: the follower hears it when it comes again
			return
		}
		last = LogState{State: BuildState(ended.State), Reason: Reason(ended.Reason)}
	}
	_ = stream.end(last) // nobody is left to tell
}

// shownState is the state at a stream's start: an ended one is told at its end, after the log.
func shownState(state store.State) BuildState {
	if state.Ended() {
		return BuildStateInProgress
	}
	return BuildState(state)
}

// stream writes events. Its methods may be called by two at once: who follows, and who keeps it alive.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	first   LogState // told at the start

	mu     sync.Mutex
	begun  bool
	spoken bool // since keepAlive looked last
	state  BuildState
	buffer []byte
}

// keepAlive begins a stream that has nothing to say yet, and says so from time to time.
func (t *stream) keepAlive(ctx context.Context, every time.Duration, gone func()) {
	timer := time.NewTimer(firstWord)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := t.breathe(); err != nil {
			gone()
			return
		}
		timer.Reset(every)
	}
}

func (t *stream) breathe() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	silent := !t.spoken
	t.spoken = false
	if !t.begun {
		t.begin()
		return t.send()
	}
	if !silent {
		return nil
	}
	t.buffer = append(t.buffer, ":\n\n"...)
	return t.send()
}

// begin puts the header and the first events into the buffer.
func (t *stream) begin() {
	t.begun = true
	header := t.w.Header()
	header.Set("Content-Type", eventStream)
	header.Set("X-Accel-Buffering", "no")
	t.buffer = append(t.buffer, "retry: "+strconv.FormatInt(reconnect.Milliseconds(), 10)+"\n\n"...)
	t.tell(t.first)
}

// tell puts a change of state into the buffer.
func (t *stream) tell(state LogState) {
	if state.State != t.state {
		t.state = state.State
		t.event(0, "state", state)
	}
}

// update sends news of the build.
func (t *stream) update(entries []store.LogEntry, state store.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun {
		t.begin()
	}
	if !state.Ended() {
		t.tell(LogState{State: BuildState(state)})
	}
	for _, e := range entries {
		t.entry(e)
		if len(t.buffer) >= textPiece {
			if err := t.send(); err != nil {
				return err
			}
		}
	}
	return t.send()
}

// end sends that there is nothing more.
func (t *stream) end(state LogState) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun {
		t.begin()
	}
	t.tell(state)
	t.event(0, "end", state)
	return t.send()
}

// entry puts an entry of the log into the buffer. Each has an event, so that ids have no gap.
func (t *stream) entry(e store.LogEntry) {
	switch e.Kind {
	case store.LogOut:
		t.event(e.Seq, "log", LogOutput{Step: e.Step, At: utc(e.At), Data: string(e.Data)})
	case store.LogStep:
		var step event.Step
		_ = json.Unmarshal(e.Data, &step) // our own worker wrote it
		out := LogStep{ID: step.ID, Name: step.Name, Group: step.Group, Cached: step.Cached, Error: step.Error}
		if step.Started != nil {
			out.StartedAt = utc(*step.Started)
		}
		if step.Completed != nil {
			out.EndedAt = utc(*step.Completed)
		}
		t.event(e.Seq, "step", out)
	case store.LogNote:
		var note event.Note
		_ = json.Unmarshal(e.Data, &note)
		t.event(e.Seq, "note", LogNote{Level: LogNoteLevel(note.Level), Text: note.Text, At: utc(e.At)})
	case store.LogCut:
		var cut struct{ Limit int64 }
		_ = json.Unmarshal(e.Data, &cut)
		t.event(e.Seq, "note", LogNote{
			Level: LogNoteLevelWarning, At: utc(e.At),
			Text: "the output is cut here: a build may have " + strconv.FormatInt(cut.Limit, 10) + " bytes of it",
		})
	case store.LogAttempt:
		var attempt struct {
			Attempt int
			Reason  string
		}
		_ = json.Unmarshal(e.Data, &attempt)
		t.event(e.Seq, "note", LogNote{
			Level: LogNoteLevelWarning, At: utc(e.At), Text: "attempt " + strconv.Itoa(attempt.Attempt) + ": " + attempt.Reason,
		})
	}
}

// event puts an event into the buffer. JSON has no line ends of its own, so the data is one line.
func (t *stream) event(id int64, name string, data any) {
	text, err := json.Marshal(data)
	if err != nil {
		return // of texts and times, which always can be encoded
	}
	if id > 0 {
		t.buffer = append(t.buffer, "id: "...)
		t.buffer = strconv.AppendInt(t.buffer, id, 10)
		t.buffer = append(t.buffer, '\n')
	}
	t.buffer = append(t.buffer, "event: "...)
	t.buffer = append(t.buffer, name...)
	t.buffer = append(t.buffer, "\ndata: "...)
	t.buffer = append(t.buffer, text...)
	t.buffer = append(t.buffer, "\n\n"...)
}

// send empties the buffer.
func (t *stream) send() error {
	if len(t.buffer) == 0 {
		return nil
	}
	_ = t.control.SetWriteDeadline(time.Now().Add(writeTime)) // a writer without deadlines, as in a test, sends all the same
	_, err := t.w.Write(t.buffer)
	if err == nil {
		err = t.control.Flush()
	}
	t.buffer, t.spoken = t.buffer[:0], true
	const most = 2 * textPiece // a follower of many that once had a large piece need not keep its memory
	if cap(t.buffer) > most {
		t.buffer = nil
	}
	if err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}
