package web

import (
	"bytes"
	"encoding/json"
	"html/template"
	"strconv"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// maxSteps is how many steps may have an unfinished line at once; a build runs a few dozen side by side.
const maxSteps = 1024

// line is one line of a log as the page shows it.
type line struct {
	seq   int64  // of the log entry that ends it
	step  string // whose output it is; "" for what is not output
	class string // of a line that is not output: note, warning, error, attempt, cut
	here  bool   // it was looked for
	first bool   // it is the first of those
	spans []span
}

// reader makes lines of log entries. Lines of steps that run side by side come whole, each when it ends.
type reader struct {
	names   map[string]string // of steps, by ID
	only    string            // the step whose lines are wanted; "" wants all
	grouped bool              // steps are named with their image, for there are several
	screens map[string]*screen
	order   []string // of screens, oldest first
	heading string   // the step that the last line belongs to
}

func newReader(names map[string]string) *reader {
	if names == nil {
		names = map[string]string{}
	}
	return &reader{names: names, screens: map[string]*screen{}}
}

// read gives the lines that end in an entry.
func (r *reader) read(e store.LogEntry) []line {
	switch e.Kind {
	case store.LogOut:
		if r.only != "" && r.only != e.Step {
			return nil
		}
		return r.output(e)
	case store.LogStep:
		return r.step(e)
	case store.LogNote:
		var n event.Note
		if json.Unmarshal(e.Data, &n) != nil {
			return nil
		}
		class := "note"
		if n.Level == event.Warning {
			class = "warning"
		}
		return said(e.Seq, class, n.Text)
	case store.LogCut:
		var cut struct {
			Limit int64 `json:"limit"`
		}
		if json.Unmarshal(e.Data, &cut) != nil {
			return nil
		}
		return said(e.Seq, "cut", "output beyond "+size(cut.Limit)+" is not kept; the build goes on")
	case store.LogAttempt:
		var a struct {
			Attempt int    `json:"attempt"`
			Reason  string `json:"reason"`
		}
		if json.Unmarshal(e.Data, &a) != nil {
			return nil
		}
		out := r.flushAll(e.Seq)
		text := "attempt " + strconv.Itoa(a.Attempt)
		if a.Reason != "" {
			text += ": " + a.Reason
		}
		return append(out, said(e.Seq, "attempt", text)...)
	}
	return nil
}

func (r *reader) output(e store.LogEntry) []line {
	s := r.screens[e.Step]
	var out []line
	if s == nil {
		if len(r.order) >= maxSteps {
			out = r.flush(r.order[0], e.Seq)
		}
		s = &screen{}
		r.screens[e.Step], r.order = s, append(r.order, e.Step)
	}
	s.write(e.Data, func(spans []span) { out = append(out, line{seq: e.Seq, step: e.Step, spans: spans}) })
	return out
}

func (r *reader) step(e store.LogEntry) []line {
	var s event.Step
	if json.Unmarshal(e.Data, &s) != nil {
		return nil
	}
	r.names[s.ID] = s.Name
	if r.grouped {
		r.names[s.ID] = stepTitle(s.Group, s.Name)
	}
	if s.Completed == nil || (r.only != "" && r.only != s.ID) {
		return nil
	}
	out := r.flush(s.ID, e.Seq)
	if s.Error != "" {
		failed := said(e.Seq, "error", s.Error)
		for i := range failed {
			failed[i].step = s.ID
		}
		out = append(out, failed...)
	}
	return out
}

// flush ends the unfinished line of a step.
func (r *reader) flush(step string, seq int64) []line {
	s := r.screens[step]
	if s == nil {
		return nil
	}
	delete(r.screens, step)
	for i, id := range r.order {
		if id == step {
			r.order = append(r.order[:i:i], r.order[i+1:]...)
			break
		}
	}
	if spans := s.pending(); len(spans) > 0 {
		return []line{{seq: seq, step: step, spans: spans}}
	}
	return nil
}

func (r *reader) flushAll(seq int64) []line {
	var out []line
	for len(r.order) > 0 {
		out = append(out, r.flush(r.order[0], seq)...)
	}
	return out
}

// unfinished are the lines that have not ended: what progress displays draw.
func (r *reader) unfinished() []line {
	var out []line
	for _, step := range r.order {
		if spans := r.screens[step].pending(); len(spans) > 0 {
			out = append(out, line{step: step, spans: spans})
		}
	}
	return out
}

// said makes lines of text of ours. It goes through a screen too: a step's error may quote what the step printed.
func said(seq int64, class, text string) []line {
	var out []line
	add := func(spans []span) { out = append(out, line{seq: seq, class: class, spans: spans}) }
	var s screen
	s.write([]byte(text), add)
	if p := s.pending(); len(p) > 0 {
		add(p)
	}
	return out
}

// html writes lines; before output of another step than the line before it stands the step's name.
func (r *reader) html(b *bytes.Buffer, lines []line) {
	for _, l := range lines {
		if l.step != r.heading {
			r.heading = l.step
			if l.step != "" {
				b.WriteString(`<div class="step" data-seq="`)
				b.WriteString(strconv.FormatInt(l.seq, 10))
				b.WriteString(`">`)
				template.HTMLEscape(b, []byte(r.name(l.step)))
				b.WriteString("</div>")
			}
		}
		l.html(b)
	}
}

func (r *reader) name(step string) string {
	if name := r.names[step]; name != "" {
		return name
	}
	return step
}

func (l line) html(b *bytes.Buffer) {
	b.WriteString(`<div class="l`)
	if l.class != "" {
		b.WriteByte(' ')
		b.WriteString(l.class)
	}
	if l.here {
		b.WriteString(" here")
	}
	if l.first {
		b.WriteString(`" id="here`)
	}
	b.WriteString(`" data-seq="`)
	b.WriteString(strconv.FormatInt(l.seq, 10))
	b.WriteString(`">`)
	if len(l.spans) == 0 {
		b.WriteByte('\n') // an empty line takes its height, and is copied as one
	}
	for _, s := range l.spans {
		classes := s.style.classes()
		if classes != "" {
			b.WriteString(`<span class="`)
			b.WriteString(classes)
			b.WriteString(`">`)
		}
		template.HTMLEscape(b, s.text)
		if classes != "" {
			b.WriteString("</span>")
		}
	}
	b.WriteString("</div>")
}

// plain is the line's text without its looks.
func (l line) plain() []byte {
	var out []byte
	for _, s := range l.spans {
		out = append(out, s.text...)
	}
	return out
}

// stepTitle names a step for people.
func stepTitle(group, name string) string {
	if group == "" {
		return name
	}
	return group + " · " + name
}
