// Package progress shows what goes on while a request runs: BuildKit's own display on a terminal, its plain
// lines elsewhere, or one JSON event on each line for programs. It shows events and nothing else: results and
// errors are somebody else's.
package progress

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/console"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// Mode is how progress is shown.
type Mode string

// The modes.
const (
	Auto  Mode = "auto"  // TTY on a terminal, Plain elsewhere
	TTY   Mode = "tty"   // BuildKit's display, which rewrites its lines
	Plain Mode = "plain" // lines, in the order in which things happen
	JSON  Mode = "json"  // one event.Event per line
)

// pending is how many events may wait for the display. A build with a lot of output then waits for a slow
// terminal only after a burst of that many.
const pending = 256

// Display shows events. It writes nothing before the first one.
type Display struct {
	out  io.Writer
	mode Mode

	mu       sync.Mutex // guards what follows
	closed   bool
	ui       *ui
	warnings []string // kept on a terminal until the display stands still
}

// New makes a display that writes to out; term is the type of the terminal ($TERM), where there is one.
// Mode TTY is an error when out is no terminal.
func New(out io.Writer, mode Mode, term string) (*Display, error) {
	switch mode {
	case Auto:
		mode = Plain
		if IsTerminal(out) && term != "dumb" {
			mode = TTY
		}
	case TTY:
		if !IsTerminal(out) {
			return nil, fault.New(fault.Invalid, "show progress as tty: standard error is no terminal").
				WithHint("--progress plain")
		}
	case Plain, JSON:
	default:
		return nil, fault.New(fault.Invalid, "show progress as %s: no such mode", mode)
	}
	return &Display{out: out, mode: mode}, nil
}

// Mode is the mode that was chosen; it is never Auto.
func (d *Display) Mode() Mode { return d.mode }

// Emit shows an event. It may be called concurrently; what comes after Close is dropped.
func (d *Display) Emit(ev event.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if d.mode == JSON {
		_ = json.NewEncoder(d.out).Encode(ev) // nobody is left to be told that standard error is gone
		return
	}
	if d.ui == nil {
		d.ui = newUI(d.out, d.mode)
	}
	if ev.Note != nil {
		d.note(*ev.Note)
		return
	}
	if status := d.ui.convert.status(ev); status != nil {
		d.ui.events <- status
	}
}

// note shows a sentence: on a terminal as a step that is over at once, so that it scrolls with the others.
func (d *Display) note(n event.Note) {
	text := n.Text
	if n.Level == event.Warning {
		text = "warning: " + text
	}
	if d.mode == Plain {
		d.ui.lines.line(text)
		return
	}
	if n.Level == event.Warning {
		d.warnings = append(d.warnings, text) // the display cuts lines off and may scroll them away
	}
	d.ui.events <- d.ui.convert.note(text)
}

// Close shows what is still pending and ends the display.
func (d *Display) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	if d.ui == nil {
		return
	}
	d.ui.close()
	for _, w := range d.warnings {
		fmt.Fprintln(d.out, w)
	}
}

// ui is BuildKit's display and the goroutine that feeds it.
type ui struct {
	convert converter
	events  chan *client.SolveStatus
	done    chan struct{}
	lines   *lineWriter // nil on a terminal
}

func newUI(out io.Writer, mode Mode) *ui {
	u := &ui{convert: newConverter(), events: make(chan *client.SolveStatus, pending), done: make(chan struct{})}
	var display progressui.Display
	var err error
	if file, ok := out.(console.File); ok && mode == TTY {
		display, err = progressui.NewDisplay(&terminal{File: file}, progressui.TtyMode)
	} else {
		u.lines = &lineWriter{out: out}
		display, err = progressui.NewDisplay(u.lines, progressui.PlainMode)
	}
	if err != nil { // the terminal went away since New looked
		display, _ = progressui.NewDisplay(io.Discard, progressui.QuietMode)
	}
	go u.run(display)
	return u
}

// run feeds the display. Should the display break on some output, the build goes on without it.
func (u *ui) run(display progressui.Display) {
	defer close(u.done)
	defer func() {
		if recover() != nil {
			for range u.events { // so that nobody waits for a reader
			}
		}
	}()
	_, _ = display.UpdateFrom(context.Background(), u.events)
}

func (u *ui) close() {
	close(u.events)
	<-u.done
	if u.lines != nil {
		u.lines.flush()
	}
}

// IsTerminal tells whether w is a terminal.
func IsTerminal(w any) bool {
	file, ok := w.(console.File)
	if !ok {
		return false
	}
	_, err := console.ConsoleFromFile(file)
	return err == nil
}

// errorLogs is the line with which BuildKit's display starts to repeat the output of failed steps, always in a
// write of its own. What follows it is dropped: the error that is printed last carries that output already.
const errorLogs = "------\n"

// terminal is a terminal that drops the repeated output of failed steps.
type terminal struct {
	console.File
	cut bool
}

// Write writes all but the repeated output of failed steps.
func (t *terminal) Write(p []byte) (int, error) {
	t.cut = t.cut || string(p) == errorLogs
	if t.cut {
		return len(p), nil
	}
	return t.File.Write(p)
}

// lineWriter writes whole lines only, so that notes never stand in the middle of one, and drops the repeated
// output of failed steps.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
	buf strings.Builder
	cut bool
}

// Write keeps what follows the last line break for later.
func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = l.cut || string(p) == errorLogs
	if l.cut {
		return len(p), nil
	}
	l.buf.Write(p)
	if len(p) == 0 || p[len(p)-1] != '\n' {
		return len(p), nil
	}
	_, err := io.WriteString(l.out, settled(l.buf.String()))
	l.buf.Reset()
	return len(p), err
}

// overwritten is what a program wrote over with carriage returns, as progress bars do, after the number of the step
// and the time. What a terminal would not show any more fills logs.
var overwritten = regexp.MustCompile(`(?m)^(#\d+ [\d.]+ |).*\r+([^\r\n])`)

// settled gives lines as a terminal would show them in the end.
func settled(lines string) string {
	if !strings.Contains(lines, "\r") {
		return lines
	}
	return strings.ReplaceAll(overwritten.ReplaceAllString(lines, "$1$2"), "\r", "")
}

func (l *lineWriter) line(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, text)
}

func (l *lineWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 0 {
		fmt.Fprintln(l.out, settled(l.buf.String()))
		l.buf.Reset()
	}
}
