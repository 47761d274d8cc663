package store_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
)

func TestLogsHaveNoGaps(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		const writers, flushes, perFlush = 5, 30, 4
		var group sync.WaitGroup
		wrote := make([][]byte, writers)
		ids := make([]string, writers)
		for w := range writers {
			ids[w] = submit(t, s, submission(fmt.Sprint("s", w))).ID
			l := claim(t, s, "w")
			require.Equal(t, ids[w], l.Invocation.ID)
			group.Go(func() {
				for flush := range flushes {
					var entries []store.LogEntry
					for i := range perFlush {
						data := fmt.Sprintf("%d.%d.%d\x00\xff\n", w, flush, i)
						wrote[w] = append(wrote[w], data...)
						entries = append(entries, out(l.NextSeq+int64(i), data))
					}
					if err := s.AppendLog(t.Context(), l, entries); err != nil {
						t.Errorf("append: %v", err)
					}
				}
			})
		}
		// Somebody reads meanwhile.
		read := make([][]byte, writers)
		after := make([]int64, writers)
		look := func(w int) bool {
			entries, err := s.Log(t.Context(), ids[w], after[w], 100)
			require.NoError(t, err)
			for _, e := range entries {
				require.Equal(t, after[w]+1, e.Seq)
				after[w] = e.Seq
				read[w] = append(read[w], e.Data...)
			}
			return after[w] == flushes*perFlush
		}
		for w := range writers {
			require.Eventually(t, func() bool { return look(w) }, patience, 1)
		}
		group.Wait()
		for w := range writers {
			require.Equal(t, string(wrote[w]), string(read[w]))
			require.EqualValues(t, len(wrote[w]), get(t, s, ids[w]).LogBytes)
		}
	})
}

func TestLogIsReadInPieces(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		id := submit(t, s, submission("a")).ID
		l := claim(t, s, "w")
		big := strings.Repeat("x", 64<<10)
		entries := []store.LogEntry{
			out(1, "aaaa"), {Seq: 2, Attempt: 1, Kind: store.LogStep, Step: "s\x00", Data: []byte(`{"id":"s"}`)}, out(3, "bbbb"), out(4, big), out(5, ""), out(6, "c"),
			{Seq: 7, Attempt: 2, Kind: store.LogNote, Data: []byte("{}")}, {Seq: 8, Attempt: 2, Kind: store.LogAttempt, Data: nil},
		}
		require.NoError(t, s.AppendLog(t.Context(), l, entries))
		seqs := func(after int64, most int) (all []int64) {
			got, err := s.Log(t.Context(), id, after, most)
			require.NoError(t, err)
			for _, e := range got {
				all = append(all, e.Seq)
			}
			return all
		}
		require.Equal(t, []int64{1, 2}, seqs(0, 17))
		require.Equal(t, []int64{1, 2, 3}, seqs(0, 18))
		require.Equal(t, []int64{1}, seqs(0, 0), "at least one")
		require.Equal(t, []int64{4}, seqs(3, 10), "even a big one")
		require.Equal(t, []int64{4, 5, 6, 7, 8}, seqs(3, 1<<20))
		require.Empty(t, seqs(8, 100))
		got, err := s.Log(t.Context(), id, 3, 1)
		require.NoError(t, err)
		require.Equal(t, []store.LogEntry{entries[3]}, []store.LogEntry{{Seq: got[0].Seq, Attempt: 1, Kind: got[0].Kind, Step: got[0].Step, At: entries[3].At, Data: got[0].Data}})
		require.True(t, got[0].At.Equal(entries[3].At))

		few, err := s.LogKindEntries(t.Context(), id, store.LogStep, store.LogAttempt)
		require.NoError(t, err)
		require.Len(t, few, 2)
		require.Equal(t, "s\uFFFD", few[0].Step)
		require.Equal(t, store.LogAttempt, few[1].Kind)
		few, err = s.LogKindEntries(t.Context(), id, store.LogOut)
		require.NoError(t, err)
		require.Len(t, few, 5)
		require.Len(t, few[2].Data, len(big))
		few, err = s.LogKindEntries(t.Context(), newID(), store.LogOut)
		require.NoError(t, err)
		require.Empty(t, few)

		// More entries than one answer holds.
		for range 5 {
			entries = nil
			for i := range 300 {
				entries = append(entries, out(l.NextSeq+int64(i), "y"))
			}
			require.NoError(t, s.AppendLog(t.Context(), l, entries))
		}
		after := int64(0)
		var all bytes.Buffer
		for {
			got, err := s.Log(t.Context(), id, after, 1<<20)
			require.NoError(t, err)
			if len(got) == 0 {
				break
			}
			for _, e := range got {
				require.Equal(t, after+1, e.Seq)
				after = e.Seq
				all.Write(e.Data)
			}
		}
		require.EqualValues(t, 1508, after)
		require.Equal(t, "aaaa"+`{"id":"s"}`+"bbbb"+big+"c{}"+strings.Repeat("y", 1500), all.String())
	})
}

func TestAppendLogAgain(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		id := submit(t, s, submission("a")).ID
		l := claim(t, s, "w")
		before := *l
		entries := []store.LogEntry{out(1, "one"), out(2, "two")}
		require.NoError(t, s.AppendLog(t.Context(), l, entries))
		// The answer was lost, so that the worker knows nothing of it, and writes the same again.
		require.NoError(t, s.AppendLog(t.Context(), &before, entries))
		require.Equal(t, *l, before)
		got, err := s.Log(t.Context(), id, 0, 100)
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.EqualValues(t, 6, get(t, s, id).LogBytes)
		require.ErrorContains(t, s.AppendLog(t.Context(), l, []store.LogEntry{out(4, "gap")}), "entry 4 comes where 3 is due")
		require.NoError(t, s.AppendLog(t.Context(), l, nil))
	})
}
