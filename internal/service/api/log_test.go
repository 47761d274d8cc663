package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

// sse is an event as a browser sees it.
type sse struct {
	id         int64
	name, data string
}

// stream opens the log of a build as an event stream.
func (s *site) stream(ctx context.Context, caller, id, query string, header ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+invocations+"/"+id+"/log"+query, nil)
	require.NoError(s.t, err)
	r.Header.Set("X-API-Key", s.keys[caller])
	r.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { answer.Body.Close() })
	return answer
}

// read gives the events of a stream until f does not want more of them, or it ends. A comment has the name ":".
func read(from io.Reader, f func(sse) bool) {
	lines := bufio.NewReader(from)
	var e sse
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case strings.HasPrefix(line, ":"):
			e.name = ":"
		case field == "id":
			e.id, _ = strconv.ParseInt(value, 10, 64)
		case field == "event":
			e.name = value
		case field == "data":
			e.data = value
		case line == "\n":
			if e.name != "" && !f(e) {
				return
			}
			e = sse{}
		}
	}
}

// texts are the outputs in events, one after the other.
func texts(t *testing.T, events []sse) string {
	var all strings.Builder
	for _, e := range events {
		if e.name == "log" {
			var out struct{ Data string }
			require.NoError(t, json.Unmarshal([]byte(e.data), &out))
			all.WriteString(out.Data)
		}
	}
	return all.String()
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("shop/web")).ID
	answer := s.stream(t.Context(), "alice", id, "")
	require.Equal(t, 200, answer.StatusCode)
	require.Equal(t, "text/event-stream", answer.Header.Get("Content-Type"))
	require.Equal(t, "no", answer.Header.Get("X-Accel-Buffering"))
	require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))

	var events []sse
	read(answer.Body, func(e sse) bool { // the stream begins while nothing happens
		events = append(events, e)
		return false
	})
	require.Equal(t, []sse{{name: "state", data: `{"state":"pending"}`}}, events)
	answer.Body.Close()

	answer = s.stream(t.Context(), "alice", id, "")
	lease := s.claim()
	s.log(lease, store.LogStep, "1", `{"id":"1","name":"RUN make","group":"shop/web:v1","started":"2026-01-01T00:00:00Z"}`)
	s.log(lease, store.LogOut, "1", "hello\nwörld\x1b[31m\n")
	s.log(lease, store.LogOut, "1", "\xff\n")
	s.log(lease, store.LogNote, "", `{"level":"warning","text":"two\nlines"}`)
	s.log(lease, store.LogCut, "", `{"dropped_from":10,"limit":10}`)
	s.log(lease, store.LogAttempt, "", `{"attempt":2,"reason":"lost"}`)
	s.finish(lease, store.Outcome{State: store.StateFailed, Reason: store.ReasonTimeout})
	events = nil
	read(answer.Body, func(e sse) bool {
		// Times are those of the test.
		e.data = withoutTime(t, e.data)
		if e.name != "state" || e.data != `{"state":"pending"}` && e.data != `{"state":"in_progress"}` { // how many of them are seen is a matter of luck
			events = append(events, e)
		}
		return true
	})
	require.Equal(t, []sse{
		{1, "step", `{"group":"shop/web:v1","id":"1","name":"RUN make","started_at":"2026-01-01T00:00:00Z"}`},
		{2, "log", `{"data":"hello\nwörld\u001b[31m\n","step":"1"}`},
		{3, "log", `{"data":"�\n","step":"1"}`},
		{4, "note", `{"level":"warning","text":"two\nlines"}`},
		{5, "note", `{"level":"warning","text":"the output is cut here: a build may have 10 bytes of it"}`},
		{6, "note", `{"level":"warning","text":"attempt 2: lost"}`},
		{0, "state", `{"reason":"timeout","state":"failed"}`},
		{0, "end", `{"reason":"timeout","state":"failed"}`},
	}, events)

	// Whoever comes again after the end misses nothing, and hears that it was the end.
	for query, header := range map[string]string{"?after=4": "2", "": "4"} {
		events = nil
		read(s.stream(t.Context(), "alice", id, query, "Last-Event-ID", header).Body, func(e sse) bool {
			events = append(events, e)
			return true
		})
		require.Equal(t, []int64{5, 6}, ids(events))
		require.Equal(t, "end", events[len(events)-1].name)
	}
	require.Equal(t, "text/event-stream", s.want(200, "alice", "HEAD", invocations+"/"+id+"/log", "", "Accept", "text/html, text/event-stream;q=0.9").Header.Get("Content-Type"))
	answer = s.stream(t.Context(), "alice", id, "?after=7")
	require.Equal(t, 400, answer.StatusCode, "an id that is none of this log's")
	require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
	require.Equal(t, 404, s.stream(t.Context(), "bob", id, "").StatusCode)
	s.want(400, "alice", "GET", invocations+"/"+id+"/log?after=-1", "")
	s.want(400, "alice", "GET", invocations+"/"+id+"/log?after=x", "")
	s.want(400, "alice", "GET", invocations+"/"+id+"/log?follow=maybe", "")
	s.want(400, "alice", "GET", invocations+"/"+id+"/log", "", "Last-Event-ID", "x")
}

func withoutTime(t *testing.T, data string) string {
	var value map[string]any
	require.NoError(t, json.Unmarshal([]byte(data), &value))
	delete(value, "at")
	out, err := json.Marshal(value)
	require.NoError(t, err)
	return string(out)
}

func ids(events []sse) (all []int64) {
	for _, e := range events {
		if e.id > 0 {
			all = append(all, e.id)
		}
	}
	return all
}

func TestEventsResume(t *testing.T) {
	t.Parallel()
	// Streams end all the time, as behind a proxy with a short patience.
	s := start(t, func(c *setup) { c.api.Limits.Stream = 150 * time.Millisecond })
	id := s.submit("alice", build("shop/web")).ID
	lease := s.claim()
	const entries = 200
	go func() {
		for i := range entries {
			s.log(lease, store.LogOut, "1", fmt.Sprintf("line %d\n", i))
		}
		s.finish(lease, store.Outcome{State: store.StateSuccess})
	}()
	var events []sse
	last, streams := int64(0), 0
	for ended := false; !ended; streams++ {
		require.Less(t, streams, 200)
		header := []string{}
		if last > 0 {
			header = []string{"Last-Event-ID", strconv.FormatInt(last, 10)}
		}
		read(s.stream(t.Context(), "alice", id, "", header...).Body, func(e sse) bool {
			events = append(events, e)
			last = max(last, e.id)
			ended = e.name == "end"
			return true
		})
	}
	require.Greater(t, streams, 1, "no stream broke off")
	for i, seq := range ids(events) {
		require.EqualValues(t, i+1, seq)
	}
	require.Len(t, ids(events), entries)
	require.Equal(t, strings.Count(texts(t, events), "\n"), entries)
}

func TestEventsKeepAlive(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *setup) { c.api.Limits.KeepAlive = 20 * time.Millisecond })
	id := s.submit("alice", build("shop/web")).ID
	comments := 0
	read(s.stream(t.Context(), "alice", id, "").Body, func(e sse) bool {
		if e.name == ":" {
			comments++
		}
		return comments < 3
	})
	require.Equal(t, 3, comments)
}

func TestEventsOfMany(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("shop/web")).ID
	lease := s.claim()
	const followers, entries = 200, 100
	var all sync.WaitGroup
	var begun, whole atomic.Int64
	for range followers {
		all.Go(func() {
			answer := s.stream(t.Context(), "alice", id, "")
			begun.Add(1)
			next, ended := int64(1), false
			read(answer.Body, func(e sse) bool {
				if e.id != 0 {
					if e.id != next {
						return false
					}
					next++
				}
				ended = e.name == "end"
				return !ended
			})
			if ended && next == entries+1 {
				whole.Add(1)
			}
		})
	}
	for i := range entries {
		if i == entries/2 { // half of it comes before the last has come, half after
			require.Eventually(t, func() bool { return begun.Load() == followers }, time.Minute, 5*time.Millisecond)
			require.Equal(t, 1, s.hub.Followed())
		}
		s.log(lease, store.LogOut, "1", strings.Repeat("x", 1000)+"\n")
	}
	s.finish(lease, store.Outcome{State: store.StateSuccess})
	all.Wait()
	require.EqualValues(t, followers, whole.Load())
	require.Eventually(t, func() bool { return s.hub.Followed() == 0 }, 10*time.Second, 5*time.Millisecond)
}

func TestText(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("shop/web")).ID
	log := invocations + "/" + id + "/log"
	answer := s.want(200, "alice", "GET", log, "")
	require.Equal(t, "text/plain; charset=utf-8", answer.Header.Get("Content-Type"))
	require.Empty(t, answer.body)

	// Followed, the text comes as it is written.
	followed := s.stream(t.Context(), "alice", id, "?follow=true", "Accept", "text/plain")
	lease := s.claim()
	s.log(lease, store.LogStep, "1", `{"id":"1","name":"RUN make","started":"2026-01-01T00:00:00Z"}`)
	s.log(lease, store.LogOut, "1", "hello\n")
	lines := bufio.NewReader(followed.Body)
	first, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "#1 RUN make\n", first)
	s.log(lease, store.LogOut, "2", "other")
	raw := "\xff\x00 as it is, without an end of line"
	s.log(lease, store.LogOut, "1", raw)
	s.finish(lease, store.Outcome{State: store.StateSuccess})
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)

	whole := s.want(200, "alice", "GET", log, "")
	require.Equal(t, whole.body, first+string(rest))
	require.Contains(t, whole.body, "hello\n")
	for _, query := range []string{"?step=1", "?step=1&follow=true"} {
		require.Equal(t, "hello\n"+raw, s.want(200, "alice", "GET", log+query, "").body)
	}
	require.Empty(t, s.want(200, "alice", "GET", log+"?step=none", "").body)
}

// 20 MiB from one RUN arrive whole, and cost as much memory as a small log.
func TestLargeLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.submit("alice", build("shop/web")).ID
	lease := s.claim()
	piece := strings.Repeat("0123456789abcdef", 4095) + "0123456789abcde\n" // 64 KiB, the most in one entry
	const pieces, batch = 320, 32
	for range pieces / batch {
		entries := make([]store.LogEntry, batch)
		for i := range entries {
			entries[i] = store.LogEntry{Seq: lease.NextSeq + int64(i), Attempt: 1, Kind: store.LogOut, Step: "1", At: time.Now(), Data: []byte(piece)}
		}
		require.NoError(t, s.store.AppendLog(t.Context(), lease, entries))
	}
	s.finish(lease, store.Outcome{State: store.StateSuccess})
	answer := s.want(200, "alice", "GET", invocations+"/"+id+"/log?step=1", "")
	require.Len(t, answer.body, pieces*len(piece))
	require.True(t, answer.body == strings.Repeat(piece, pieces))
	var events []sse
	read(s.stream(t.Context(), "alice", id, "").Body, func(e sse) bool {
		events = append(events, e)
		return true
	})
	require.True(t, texts(t, events) == answer.body)
}
