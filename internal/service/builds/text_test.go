package builds_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// TestWriteText has everything that a log can hold, as it comes out as text.
func TestWriteText(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		inv := b.submit(t, ann, plain)
		w := b.run(t)
		run, slow, shared := event.Step{ID: "sha256:a", Name: "[build 2/3] RUN make", Group: "shop/web:v1", Started: after(1)},
			event.Step{ID: "sha256:b", Name: "[build 3/3] RUN\nsleep", Group: "shop/web:v1", Started: after(1)},
			event.Step{ID: "sha256:c", Name: "[1/3] FROM alpine", Group: "shop/web:v1", Started: after(1), Completed: after(1), Cached: true}
		ended := func(s event.Step, seconds float64, err string) store.LogEntry {
			s.Completed, s.Error = after(seconds), err
			return step(s)
		}
		other := shared
		other.Group = "shop/db:v1"
		w.log(t,
			note(event.Warning, "two\nlines"), step(event.Step{ID: "sha256:z", Name: "not begun"}),
			step(shared), step(other),
			step(run), out("sha256:a", after(1.25), "one\ntwo\nhal"), out("sha256:a", after(1.5), "f\n#9 DONE 1.0s\nopen"),
			step(slow), out("sha256:b", after(2), "\x1b[31mred\x1b[0m\r\n"), out("sha256:a", after(2.5), "ed\n"),
			ended(run, 3.26, ""), ended(run, 3.26, ""),
			entry(store.LogCut, "sha256:b", after(4), map[string]int{"dropped_from": 50, "limit": 64}),
			ended(slow, 4, "process \"/bin/sh -c sleep\" did not complete successfully: exit code: 1"),
		)
		require.NoError(t, w.store.HandBack(t.Context(), w.lease, store.HandBack{CountsAsAttempt: true, Reason: "the registry did not answer"}))
		w = b.run(t)
		w.log(t, entry(store.LogAttempt, "", after(5), map[string]any{"attempt": 2, "reason": w.lease.Again}),
			step(run), out("sha256:a", after(1), "again\n"), ended(run, 2, "rpc error: context canceled"),
			out("sha256:late", after(6), "nobody announced it"), note(event.Info, "done"))
		w.finish(t, store.Outcome{State: store.StateSuccess})

		var text, raw strings.Builder
		require.NoError(t, b.service.WriteText(t.Context(), ann, inv.ID, &text, ""))
		require.Equal(t, `warning: two lines

#1 [1/3] FROM alpine
#1 CACHED

#2 [build 2/3] RUN make
#2 0.250 one
#2 0.250 two
#2 0.250 half
#2 0.500 #9 DONE 1.0s
#2 0.500 open
#2 ...

#3 [build 3/3] RUN sleep
#3 1.000 `+"\x1b[31mred\x1b[0m\r"+`
#3 ...

#2 [build 2/3] RUN make
#2 1.500 ed
#2 DONE 2.3s

-- the output is cut here: a build may have 64 bytes of it --

#3 [build 3/3] RUN sleep
#3 ERROR: process "/bin/sh -c sleep" did not complete successfully: exit code: 1

-- attempt 2: the registry did not answer --

#4 [build 2/3] RUN make
#4 0.000 again
#4 CANCELED

#5 sha256:late
#5 0.000 nobody announced it
#5 ...

note: done
`, text.String())
		require.NoError(t, b.service.WriteText(t.Context(), ann, inv.ID, &raw, "sha256:a"))
		require.Equal(t, "one\ntwo\nhalf\n#9 DONE 1.0s\nopened\nagain\n", raw.String())
		require.ErrorIs(t, b.service.WriteText(t.Context(), ann, inv.ID, broken{}, ""), errBroken)
	})
}

var errBroken = errors.New("the reader has gone")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

// TestLargeLogAsText writes 20 MiB of one step: every byte comes back.
func TestLargeLogAsText(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bed) {
		inv := b.submit(t, ann, plain)
		w := b.run(t)
		w.log(t, step(event.Step{ID: "big", Name: "RUN seq", Started: after(0)}))
		sent := sha256.New()
		chunk := make([]byte, 0, 64<<10)
		for line, total := 0, 0; total < 20<<20; {
			var entries []store.LogEntry
			for range 16 {
				chunk = chunk[:0]
				for len(chunk) < 63<<10 {
					chunk = fmt.Appendf(chunk, "line %d of a log that is long\n", line)
					line++
				}
				_, _ = sent.Write(chunk)
				total += len(chunk)
				entries = append(entries, out("big", after(1), string(bytes.Clone(chunk))))
			}
			w.log(t, entries...)
		}
		got := sha256.New()
		require.NoError(t, b.service.WriteText(t.Context(), ann, inv.ID, got, "big"))
		require.Equal(t, sent.Sum(nil), got.Sum(nil))

		lines := &growth{}
		require.NoError(t, b.service.WriteText(t.Context(), ann, inv.ID, lines, ""))
		require.Greater(t, lines.bytes, 20<<20)
	})
}

// endless is a store whose one build has a log of 62 MiB, made as it is read: all of one line, and of many.
type endless struct {
	builds.Store
	data []byte
}

func (endless) Get(context.Context, string) (store.Invocation, error) {
	return store.Invocation{Subject: ann.Subject, State: store.StateInProgress}, nil
}

func (e endless) Log(_ context.Context, _ string, after int64, maxBytes int) (entries []store.LogEntry, err error) {
	for seq := after + 1; seq <= 1000 && maxBytes >= len(e.data); seq++ {
		maxBytes -= len(e.data)
		entries = append(entries, store.LogEntry{Seq: seq, Kind: store.LogOut, Step: "a", Data: bytes.Clone(e.data)})
	}
	return entries, nil
}

// TestTextNeedsNoMemory is not parallel: it looks at the memory of the whole process.
func TestTextNeedsNoMemory(t *testing.T) {
	for name, data := range map[string][]byte{"one line": bytes.Repeat([]byte("x"), 64<<10), "many lines": bytes.Repeat([]byte("x\n"), 32<<10)} {
		read := &growth{}
		service := builds.New(builds.Config{Store: endless{data: data}})
		require.NoError(t, service.WriteText(t.Context(), ann, "0199aaaa-0000-7000-8000-000000000000", read, ""))
		require.Greater(t, read.bytes, 60<<20, name)
		require.Less(t, read.most, uint64(4<<20), "%s: bytes in use beside those before", name)
	}
}

// growth looks at the memory in use while something is written.
type growth struct {
	bytes, writes int
	before, most  uint64
}

func (g *growth) Write(p []byte) (int, error) {
	g.bytes += len(p)
	if g.writes++; g.writes%200 == 1 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		if g.before == 0 {
			g.before = stats.HeapAlloc
		}
		if stats.HeapAlloc > g.before {
			g.most = max(g.most, stats.HeapAlloc-g.before)
		}
	}
	return io.Discard.Write(p)
}
