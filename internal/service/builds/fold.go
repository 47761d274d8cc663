package builds

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/event"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

const (
	// maxSteps is how many steps of a build a timeline has: 64 images of some dozen instructions each have fewer.
	maxSteps = 5000
	// maxNotes is how many notes it has.
	maxNotes = 500
)

// Fold puts a timeline together from entries of a log, in their order, and from what the invocation says. Kinds of entries that a
// timeline does not need are passed over.
func Fold(inv store.Invocation, entries []store.LogEntry) Timeline {
	f := &folding{inv: inv}
	f.restart()
	for _, e := range entries {
		f.entry(e)
		f.last, f.attempt = e.At, e.Attempt
	}
	return f.timeline()
}

// folding is a timeline that is being put together.
type folding struct {
	inv      store.Invocation
	attempts []Attempt
	steps    []*groupStep
	byKey    map[stepKey]*groupStep
	notes    []Note
	cut      bool
	last     time.Time // of the newest entry
	attempt  int       // that it is of
}

// stepKey tells steps apart: variants that need the same work share an id, and each shows it.
type stepKey struct{ id, group string }

type groupStep struct {
	Step
	group string
}

func (f *folding) restart() {
	f.steps, f.notes, f.cut = nil, nil, false
	f.byKey = map[stepKey]*groupStep{}
}

func (f *folding) entry(e store.LogEntry) {
	switch e.Kind {
	case store.LogStep:
		var step event.Step
		if json.Unmarshal(e.Data, &step) == nil {
			f.step(step)
		}
	case store.LogNote:
		var note event.Note
		if json.Unmarshal(e.Data, &note) != nil {
			return
		}
		if f.cut = f.cut || len(f.notes) == maxNotes; len(f.notes) < maxNotes {
			f.notes = append(f.notes, Note{At: e.At, Level: string(note.Level), Text: note.Text})
		}
	case store.LogAttempt:
		var attempt struct {
			Attempt int
			Reason  string
		}
		_ = json.Unmarshal(e.Data, &attempt)
		f.attempts = append(f.attempts, Attempt{Number: max(1, f.attempt), Reason: attempt.Reason, Ended: e.At})
		f.restart()
	}
}

func (f *folding) step(step event.Step) {
	if step.Started == nil && step.Completed == nil {
		return // known, not begun
	}
	key := stepKey{step.ID, step.Group}
	at := f.byKey[key]
	if at == nil {
		if len(f.steps) == maxSteps {
			f.cut = true
			return
		}
		at = &groupStep{group: step.Group}
		f.byKey[key] = at
		f.steps = append(f.steps, at)
	}
	at.Step = Step{ID: step.ID, Name: step.Name, Cached: step.Cached, Error: step.Error, Phase: phaseOf(step)}
	if step.Completed != nil {
		at.Ended, at.Started = *step.Completed, *step.Completed
	}
	if step.Started != nil {
		at.Started = *step.Started
	}
}

// phaseOf tells by a step's id and name, as lifecycle, source, engine and registry give them, where it belongs.
func phaseOf(step event.Step) PhaseName {
	switch {
	case strings.HasPrefix(step.ID, "source:"):
		return PhaseFetch
	case step.ID == "managed-engine":
		return PhaseEngine
	case strings.HasPrefix(step.ID, "verify "):
		return PhaseVerify
	case strings.HasPrefix(step.ID, "push "), strings.HasPrefix(step.ID, "save "), strings.HasPrefix(step.ID, "merge "), strings.HasPrefix(step.Name, "exporting "):
		return PhasePush
	}
	return PhaseBuild
}

func (f *folding) timeline() Timeline {
	f.endAll()
	slices.SortStableFunc(f.steps, func(a, b *groupStep) int { return a.Started.Compare(b.Started) })
	t := Timeline{Attempts: f.attempts, Notes: f.notes, Cut: f.cut}
	var made *result.Result
	if len(f.inv.Result) > 0 {
		made = &result.Result{}
		if json.Unmarshal(f.inv.Result, made) != nil {
			made = nil
		}
	}
	t.Variants = variantsOf(f.inv, made)
	for _, step := range f.steps {
		t.place(step)
	}
	t.Phases = f.phases(made)
	return t
}

// endAll ends what a build has left open that does not run: what ended it, or handed it back to the queue, has stopped it.
func (f *folding) endAll() {
	if f.inv.State == store.StateInProgress {
		return
	}
	end := f.inv.EndedAt
	if end.IsZero() {
		end = f.last
	}
	for _, step := range f.steps {
		if step.Ended.IsZero() {
			step.Ended = end
			step.Error = cmp.Or(step.Error, "was stopped")
		}
	}
}

// place puts a step where it belongs.
func (t *Timeline) place(step *groupStep) {
	i := slices.IndexFunc(t.Variants, func(v Variant) bool { return step.belongs(v.Ref) })
	if i < 0 {
		t.Steps = append(t.Steps, step.Step)
		return
	}
	v := &t.Variants[i]
	name, counted := platformOf(step.Name)
	if name == "" && counted && len(v.Platforms) == 1 {
		name = v.Platforms[0].Name // BuildKit does not name the only one
	}
	j := slices.IndexFunc(v.Platforms, func(p Platform) bool { return p.Name == name })
	if j < 0 {
		v.Steps = append(v.Steps, step.Step) // of none, or of that of the machine that builds
		return
	}
	v.Platforms[j].Steps = append(v.Platforms[j].Steps, step.Step)
	if step.Cached {
		v.Platforms[j].Cached++
	}
}

// belongs tells whether a step is of a variant: by its group, which is the reference without its registry, or by what it takes
// out of an Engine or makes one index of.
func (s *groupStep) belongs(ref string) bool {
	_, name, _ := strings.Cut(ref, "/")
	if s.group != "" {
		return s.group == name
	}
	return s.ID == "save "+ref || s.ID == "merge "+ref || s.ID == "verify "+ref
}

var stepPrefix = regexp.MustCompile(`^\[([^\]]*)\] `)

// platformOf gives the platform that BuildKit has at the beginning of a step's name, as in "[linux/arm64 build 2/5] RUN make", and the one
// that is built for in "[linux/amd64->arm64 build 2/5] RUN make"; "" where it has none. Counted tells whether it is an instruction of a stage.
func platformOf(name string) (platform string, counted bool) {
	match := stepPrefix.FindStringSubmatch(name)
	if match == nil {
		return "", false
	}
	words := strings.Fields(match[1])
	if len(words) == 0 {
		return "", false
	}
	counted = strings.Contains(words[len(words)-1], "/")
	on, target, cross := strings.Cut(words[0], "->")
	normal, err := buildparams.NormalPlatform(on)
	if err != nil {
		return "", counted
	}
	if !cross {
		return normal, counted
	}
	system, _, _ := strings.Cut(normal, "/")
	for _, candidate := range []string{system + "/" + target, target} {
		if normal, err := buildparams.NormalPlatform(candidate); err == nil {
			return normal, counted
		}
	}
	return "", counted
}

// variantsOf are the variants of the document with what has become of each.
func variantsOf(inv store.Invocation, made *result.Result) []Variant {
	var document struct {
		Target struct {
			Images []struct{ Platforms []string }
		}
	}
	_ = json.Unmarshal(inv.BuildParams, &document) // Submit has looked at it
	variants := make([]Variant, len(inv.Images))
	for i, ref := range inv.Images {
		v := &variants[i]
		v.Ref = ref
		names := []string{"linux/amd64"}
		if images := document.Target.Images; i < len(images) && len(images[i].Platforms) > 0 {
			names = images[i].Platforms
		}
		for _, name := range names {
			if normal, err := buildparams.NormalPlatform(name); err == nil {
				name = normal
			}
			v.Platforms = append(v.Platforms, Platform{Name: name})
		}
		if made != nil {
			j := slices.IndexFunc(made.Images, func(r result.ImageResult) bool { return r.Ref == ref })
			if j >= 0 {
				v.take(made.Images[j])
			}
		}
	}
	return variants
}

// take takes over what the result says about a variant.
func (v *Variant) take(r result.ImageResult) {
	v.Digest, v.PinnedRef, v.Unchanged, v.Bases, v.Times, v.Error = r.Digest, r.PinnedRef, r.Unchanged, r.Bases, r.Times, r.Error
	for _, p := range r.Platforms {
		i := slices.IndexFunc(v.Platforms, func(mine Platform) bool { return mine.Name == p.Platform })
		if i < 0 {
			i = len(v.Platforms)
			v.Platforms = append(v.Platforms, Platform{Name: p.Platform})
		}
		at := &v.Platforms[i]
		at.Digest, at.Size, at.Layers = p.Digest, p.Size, p.Layers
	}
}

// phases are the stretches of the build.
func (f *folding) phases(made *result.Result) []Phase {
	var phases []Phase
	if !f.inv.SubmittedAt.IsZero() {
		queued := Phase{Name: PhaseQueued, Started: f.inv.SubmittedAt, Ended: f.inv.StartedAt}
		if queued.Ended.IsZero() {
			queued.Ended = f.inv.EndedAt // it never began
		}
		queued.Seconds = span(queued.Started, queued.Ended)
		phases = append(phases, queued)
	}
	for _, name := range []PhaseName{PhaseFetch, PhaseEngine, PhaseBuild, PhasePush, PhaseVerify} {
		phase := Phase{Name: name}
		open := false
		seen := map[string]bool{} // a step that variants share counts once
		for _, step := range f.steps {
			if step.Phase != name || seen[step.ID] {
				continue
			}
			seen[step.ID] = true
			phase.add(step.Step)
			open = open || step.Ended.IsZero()
		}
		if phase.Steps == 0 {
			continue
		}
		if open {
			phase.Ended = time.Time{}
		}
		phase.Seconds = span(phase.Started, phase.Ended)
		if made != nil {
			phase.Seconds = measured(name, made.Times, phase.Seconds)
		}
		phases = append(phases, phase)
	}
	return phases
}

func (p *Phase) add(step Step) {
	if p.Steps++; p.Steps == 1 || step.Started.Before(p.Started) {
		p.Started = step.Started
	}
	if step.Ended.After(p.Ended) {
		p.Ended = step.Ended
	}
	if step.Cached {
		p.Cached++
	}
	p.Failed = p.Failed || step.Error != ""
}

// measured is what the build itself has measured, where it has.
func measured(name PhaseName, times result.Times, otherwise float64) float64 {
	switch {
	case name == PhaseFetch && times.Fetch > 0:
		return times.Fetch
	case name == PhaseBuild && times.Build > 0:
		return times.Build
	case name == PhasePush && times.Push > 0:
		return times.Push
	}
	return otherwise
}

func span(from, to time.Time) float64 {
	if from.IsZero() || to.IsZero() {
		return 0
	}
	return max(0, to.Sub(from).Round(time.Millisecond).Seconds())
}
