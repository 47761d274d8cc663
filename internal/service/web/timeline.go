package web

import (
	"slices"
	"time"

	"imagebuilder/internal/service/builds"
)

// width is how many units of the drawing a timeline's bars share out; the page stretches them to what there is.
const width = 1000

// lane is the steps of one platform of a variant, or of what belongs to all of them.
type lane struct {
	Title    string
	Platform string
	Cached   int
	Seconds  float64 // from its first step's beginning to its last one's end
	Bars     []bar
}

// bar is one step of a timeline.
type bar struct {
	ID, Name, Error string
	State           string // done, cached, running or failed
	X, Width        float64
	Took            time.Duration
	Now             bool // it goes on, and so does Took
}

// stretch is the stretch of time that a timeline shows.
type stretch struct{ from, to time.Time }

// lanes are a timeline's lanes, those that belong to no variant first.
func lanes(t builds.Timeline, now time.Time) []lane {
	var all []builds.Step
	all = append(all, t.Steps...)
	for _, v := range t.Variants {
		all = append(all, v.Steps...)
		for _, p := range v.Platforms {
			all = append(all, p.Steps...)
		}
	}
	var whole stretch
	for _, s := range all {
		if s.Started.IsZero() {
			continue
		}
		end := s.Ended
		if end.IsZero() {
			end = now
		}
		if whole.from.IsZero() || s.Started.Before(whole.from) {
			whole.from = s.Started
		}
		if end.After(whole.to) {
			whole.to = end
		}
	}
	var out []lane
	add := func(title, platform string, steps []builds.Step) {
		if len(steps) > 0 {
			out = append(out, whole.lane(title, platform, steps, now))
		}
	}
	add("Source and engine", "", t.Steps)
	for _, v := range t.Variants {
		if len(v.Platforms) == 1 { // what is for all platforms is for this one
			p := v.Platforms[0]
			steps := slices.Concat(v.Steps, p.Steps)
			slices.SortStableFunc(steps, func(a, b builds.Step) int { return a.Started.Compare(b.Started) })
			add(v.Ref, p.Name, steps)
			continue
		}
		for _, p := range v.Platforms {
			add(v.Ref, p.Name, p.Steps)
		}
		add(v.Ref, "all platforms", v.Steps)
	}
	return out
}

func (s stretch) lane(title, platform string, steps []builds.Step, now time.Time) lane {
	out := lane{Title: title, Platform: platform}
	var first, last time.Time
	for _, step := range steps {
		b := s.bar(step, now)
		if b.State == "cached" {
			out.Cached++
		}
		out.Bars = append(out.Bars, b)
		if step.Started.IsZero() {
			continue
		}
		if first.IsZero() || step.Started.Before(first) {
			first = step.Started
		}
		if end := step.Started.Add(b.Took); end.After(last) {
			last = end
		}
	}
	out.Seconds = last.Sub(first).Seconds()
	return out
}

func (s stretch) bar(step builds.Step, now time.Time) bar {
	b := bar{ID: step.ID, Name: step.Name, Error: step.Error, State: "done"}
	end := step.Ended
	if end.IsZero() {
		end, b.Now, b.State = now, true, "running"
	}
	switch {
	case step.Error != "":
		b.State = "failed"
	case step.Cached:
		b.State = "cached"
	}
	if step.Started.IsZero() {
		b.Now = false
		return b
	}
	b.Took = max(0, end.Sub(step.Started))
	all := s.to.Sub(s.from).Seconds()
	const least = 6 // units: what is shorter would not be seen
	if all <= 0 {
		b.Width = least
		return b
	}
	b.X = step.Started.Sub(s.from).Seconds() / all * width
	b.Width = max(least, b.Took.Seconds()/all*width)
	b.X = min(b.X, width-b.Width)
	return b
}

// names are a timeline's steps by ID, as the log names them.
func names(t builds.Timeline) map[string]string {
	out := map[string]string{}
	grouped := len(t.Variants) > 1
	add := func(group string, steps []builds.Step) {
		for _, s := range steps {
			out[s.ID] = s.Name
			if grouped {
				out[s.ID] = stepTitle(group, s.Name)
			}
		}
	}
	add("", t.Steps)
	for _, v := range t.Variants {
		add(v.Ref, v.Steps)
		for _, p := range v.Platforms {
			add(v.Ref, p.Steps)
		}
	}
	return out
}

// failedStep is the first step that failed.
func failedStep(lanes []lane) *bar {
	for _, l := range lanes {
		for _, b := range l.Bars {
			if b.State == "failed" {
				return &b
			}
		}
	}
	return nil
}

// layerBar is one layer in the chart of an image's size.
type layerBar struct {
	Number int
	Digest string
	Size   int64
	X      float64 // where it begins on the whole image's bar
	Width  float64
}

// chart shares out the width among layers by their size, one after another.
func chart(layers []builds.Layer) []layerBar {
	var all int64
	for _, l := range layers {
		all += max(0, l.Size)
	}
	out := make([]layerBar, len(layers))
	at := 0.0
	for i, l := range layers {
		out[i] = layerBar{Number: i + 1, Digest: l.Digest, Size: l.Size, X: at}
		if all > 0 {
			out[i].Width = float64(max(0, l.Size)) / float64(all) * width
		}
		at += out[i].Width
	}
	return out
}
