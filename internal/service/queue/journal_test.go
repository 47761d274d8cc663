package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
)

// sink is a log that a journal writes to; a write may fail, before or after it was done.
type sink struct {
	t       require.TestingT
	fail    func() (before, after bool)
	mu      sync.Mutex
	entries []store.LogEntry
}

func (s *sink) write(_ context.Context, entries []store.LogEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, after := s.fail()
	if before {
		return errors.New("the database is away")
	}
	for _, e := range entries {
		if n := int64(len(s.entries)); e.Seq <= n { // a repeated entry is the same as the one that was written
			require.Equal(s.t, s.entries[e.Seq-1].Data, e.Data)
			continue
		}
		require.EqualValues(s.t, len(s.entries)+1, e.Seq, "no gap")
		s.entries = append(s.entries, e)
	}
	if after {
		return errors.New("the database has gone away")
	}
	return nil
}

// outputs are the bytes of each step.
func (s *sink) outputs() map[string][]byte {
	all := map[string][]byte{}
	for _, e := range s.entries {
		if e.Kind == store.LogOut {
			all[e.Step] = append(all[e.Step], e.Data...)
		}
	}
	return all
}

func (s *sink) kinds(kind store.LogKind) (found []store.LogEntry) {
	for _, e := range s.entries {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

const (
	noLimit    = 1 << 40
	noSecrets  = `{"source":{"git_repo":{"url":"https://example.com/a.git"}}}`
	someSecret = "hunter2-secret"
	oneSecret  = `{"source":{"git_repo":{"url":"https://example.com/a.git","password":"` + someSecret + `"}}}`
)

func always() (bool, bool) { return false, false }

func output(step, text string) event.Event {
	return event.Event{Log: &event.Log{Step: step, Stream: 1, Data: []byte(text), At: time.Now()}}
}

func firstLease() *store.Lease {
	return &store.Lease{Invocation: store.Invocation{ID: "i", Attempt: 1}, NextSeq: 1}
}

// TestJournalTellsTheBrokenStep: a step that was cancelled before, as one that another build shared and gave up, is not it.
func TestJournalTellsTheBrokenStep(t *testing.T) {
	t.Parallel()
	s := &sink{t: t, fail: always}
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(noSecrets), s.write)
	require.NoError(t, err)
	at := time.Now()
	end := func(id, name, problem string) {
		j.Emit(event.Event{Step: &event.Step{ID: id, Name: name, Started: &at, Completed: &at, Error: problem}})
	}
	end("1", "[context busybox] r/busybox", "context canceled")
	end("1", "[context busybox] r/busybox", "")
	step, _ := j.Failure()
	require.Empty(t, step)
	j.Emit(output("2", "first\noops\n"))
	end("2", "[1/2] RUN exit 7", "exit code: 7")
	end("3", "[other 1/2] RUN exit 8", "exit code: 8")
	j.Close()
	step, lines := j.Failure()
	require.Equal(t, "[1/2] RUN exit 7", step)
	require.Equal(t, []string{"first", "oops"}, lines)
}

// TestJournalKeepsEveryByte: whatever steps put out, in whatever pieces, and however often the database fails, each step's bytes are
// there, once and in order, in entries without a gap that none of the limits is broken by.
func TestJournalKeepsEveryByte(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	fails := 3
	s := &sink{t: t, fail: func() (bool, bool) {
		if fails--; fails >= 0 {
			return fails%2 == 0, fails%2 == 1
		}
		return false, false
	}}
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(oneSecret), s.write)
	require.NoError(t, err)
	want := map[string][]byte{}
	for range 2000 {
		step := fmt.Sprint("step", random.IntN(3))
		data := make([]byte, random.IntN(2000))
		for i := range data {
			data[i] = "héllo\n\xff \x00"[random.IntN(10)]
		}
		if random.IntN(500) == 0 { // one line that is larger than an entry
			data = bytes.Repeat([]byte("é"), 100<<10)
		}
		want[step] = append(want[step], data...)
		j.Emit(output(step, string(data)))
		for i := range data {
			data[i] = 'X' // an event's data is its owner's again
		}
	}
	j.Close()
	got := s.outputs()
	for step, data := range want {
		require.True(t, bytes.Equal(data, got[step]), step)
	}
	for _, e := range s.entries {
		require.LessOrEqual(t, len(e.Data), queue.RowSize)
	}
}

func TestLongLinesAreCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	s := &sink{t: t, fail: always}
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(noSecrets), s.write)
	require.NoError(t, err)
	text := "line\n" + strings.Repeat("€", 100_000) + "\nend"
	for i := 0; i < len(text); i += 1001 { // in the middle of characters
		j.Emit(output("s", text[i:min(len(text), i+1001)]))
	}
	j.Close()
	require.Greater(t, len(s.entries), 4)
	for _, e := range s.entries {
		require.True(t, utf8.Valid(e.Data))
	}
	require.Equal(t, text, string(s.outputs()["s"]))
}

// TestLogIsCutWhereItSays: output up to the limit, one mark, and steps and notes after it. A next attempt goes on from there.
func TestLogIsCutWhereItSays(t *testing.T) {
	t.Parallel()
	const limit = 1000
	s := &sink{t: t, fail: always}
	j, err := queue.NewJournal(t.Context(), firstLease(), limit, []byte(noSecrets), s.write)
	require.NoError(t, err)
	now := time.Now()
	j.Emit(event.Event{Step: &event.Step{ID: "s", Name: "RUN x", Started: &now}})
	j.Emit(output("s", strings.Repeat("a", limit-1)))
	j.Emit(output("s", "€uro")) // a character that does not fit
	j.Emit(output("s", "more"))
	j.Emit(event.Event{Note: &event.Note{Level: event.Info, Text: "still told"}})
	j.Emit(event.Event{Step: &event.Step{ID: "s", Name: "RUN x", Started: &now, Completed: &now}})
	j.Close()
	require.Equal(t, strings.Repeat("a", limit-1), string(s.outputs()["s"]))
	cuts := s.kinds(store.LogCut)
	require.Len(t, cuts, 1)
	require.JSONEq(t, `{"dropped_from": 999, "limit": 1000}`, string(cuts[0].Data))
	require.Len(t, s.kinds(store.LogNote), 1)
	require.Len(t, s.kinds(store.LogStep), 2)

	lease := &store.Lease{Invocation: store.Invocation{ID: "i", Attempt: 2}, NextSeq: 1, LogBytes: limit - 1, LogCut: true, Again: "lost"}
	s = &sink{t: t, fail: always}
	j, err = queue.NewJournal(t.Context(), lease, limit, []byte(noSecrets), s.write)
	require.NoError(t, err)
	j.Emit(output("s", "x"))
	j.Close()
	require.Len(t, s.entries, 1)
	require.Equal(t, store.LogAttempt, s.entries[0].Kind)
	require.JSONEq(t, `{"attempt": 2, "reason": "lost"}`, string(s.entries[0].Data))
}

// TestSlowDatabaseHoldsTheBuildUp: no more than a bound waits in memory, and all of it is written in the end.
func TestSlowDatabaseHoldsTheBuildUp(t *testing.T) {
	t.Parallel()
	away, back := make(chan struct{}), make(chan struct{})
	s := &sink{t: t, fail: always}
	var once sync.Once
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(noSecrets), func(ctx context.Context, entries []store.LogEntry) error {
		once.Do(func() { close(away) })
		<-back
		return s.write(ctx, entries)
	})
	require.NoError(t, err)
	piece := strings.Repeat("x", 1<<20)
	emitted := make(chan int, 100)
	go func() {
		for i := range 20 {
			j.Emit(output("s", piece))
			emitted <- i
		}
		close(emitted)
	}()
	<-away
	require.Eventually(t, func() bool { return len(emitted) >= queue.WaitingSize>>20 }, 10*time.Second, time.Millisecond)
	require.Never(t, func() bool { return len(emitted) > queue.WaitingSize>>20+1 }, 300*time.Millisecond, 10*time.Millisecond)
	close(back)
	for range emitted { //nolint:revive // until the last
	}
	j.Close()
	require.Len(t, s.outputs()["s"], 20<<20)
}

// TestLostLogHoldsNobodyUp: when nothing can be written any more, the plugin must not wait for that.
func TestLostLogHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(noSecrets),
		func(context.Context, []store.LogEntry) error { return store.ErrLeaseLost })
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 40 {
			j.Emit(output("s", strings.Repeat("x", 1<<20)))
		}
		j.Close()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "emit waits for ever")
	}
}

func TestStepsAreToldAtStartAndEnd(t *testing.T) {
	t.Parallel()
	s := &sink{t: t, fail: always}
	j, err := queue.NewJournal(t.Context(), firstLease(), noLimit, []byte(oneSecret), s.write)
	require.NoError(t, err)
	start, end := time.Now(), time.Now().Add(time.Second)
	for _, step := range []event.Step{
		{ID: "s", Name: "RUN echo " + someSecret}, // announced
		{ID: "s", Name: "RUN echo " + someSecret, Started: &start},
		{ID: "s", Name: "RUN echo " + someSecret, Started: &start},
		{ID: "s", Name: "RUN echo " + someSecret, Started: &start, Completed: &end, Error: "exit code: 1: " + someSecret},
		{ID: "s", Name: "RUN echo " + someSecret, Started: &start, Completed: &end, Error: "exit code: 1: " + someSecret},
	} {
		j.Emit(event.Event{Step: &step})
	}
	j.Close()
	require.Len(t, s.entries, 2)
	var got event.Step
	require.NoError(t, json.Unmarshal(s.entries[1].Data, &got))
	require.Equal(t, "RUN echo ****", got.Name)
	require.Equal(t, "exit code: 1: ****", got.Error)
	require.True(t, end.Equal(s.entries[1].At))
}
