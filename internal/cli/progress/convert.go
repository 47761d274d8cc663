package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"imagebuilder/internal/event"
)

// converter turns events into the status messages that BuildKit's display reads. The display takes a vertex'
// digest as a name only, so that a step's ID stands there as it is.
type converter struct {
	known map[string]*time.Time                      // steps that the display has seen → when we said they began, where nobody else did
	open  map[string]map[string]*client.VertexStatus // step → progress that has not been completed
	notes int                                        // so far, to name them apart
}

func newConverter() converter {
	return converter{known: map[string]*time.Time{}, open: map[string]map[string]*client.VertexStatus{}}
}

// status is the message for an event, and nil for one that shows nothing.
func (c *converter) status(ev event.Event) *client.SolveStatus {
	switch {
	case ev.Step != nil:
		return &client.SolveStatus{Vertexes: []*client.Vertex{c.vertex(*ev.Step)}, Statuses: c.finish(*ev.Step)}
	case ev.Progress != nil:
		return c.progress(*ev.Progress)
	case ev.Log != nil:
		return &client.SolveStatus{
			Vertexes: c.introduce(ev.Log.Step, ev.Log.At),
			Logs: []*client.VertexLog{{
				Vertex: digest.Digest(ev.Log.Step), Stream: ev.Log.Stream, Data: ev.Log.Data, Timestamp: ev.Log.At,
			}},
		}
	}
	return nil
}

func (c *converter) progress(p event.Progress) *client.SolveStatus {
	started := p.Started
	if started == nil {
		started = &p.At // the display shows nothing that has not started
	}
	status := &client.VertexStatus{
		ID: label(p), Vertex: digest.Digest(p.Step), Name: p.Name, Current: p.Current, Total: p.Total,
		Timestamp: p.At, Started: started, Completed: p.Completed,
	}
	if c.open[p.Step] == nil {
		c.open[p.Step] = map[string]*client.VertexStatus{}
	}
	c.open[p.Step][p.ID] = status
	if p.Completed != nil {
		delete(c.open[p.Step], p.ID)
	}
	return &client.SolveStatus{Vertexes: c.introduce(p.Step, *started), Statuses: []*client.VertexStatus{status}}
}

// label is what the display shows for progress: its ID, which BuildKit makes for people, but the name where the
// ID is made of the step's.
func label(p event.Progress) string {
	if p.Name != "" && strings.HasPrefix(p.ID, p.Step) {
		return p.Name
	}
	return p.ID
}

// finish completes the progress of a step that is over: the plain display never tells the end, or the error,
// of a step that has some left, and a transfer that broke off has.
func (c *converter) finish(s event.Step) []*client.VertexStatus {
	if s.Completed == nil {
		return nil
	}
	var left []*client.VertexStatus
	for _, status := range c.open[s.ID] {
		done := *status
		done.Completed = s.Completed
		left = append(left, &done)
	}
	delete(c.open, s.ID)
	return left
}

// note is a vertex that is over at once.
func (c *converter) note(text string) *client.SolveStatus {
	c.notes++
	now := time.Now()
	return &client.SolveStatus{Vertexes: []*client.Vertex{{
		Digest: digest.Digest(fmt.Sprintf("note-%d", c.notes)), Name: text, Started: &now, Completed: &now,
	}}}
}

// introduce gives a vertex to a step that nobody announced: the display drops what belongs to none.
func (c *converter) introduce(step string, at time.Time) []*client.Vertex {
	if _, known := c.known[step]; known {
		return nil
	}
	c.known[step] = &at
	return []*client.Vertex{{Digest: digest.Digest(step), Name: step, Started: &at}}
}

func (c *converter) vertex(s event.Step) *client.Vertex {
	v := &client.Vertex{
		Digest: digest.Digest(s.ID), Name: name(s),
		Started: s.Started, Completed: s.Completed, Cached: s.Cached, Error: s.Error,
	}
	if v.Started == nil {
		v.Started = s.Completed // the display sorts by it; a cached step may tell its end only
	}
	if introduced := c.known[s.ID]; introduced != nil {
		v.Started = introduced // with another one the display takes it for a second run, and waits for the first
		return v
	}
	c.known[s.ID] = nil
	return v
}

// name is the step's name with what it belongs to, in BuildKit's own brackets: "[app:v1 2/3] RUN make".
func name(s event.Step) string {
	switch rest, bracket := strings.CutPrefix(s.Name, "["); {
	case s.Group == "":
		return s.Name
	case bracket:
		return "[" + s.Group + " " + rest
	default:
		return "[" + s.Group + "] " + s.Name
	}
}
