package conformance

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/plugin"
)

// events collects those of one operation.
type events struct {
	mu   sync.Mutex
	seen []plugin.Event
}

func (e *events) take(ev plugin.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, ev)
}

// requireGood wants of events what displays rely on: steps have names and known IDs, what was started
// completes if all went well, and output belongs to steps that were told of.
func (e *events) requireGood(t *testing.T, succeeded bool) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	steps := map[string]*plugin.Step{}
	for _, ev := range e.seen {
		if s := ev.Step; s != nil {
			requireGoodStep(t, s)
			steps[s.ID] = s
		}
	}
	for _, ev := range e.seen {
		switch {
		case ev.Progress != nil:
			require.Contains(t, steps, ev.Progress.Step, "the step of a progress event")
			require.NotEmpty(t, ev.Progress.ID, "the ID of a progress event")
			require.GreaterOrEqual(t, ev.Progress.Current, int64(0))
			require.GreaterOrEqual(t, ev.Progress.Total, int64(0))
		case ev.Log != nil:
			require.Contains(t, steps, ev.Log.Step, "the step of a log event")
			require.Contains(t, []int{1, 2}, ev.Log.Stream, "the stream of a log event")
		case ev.Note != nil:
			require.NotEmpty(t, ev.Note.Text, "the text of a note")
			require.Contains(t, []string{"info", "warning"}, string(ev.Note.Level), "the level of a note")
		}
	}
	for _, s := range steps {
		if succeeded && s.Started != nil {
			require.NotNil(t, s.Completed, "step %s was started and never completed, but all went well", s.ID)
		}
	}
}

func requireGoodStep(t *testing.T, s *plugin.Step) {
	t.Helper()
	require.NotEmpty(t, s.ID, "the ID of a step")
	require.NotEmpty(t, s.Name, "the name of step %s", s.ID)
	if s.Completed != nil && s.Started != nil {
		require.False(t, s.Completed.Before(*s.Started), "step %s completed before it started", s.ID)
	}
}
