package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// PostBuild is the original's way to request a build.
func (s *server) PostBuild(w http.ResponseWriter, r *http.Request) {
	inv, _, err := s.Builds.Submit(r.Context(), caller(r), builds.Request{Document: bodyOf(r), TraceParent: traceParent(r)})
	if err != nil {
		if text, ok := wrongSources(err); ok {
			s.json(w, http.StatusBadRequest, jsonType, text)
			return
		}
		s.fail(w, r, err)
		return
	}
	s.json(w, http.StatusAccepted, jsonType, BuildingStarted{InvocationID: inv.ID})
}

const jsonType = "application/json"

// wrongSources is what the original says itself, as a JSON string, where everything else is the word of its framework: that sources
// do not go together.
func wrongSources(err error) (string, bool) {
	f := fault.As(err)
	if f.Kind != fault.Invalid || len(f.Problems) == 0 {
		return "", false
	}
	lines := make([]string, len(f.Problems))
	for i, p := range f.Problems {
		if p.Pointer != "/source" && p.Pointer != "/source/build_context" || strings.HasPrefix(p.Message, "is ") {
			return "", false
		}
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n"), true
}

// originalTime is how the original writes times: ISO 8601 as Python's isoformat does. Python reads it back in every version;
// a Z or another number of digits only from 3.11 on.
const originalTime = "2006-01-02T15:04:05.000000-07:00"

func pythonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(originalTime)
}

// status is a build as the original writes it; see Invocation in the document.
type status struct {
	InvocationID string          `json:"invocation_id"`
	State        InvocationState `json:"state"`
	Submission   string          `json:"timestamp_submission"`
	Start        string          `json:"timestamp_start,omitempty"`
	End          string          `json:"timestamp_end,omitempty"`
	BuildParams  json.RawMessage `json:"build_params,omitempty"`
	Response     string          `json:"response,omitempty"`
}

// GetStatus is the original's way to look at a build.
func (s *server) GetStatus(w http.ResponseWriter, r *http.Request, id InvocationID) {
	inv, err := s.Builds.Status(r.Context(), caller(r), id)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			s.json(w, http.StatusNotFound, jsonType, "Invocation with ID "+shown(id)+" not found")
			return
		}
		s.fail(w, r, err)
		return
	}
	s.json(w, http.StatusOK, jsonType, statusOf(inv))
}

// shown is an id as far as one could be one.
func shown(id string) string {
	const most = 64
	if len(id) > most {
		id = strings.ToValidUTF8(id[:most], "") + "…"
	}
	return id
}

func statusOf(inv store.Invocation) status {
	out := status{
		InvocationID: inv.ID, State: InvocationState(inv.State), BuildParams: inv.BuildParams, Response: inv.Response,
		Submission: pythonTime(inv.SubmittedAt), Start: pythonTime(inv.StartedAt), End: pythonTime(inv.EndedAt),
	}
	if inv.State == store.StateCancelled { // a state that clients of the original would wait on for ever
		out.State = InvocationStateFailed
	}
	if inv.State.Ended() {
		out.Response = response(inv)
	}
	return out
}

// response is never empty: the original's client prints it, whatever became of the build.
func response(inv store.Invocation) string {
	switch {
	case inv.Response != "" && inv.Reason != "" && inv.State == store.StateCancelled:
		return string(inv.Reason) + ": " + inv.Response
	case inv.Response != "":
		return inv.Response
	case inv.State != store.StateSuccess:
		return string(inv.Reason)
	}
	var made result.Result
	var lines []string
	if json.Unmarshal(inv.Result, &made) == nil {
		for _, image := range made.Images {
			lines = append(lines, image.Ref+" "+image.Digest)
		}
	}
	if len(lines) == 0 {
		lines = inv.Images
	}
	return "pushed " + strings.Join(lines, ", ")
}
