package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	bk "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"imagebuilder/internal/event"
)

// imageScheme starts a source operation's identifier that is an image of a registry.
const imageScheme = "docker-image://"

// sourceSpy notes which images the frontend asks the daemon to use, by the digest of the operation. That
// digest is the vertex in the daemon's status: an operation is content addressed, so a vertex that the daemon
// reports as completed is exactly the pull of that pinned image.
type sourceSpy struct {
	gateway.Client
	record *recorder
	served map[string]string // see servedBases
}

// Solve passes on, after a look at the sources.
func (s *sourceSpy) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Definition != nil {
		for _, data := range req.Definition.Def {
			var op pb.Op
			if err := op.Unmarshal(data); err != nil {
				continue
			}
			if image := s.pulledImage(op.GetSource().GetIdentifier()); image != "" {
				s.record.asked(digest.FromBytes(data), image)
			}
		}
	}
	return s.Client.Solve(ctx, req)
}

// recorder keeps what matters of the daemon's status and passes all of it on as events.
type recorder struct {
	group string
	emit  event.Sink
	logs  *logFilter

	mu        sync.Mutex
	images    map[digest.Digest]string // source operation → pinned image
	completed map[digest.Digest]bool
	vertices  map[digest.Digest]*bk.Vertex
	tails     map[digest.Digest]*tail
	pushStart time.Time
	pushEnd   time.Time
	endTurn   func() // nil while the image is not being packed
}

func newRecorder(group string, logs *logFilter, emit event.Sink) *recorder {
	return &recorder{
		group: group, emit: emit, logs: logs,
		images: map[digest.Digest]string{}, completed: map[digest.Digest]bool{},
		vertices: map[digest.Digest]*bk.Vertex{}, tails: map[digest.Digest]*tail{},
	}
}

func (r *recorder) asked(op digest.Digest, image string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[op] = image
}

// sources are the images that were asked for and that the daemon reports as done.
func (r *recorder) sources() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var used []string
	for op, image := range r.images {
		if r.completed[op] {
			used = append(used, image)
		}
	}
	slices.Sort(used)
	return slices.Compact(used)
}

func (r *recorder) pushTime() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pushEnd.Sub(r.pushStart)
}

// packing notes that the image is being packed from now on. done is called once it is.
func (r *recorder) packing(done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endTurn = done
}

// packed notes that the image is packed, or never will be.
func (r *recorder) packed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turnEnds()
}

func (r *recorder) turnEnds() {
	if r.endTurn != nil {
		r.endTurn()
		r.endTurn = nil
	}
}

func (r *recorder) status(st *bk.SolveStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range st.Vertexes {
		r.vertex(v)
	}
	for _, s := range st.Statuses {
		r.progress(s)
	}
	for _, l := range st.Logs {
		r.log(l)
	}
	for _, w := range st.Warnings {
		r.emit.Note(event.Warning, r.group+": "+string(w.Short))
	}
}

func (r *recorder) vertex(v *bk.Vertex) {
	r.vertices[v.Digest] = v
	if v.Completed != nil && v.Error == "" {
		r.completed[v.Digest] = true
	}
	step := event.Step{
		ID: r.step(v.Digest), Name: v.Name, Group: r.group,
		Started: v.Started, Completed: v.Completed, Cached: v.Cached, Error: v.Error,
	}
	if v.Error != "" && isCache(v) {
		step.Error = "" // the build goes on
		if !strings.HasSuffix(v.Error, ": not found") {
			r.emit.Note(event.Warning, r.group+": "+v.Name+": "+short(v.Error)+"; the build goes on without it"+cacheAdvice(v.Error))
		}
	}
	r.emit(event.Event{Step: &step})
}

// step is the step's name among those of all variants. A vertex is named by its content, so variants that need the
// same work share it; but every export has the same digest, and is a step of its own.
func (r *recorder) step(vertex digest.Digest) string {
	if v := r.vertices[vertex]; v != nil && isExport(v) {
		return vertex.String() + " " + r.group
	}
	return vertex.String()
}

// isCache tells the steps that read and write build caches. They may fail.
func isCache(v *bk.Vertex) bool {
	return strings.HasPrefix(v.Name, "importing cache ") || strings.HasPrefix(v.Name, "exporting cache ")
}

func isExport(v *bk.Vertex) bool { return strings.HasPrefix(v.Name, "exporting ") }

func (r *recorder) progress(s *bk.VertexStatus) {
	if strings.HasPrefix(s.ID, "exporting manifest ") || strings.HasPrefix(s.ID, "pushing ") { // all layers are packed before
		r.turnEnds()
	}
	if strings.HasPrefix(s.ID, "pushing ") {
		if s.Started != nil && (r.pushStart.IsZero() || s.Started.Before(r.pushStart)) {
			r.pushStart = *s.Started
		}
		if s.Completed != nil && s.Completed.After(r.pushEnd) {
			r.pushEnd = *s.Completed
		}
	}
	r.emit(event.Event{Progress: &event.Progress{
		ID: s.ID, Step: r.step(s.Vertex), Name: s.Name, Current: s.Current, Total: s.Total,
		At: s.Timestamp, Started: s.Started, Completed: s.Completed,
	}})
}

func (r *recorder) log(l *bk.VertexLog) {
	t := r.tails[l.Vertex]
	if t == nil {
		t = &tail{}
		r.tails[l.Vertex] = t
	}
	t.write(l.Data)
	if r.logs.first(l) {
		r.emit(event.Event{Log: &event.Log{Step: r.step(l.Vertex), Stream: l.Stream, Data: l.Data, At: l.Timestamp}})
	}
}

// failed is the step that broke the build and its last lines, nil when no step did.
func (r *recorder) failed() (step *bk.Vertex, lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, v := range r.vertices {
		if isCache(v) || !event.Broken(v.Error) {
			continue
		}
		if step == nil || v.Started != nil && step.Started != nil && v.Started.Before(*step.Started) {
			step, lines = v, nil
			if t := r.tails[d]; t != nil {
				lines = t.lines()
			}
		}
	}
	return step, lines
}

// logFilter lets each piece of output pass once: variants that share a step all hear its output.
type logFilter struct {
	mu   sync.Mutex
	seen map[string]struct{}
}

func newLogFilter() *logFilter { return &logFilter{seen: map[string]struct{}{}} }

func (f *logFilter) first(l *bk.VertexLog) bool {
	key := fmt.Sprint(l.Vertex, l.Stream, l.Timestamp.UnixNano(), len(l.Data))
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.seen[key]; ok {
		return false
	}
	f.seen[key] = struct{}{}
	return true
}

const (
	tailLines = 20   // lines of a failed step that its error shows
	tailWidth = 4096 // bytes of a line that are kept; a minified file on one line says nothing more
)

// tail keeps the last lines of a step's output.
type tail struct {
	done []string
	open []byte // the line that has not ended yet
}

func (t *tail) write(data []byte) {
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n")) // nothing is copied: a megabyte of short lines comes in one piece
		if room := tailWidth - len(t.open); room > 0 {
			t.open = append(t.open, line[:min(len(line), room)]...)
		}
		if ended {
			t.done = append(t.done, strings.TrimRight(string(t.open), "\r"))
			t.open = t.open[:0]
			if len(t.done) > tailLines {
				t.done = t.done[1:]
			}
		}
		data = rest
	}
}

func (t *tail) lines() []string {
	all := slices.Clone(t.done)
	if len(t.open) > 0 {
		all = append(all, string(t.open))
	}
	return all[max(0, len(all)-tailLines):]
}
