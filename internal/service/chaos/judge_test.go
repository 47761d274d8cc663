package chaos

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

// awaitEnd waits until every build has ended.
func (f *fleet) awaitEnd(t *testing.T, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(250 * time.Millisecond) {
		stats, err := f.store.Stats(t.Context()) // an error: the database was killed a moment ago
		if err == nil && stats.Pending+stats.Running == 0 {
			return
		}
		if time.Now().After(end) {
			require.Fail(t, "builds are stuck", "%+v\n%s", stats, f.words())
		}
	}
}

// words is the end of what the processes said.
func (f *fleet) words() string {
	var b strings.Builder
	for _, m := range f.members {
		text := m.log.String()
		fmt.Fprintf(&b, "== %s\n%s\n", m.name, text[max(0, len(text)-4<<10):])
	}
	return b.String()
}

// judge looks at everything that came of the builds.
func (f *fleet) judge(t *testing.T, orders []order) {
	t.Helper()
	require.Len(t, f.all(t), len(orders), "there are more builds, or fewer, than were accepted")
	ids := map[string]bool{}
	attempts := 0
	for _, o := range orders {
		require.False(t, ids[o.id], "two requests got one build")
		ids[o.id] = true
		inv, err := f.store.Get(t.Context(), o.id)
		require.NoError(t, err)
		attempts += inv.Attempt
		f.judgeOutcome(t, o, inv)
		f.judgeLog(t, o, inv)
		require.False(t, inv.Sealed, "the secrets of a build that has ended are still there")
	}
	t.Logf("%d builds took %d attempts", len(orders), attempts)
}

// all is every build that there is.
func (f *fleet) all(t *testing.T) []store.Invocation {
	t.Helper()
	var all []store.Invocation
	filter := store.Filter{Visible: store.Visibility{All: true}, Limit: 200}
	for {
		page, next, err := f.store.List(t.Context(), filter)
		require.NoError(t, err)
		all = append(all, page...)
		if filter.After = next; next == "" {
			return all
		}
	}
}

// judgeOutcome holds a build to what its Dockerfile does, and its tag to its record.
func (f *fleet) judgeOutcome(t *testing.T, o order, inv store.Invocation) {
	t.Helper()
	tag, err := name.NewTag(f.site.Registry.Host + "/chaos:" + o.tag())
	require.NoError(t, err)
	served, err := remote.Head(tag)
	if o.fails() {
		require.Equal(t, store.StateFailed, inv.State, "build %d: %s", o.number, inv.Response)
		require.Equal(t, store.ReasonBuildFailed, inv.Reason, "build %d: %s", o.number, inv.Response)
		require.Contains(t, inv.Response, "exit code: 1", "build %d failed for another reason than it should", o.number)
		require.Error(t, err, "build %d failed, and its tag is there", o.number)
		return
	}
	require.Equal(t, store.StateSuccess, inv.State, "build %d: %s", o.number, inv.Response)
	require.NoError(t, err)
	var r result.Result
	require.NoError(t, json.Unmarshal(inv.Result, &r))
	require.Len(t, r.Images, 1)
	require.Equal(t, served.Digest.String(), r.Images[0].Digest, "build %d: the tag names something else than the record", o.number)
}

// judgeLog looks for gaps: in the numbers of the entries, and in the lines of the newest attempt that ran the step.
func (f *fleet) judgeLog(t *testing.T, o order, inv store.Invocation) {
	t.Helper()
	var seq int64
	outputs := map[int]*strings.Builder{} // by attempt
	var others strings.Builder            // entries that are no output
	for {
		entries, err := f.store.Log(t.Context(), o.id, seq, 1<<20)
		require.NoError(t, err)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			require.Equal(t, seq+1, e.Seq, "build %d: the log has a gap", o.number)
			seq = e.Seq
			if e.Kind == store.LogOut {
				if outputs[e.Attempt] == nil {
					outputs[e.Attempt] = &strings.Builder{}
				}
				outputs[e.Attempt].Write(e.Data)
			} else {
				fmt.Fprintf(&others, "\n%d %s %s: %s", e.Attempt, e.At.Format(time.StampMicro), e.Kind, e.Data)
			}
		}
	}
	require.Positive(t, seq, "build %d has no log", o.number)
	newest := outputs[inv.Attempt]
	if newest == nil && inv.Attempt > 1 && inv.State == store.StateSuccess {
		return // what an earlier attempt had built was taken from the cache
	}
	require.NotNil(t, newest, "build %d: attempt %d, %s, wrote nothing: %s%s", o.number, inv.Attempt, inv.State, inv.Response, &others)
	text := newest.String()
	at := 0
	for n := 1; n <= lines; n++ {
		i := strings.Index(text[at:], o.line(n)+"\n")
		require.GreaterOrEqual(t, i, 0, "build %d: line %d is missing from the log of attempt %d", o.number, n, inv.Attempt)
		at += i
	}
}
