package queue

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// FuzzSecretsAreMasked: however output is cut into pieces, no secret of the document comes through, and nothing else is lost.
func FuzzSecretsAreMasked(f *testing.F) {
	const secret = "hunter2-secret"
	m, err := maskOf([]byte(`{"source":{"git_repo":{"url":"https://example.com/a.git","password":"` + secret + `"}}}`))
	require.NoError(f, err)
	f.Add("before hunter2-secret after", uint8(3))
	f.Add("hunter2-hunter2-secret\nhunter2-secre", uint8(1))
	f.Add("h\xc3\xa9 \xff\xe2\x82", uint8(2))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		var written strings.Builder
		lease := &store.Lease{Invocation: store.Invocation{ID: "i", Attempt: 1}, NextSeq: 1}
		j := newJournal(lease, 1<<40, m, time.Now, func(_ context.Context, entries []store.LogEntry) error {
			for _, e := range entries {
				if e.Kind == store.LogOut {
					written.Write(e.Data)
				}
			}
			return nil
		})
		go j.run(t.Context(), func() {}, func(error) {})
		for rest := text; rest != ""; {
			n := min(len(rest), int(size)+1)
			j.emit(j.mask.event(event.Event{Log: &event.Log{Step: "s", Stream: 1, Data: []byte(rest[:n]), At: time.Now()}}))
			rest = rest[n:]
		}
		j.close()
		require.Equal(t, strings.ReplaceAll(text, secret, "****"), written.String())
	})
}
