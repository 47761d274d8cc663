package builds

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"imagebuilder/internal/event"
	"imagebuilder/internal/service/store"
)

// plain writes a log as BuildKit's plain progress does: each step with a number, its output with the number and the seconds since the
// step began, and how it ended. Nothing that a build prints can pass for a line of another step. It keeps no output.
type plain struct {
	w       *bufio.Writer
	steps   map[string]*plainStep // of this attempt, by id
	numbers int
	current *plainStep // whose lines come; nil after its end
	begun   bool       // something was written
	midLine bool       // the current step's last line has not ended
}

type plainStep struct {
	number         int
	name           string
	started, ended time.Time
}

func newPlain(w io.Writer) *plain {
	return &plain{w: bufio.NewWriterSize(w, 32<<10), steps: map[string]*plainStep{}}
}

func (p *plain) flush() error { return p.w.Flush() }

func (p *plain) write(e store.LogEntry) error {
	switch e.Kind {
	case store.LogStep:
		var step event.Step
		if json.Unmarshal(e.Data, &step) == nil {
			p.step(step)
		}
	case store.LogOut:
		p.output(e)
	case store.LogNote:
		var note event.Note
		if json.Unmarshal(e.Data, &note) == nil {
			word := "note"
			if note.Level == event.Warning {
				word = "warning"
			}
			p.remark(word + ": " + oneLine(note.Text))
		}
	case store.LogCut:
		var cut struct{ Limit int64 }
		_ = json.Unmarshal(e.Data, &cut)
		p.remark(fmt.Sprintf("-- the output is cut here: a build may have %d bytes of it --", cut.Limit))
	case store.LogAttempt:
		var attempt struct {
			Attempt int
			Reason  string
		}
		_ = json.Unmarshal(e.Data, &attempt)
		p.remark(fmt.Sprintf("-- attempt %d: %s --", attempt.Attempt, oneLine(attempt.Reason)))
		p.steps = map[string]*plainStep{} // the numbers go on
		p.current = nil
	}
	return p.err()
}

// err is that of the writer, which keeps its first.
func (p *plain) err() error {
	_, err := p.w.Write(nil)
	return err
}

func (p *plain) step(step event.Step) {
	at := p.steps[step.ID]
	if at == nil {
		if step.Started == nil && step.Completed == nil {
			return // known, not begun
		}
		at = p.add(step.ID, step.Name)
	}
	if step.Started != nil && !step.Started.Equal(at.started) {
		at.started, at.ended = *step.Started, time.Time{} // again, where it had ended
	}
	if !at.ended.IsZero() {
		return // another variant that shares it tells the same
	}
	p.turnTo(at)
	if step.Completed == nil {
		return
	}
	at.ended = *step.Completed
	p.endLine()
	switch {
	case strings.HasSuffix(step.Error, context.Canceled.Error()):
		fmt.Fprintf(p.w, "#%d CANCELED\n", at.number)
	case step.Error != "":
		fmt.Fprintf(p.w, "#%d ERROR: %s\n", at.number, oneLine(step.Error))
	case step.Cached:
		fmt.Fprintf(p.w, "#%d CACHED\n", at.number)
	default:
		fmt.Fprintf(p.w, "#%d DONE %.1fs\n", at.number, max(0, at.ended.Sub(at.started).Seconds()))
	}
	p.current = nil
}

func (p *plain) add(id, name string) *plainStep {
	p.numbers++
	at := &plainStep{number: p.numbers, name: oneLine(name)}
	p.steps[id] = at
	return at
}

func (p *plain) output(e store.LogEntry) {
	at := p.steps[e.Step]
	if at == nil {
		at = p.add(e.Step, e.Step)
		at.started = e.At
	}
	p.turnTo(at)
	prefix := fmt.Sprintf("#%d %.3f ", at.number, max(0, e.At.Sub(at.started).Seconds()))
	for data := e.Data; len(data) > 0; {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !p.midLine {
			_, _ = p.w.WriteString(prefix)
		}
		_, _ = p.w.Write(line)
		if p.midLine = !ended; ended {
			_ = p.w.WriteByte('\n')
		}
		data = rest
	}
}

// turnTo makes a step the current one.
func (p *plain) turnTo(at *plainStep) {
	if p.current == at {
		return
	}
	if p.current != nil {
		p.endLine()
		fmt.Fprintf(p.w, "#%d ...\n", p.current.number)
	}
	if p.begun {
		_ = p.w.WriteByte('\n')
	}
	fmt.Fprintf(p.w, "#%d %s\n", at.number, at.name)
	p.current, p.begun = at, true
}

// remark writes a line that is of no step.
func (p *plain) remark(text string) {
	if p.current != nil {
		p.endLine()
		fmt.Fprintf(p.w, "#%d ...\n", p.current.number)
		p.current = nil
	}
	if p.begun {
		_ = p.w.WriteByte('\n')
	}
	p.begun = true
	_, _ = p.w.WriteString(text + "\n")
}

func (p *plain) endLine() {
	if p.midLine {
		_ = p.w.WriteByte('\n')
		p.midLine = false
	}
}

// oneLine keeps a name or a sentence from looking like several lines, and from filling the memory.
func oneLine(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
