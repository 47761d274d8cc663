package progress_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/cli/progress"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// at is a moment, some milliseconds after the first.
func at(ms int) time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

func ptr(t time.Time) *time.Time { return &t }

// show is what a display writes for some events.
func show(t *testing.T, mode progress.Mode, events ...event.Event) string {
	t.Helper()
	var out bytes.Buffer
	d, err := progress.New(&out, mode, "xterm")
	require.NoError(t, err)
	for _, ev := range events {
		d.Emit(ev)
	}
	d.Close()
	d.Close()
	d.Emit(event.Event{Note: &event.Note{Text: "late"}})
	return out.String()
}

func step(id, name string, started, completed *time.Time) event.Event {
	return event.Event{Step: &event.Step{ID: id, Name: name, Started: started, Completed: completed}}
}

func log(id, text string, ms int) event.Event {
	return event.Event{Log: &event.Log{Step: id, Stream: 1, Data: []byte(text), At: at(ms)}}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	failed := step("b", "RUN false", ptr(at(0)), ptr(at(1200)))
	failed.Step.Error = "exit code: 1"
	cancelled := step("b", "RUN sleep", ptr(at(0)), ptr(at(1200)))
	cancelled.Step.Error = "context canceled"
	cached := step("b", "COPY . .", nil, ptr(at(0)))
	cached.Step.Cached = true
	grouped := step("b", "[2/3] RUN make", ptr(at(0)), ptr(at(100)))
	grouped.Step.Group = "app:v1"
	groupedPlain := step("b", "push", ptr(at(0)), ptr(at(100)))
	groupedPlain.Step.Group = "app:v1"
	for name, c := range map[string]struct {
		events []event.Event
		want   string
	}{
		"nothing": {nil, ""},
		"a step": {
			[]event.Event{step("a", "fetch source", ptr(at(0)), nil), step("a", "fetch source", ptr(at(0)), ptr(at(1500)))},
			"#1 fetch source\n#1 DONE 1.5s\n",
		},
		"a step that has not started yet": {
			[]event.Event{step("a", "fetch source", nil, nil)}, "",
		},
		"cached, with its end only": {[]event.Event{cached}, "#1 COPY . .\n#1 CACHED\n"},
		"of a variant":              {[]event.Event{grouped}, "#1 [app:v1 2/3] RUN make\n#1 DONE 0.1s\n"},
		"of a variant, no brackets": {[]event.Event{groupedPlain}, "#1 [app:v1] push\n#1 DONE 0.1s\n"},
		"output, cut anywhere": {
			[]event.Event{step("b", "RUN make", ptr(at(0)), nil), log("b", "one\ntw", 100), log("b", "o\n", 200), step("b", "RUN make", ptr(at(0)), ptr(at(300)))},
			"#1 RUN make\n#1 0.100 one\n#1 0.100 two\n#1 DONE 0.3s\n",
		},
		"output is told once when a step fails": {
			[]event.Event{step("b", "RUN false", ptr(at(0)), nil), log("b", "oh no\n", 100), failed},
			"#1 RUN false\n#1 0.100 oh no\n#1 ERROR: exit code: 1\n",
		},
		"cancelled": {[]event.Event{cancelled}, "#1 RUN sleep\n#1 CANCELED\n"},
		"output of a step that nobody announced": {
			[]event.Event{log("compile", "hello\n", 0)},
			"#1 compile\n#1 0.000 hello\n",
		},
		"progress": {
			[]event.Event{
				step("p", "push", ptr(at(0)), nil),
				{Progress: &event.Progress{ID: "layer 1", Step: "p", Current: 1 << 20, Total: 2 << 20, At: at(10), Started: ptr(at(0))}},
				{Progress: &event.Progress{ID: "layer 1", Step: "p", Current: 2 << 20, Total: 2 << 20, At: at(20), Started: ptr(at(0)), Completed: ptr(at(20))}},
				step("p", "push", ptr(at(0)), ptr(at(2000))),
			},
			"#1 push\n#1 layer 1 2.10MB / 2.10MB 0.0s done\n#1 DONE 2.0s\n",
		},
		"progress without a start": {
			[]event.Event{
				{Progress: &event.Progress{ID: "objects", Step: "fetch", Current: 7, At: at(10)}},
				step("fetch", "fetch", ptr(at(0)), ptr(at(20))),
			},
			"#1 fetch\n#1 objects 7B done\n#1 DONE 0.0s\n",
		},
		"progress whose id is made of the step's": {
			[]event.Event{
				step("fetch", "fetch", ptr(at(0)), nil),
				{Progress: &event.Progress{ID: "fetch:receive", Step: "fetch", Name: "receive", Current: 7, At: at(10), Completed: ptr(at(10))}},
			},
			"#1 fetch\n#1 receive 7B done\n",
		},
		"a bar that is written over": {
			[]event.Event{
				step("b", "RUN make", ptr(at(0)), nil), log("b", "one\r\n10%\r50%\r", 100), log("b", "100%\ntwo\n3\r4\r\r\n", 200),
				step("b", "RUN make", ptr(at(0)), ptr(at(300))),
			},
			"#1 RUN make\n#1 0.100 one\n#1 0.100 100%\n#1 0.200 two\n#1 0.200 4\n#1 DONE 0.3s\n",
		},
		"notes": {
			[]event.Event{{Note: &event.Note{Level: event.Info, Text: "starting an engine"}}, {Note: &event.Note{Level: event.Warning, Text: "cache is full"}}},
			"starting an engine\nwarning: cache is full\n",
		},
		"an empty event": {[]event.Event{{}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := show(t, progress.Plain, c.events...)
			for _, line := range strings.Split(strings.TrimSpace(c.want), "\n") {
				require.Contains(t, got, line)
			}
			require.NotContains(t, got, "\r")
			require.NotContains(t, got, "------")
			require.NotContains(t, got, "late")
			if c.want == "" {
				require.Empty(t, got)
			}
		})
	}
}

func TestPlainKeepsLinesWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d, err := progress.New(&out, progress.Plain, "")
	require.NoError(t, err)
	d.Emit(step("a", "RUN make", ptr(at(0)), nil))
	var group sync.WaitGroup
	for i := range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := range 100 {
				d.Emit(log("a", fmt.Sprintf("line %d.%d\n", i, j), 10))
				d.Emit(event.Event{Note: &event.Note{Level: event.Info, Text: "a note"}})
			}
		}()
	}
	group.Wait()
	d.Emit(step("a", "RUN make", ptr(at(0)), ptr(at(100))))
	d.Close()
	require.Equal(t, 800, strings.Count(out.String(), "a note\n"))
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		require.Regexp(t, `^(#1 (0\.010 line \d\.\d+|RUN make|DONE 0.1s)|a note)$`, line)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	events := []event.Event{
		step("a", "fetch", ptr(at(0)), ptr(at(5))), log("a", "\xff\n", 1),
		{Note: &event.Note{Level: event.Warning, Text: "beware"}},
	}
	dec := json.NewDecoder(strings.NewReader(show(t, progress.JSON, events...)))
	for _, want := range events {
		var got event.Event
		require.NoError(t, dec.Decode(&got))
		require.Equal(t, want, got)
	}
	require.ErrorIs(t, dec.Decode(new(event.Event)), io.EOF)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	_, err := progress.New(io.Discard, progress.TTY, "xterm")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.EqualError(t, err, "show progress as tty: standard error is no terminal")
	_, err = progress.New(io.Discard, "loud", "xterm")
	require.Equal(t, fault.Invalid, fault.KindOf(err))
}
