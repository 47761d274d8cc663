package queue_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/queue"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// TestBuildArrivesWhole: a build's images are in the registry as its record says, and each byte of its output is in the log.
func TestBuildArrivesWhole(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	var want bytes.Buffer
	for i := 1; want.Len() < size; i++ {
		fmt.Fprintln(&want, i)
	}
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			b.work(t)
			id := b.submit(t, b.dockerfile(t, fmt.Sprintf("RUN seq 1 2999999 >/a && head -c %d /a >/b && cat /b", size)))
			inv := b.ended(t, id)
			require.Equal(t, store.StateSuccess, inv.State, inv.Response)
			require.Equal(t, 1, inv.Attempt)
			require.Empty(t, inv.Reason)
			require.False(t, inv.Sealed)
			require.False(t, inv.LogCut)
			t.Logf("queue to running %s, all in %s", inv.StartedAt.Sub(inv.SubmittedAt), inv.EndedAt.Sub(inv.SubmittedAt))

			var out result.Result
			require.NoError(t, json.Unmarshal(inv.Result, &out))
			ref, err := name.ParseReference(b.Registry.Host + "/app:1")
			require.NoError(t, err)
			served, err := remote.Head(ref)
			require.NoError(t, err)
			require.Equal(t, served.Digest.String(), out.Images[0].Digest)
			require.Equal(t, "pushed "+b.Registry.Host+"/app:1 "+out.Images[0].Digest, inv.Response)

			entries := b.log(t, id)
			got := outputOf(t, entries, "seq 1 2999999")
			require.Len(t, got, size)
			require.True(t, bytes.Equal(want.Bytes()[:size], got), "byte for byte")
			for _, e := range entries {
				require.LessOrEqual(t, len(e.Data), queue.RowSize)
				require.Equal(t, 1, e.Attempt)
			}
		})
	}
}

// TestFailureIsTold: what went wrong is in the record, for people and for programs.
func TestFailureIsTold(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			b.work(t)
			broken := b.submit(t, b.dockerfile(t, "RUN echo first; echo oops; exit 7"))
			missing := b.submit(t, b.dockerfile(t, "COPY nothing /"))
			invalid := b.submit(t, `{"source":{}}`)

			inv := b.ended(t, broken)
			require.Equal(t, store.StateFailed, inv.State)
			require.Equal(t, store.ReasonBuildFailed, inv.Reason)
			require.Contains(t, inv.Response, "exit code: 7")
			require.Contains(t, inv.Response, "oops")
			require.False(t, inv.Sealed)
			var why struct {
				Kind, Message, Step string
				LogTail             []string `json:"log_tail"`
			}
			require.NoError(t, json.Unmarshal(inv.Failure, &why))
			require.Equal(t, "build_failed", why.Kind)
			require.Contains(t, why.Message, "exit code: 7")
			require.Contains(t, why.Step, "exit 7")
			require.Equal(t, []string{"first", "oops"}, why.LogTail)

			require.Equal(t, store.ReasonBuildFailed, b.ended(t, missing).Reason)
			inv = b.ended(t, invalid)
			require.Equal(t, store.ReasonInvalid, inv.Reason)
			var problems struct{ Problems []struct{ Pointer string } }
			require.NoError(t, json.Unmarshal(inv.Failure, &problems))
			require.NotEmpty(t, problems.Problems)
			tags, all := b.puts.list()
			require.Empty(t, tags)
			require.Zero(t, all)
		})
	}
}

// TestCancelStopsTheStep: whoever says so, in whichever process, and nothing is pushed.
func TestCancelStopsTheStep(t *testing.T) {
	t.Parallel()
	for i, database := range databases {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, database)
			b.work(t)
			sleep := fmt.Sprint(31415001 + i)
			id := b.submit(t, b.dockerfile(t, "RUN echo started; exec sleep "+sleep))
			b.says(t, id, "started")
			require.True(t, testbed.ProcessRuns(sleep))
			asked := time.Now()
			_, err := b.store.Cancel(t.Context(), id)
			require.NoError(t, err)
			inv := b.ended(t, id)
			took := time.Since(asked)
			t.Logf("cancelled in %s", took)
			require.Less(t, took, 10*time.Second)
			require.Equal(t, store.StateCancelled, inv.State)
			require.Equal(t, store.ReasonCancelled, inv.Reason)
			require.Eventually(t, func() bool { return !testbed.ProcessRuns(sleep) }, 10*time.Second-took, 20*time.Millisecond)
			_, all := b.puts.list()
			require.Zero(t, all)
		})
	}
}

func TestBuildThatTakesTooLong(t *testing.T) {
	t.Parallel()
	b := newBed(t, "sqlite")
	b.work(t)
	id := b.submit(t, b.dockerfile(t, "RUN exec sleep 31415003"), func(s *store.Submission) { s.Timeout = 3 * time.Second })
	inv := b.ended(t, id)
	require.Equal(t, store.StateFailed, inv.State)
	require.Equal(t, store.ReasonTimeout, inv.Reason)
	require.Contains(t, inv.Response, "longer than 3s")
	require.Less(t, inv.EndedAt.Sub(inv.StartedAt), 13*time.Second)
}
