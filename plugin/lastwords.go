package plugin

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
)

const (
	// lastLines is how many lines of a dead plugin's stderr its error shows: as many as a person reads.
	lastLines = 20

	// maxLine is the most bytes of a line that are kept; what has no line breaks is no text.
	maxLine = 2000
)

// lastWords keeps the last lines of everything that a plugin wrote on its outputs, without stack traces:
// that of a panic ends with the line that says what happened.
type lastWords struct {
	mu    sync.Mutex
	all   io.Writer // gets everything as it comes; may be nil
	lines []string
	outs  []*output
}

// output is one of the plugin's outputs. Lines are put together per output, so that two of them
// do not end up in each other's.
type output struct {
	words   *lastWords
	partial []byte
	trace   traceState
}

type traceState int

const (
	noTrace traceState = iota
	inDump             // one goroutine's trace that somebody printed: it ends with an empty line
	inDeath            // the runtime's report of the end of the process: nothing else follows
)

var (
	deathLine = regexp.MustCompile(`^(panic: |fatal error: |SIG[A-Z]+: |runtime: goroutine stack exceeds)`)
	dumpLine  = regexp.MustCompile(`^goroutine \d+ (gp=\S+ .*)?\[.*\]:$`)
)

// output adds an output to be written to.
func (w *lastWords) output() *output {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := &output{words: w}
	w.outs = append(w.outs, o)
	return o
}

// Write takes the next bytes; it never fails.
func (o *output) Write(data []byte) (int, error) {
	o.words.mu.Lock()
	defer o.words.mu.Unlock()
	if o.words.all != nil {
		_, _ = o.words.all.Write(data)
	}
	n := len(data)
	for {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if room := maxLine - len(o.partial); room > 0 {
			o.partial = append(o.partial, line[:min(len(line), room)]...)
		}
		if !found {
			return n, nil
		}
		o.endLine()
		data = rest
	}
}

// endLine takes the collected line, with the lock held.
func (o *output) endLine() {
	line := string(bytes.TrimSuffix(o.partial, []byte("\r")))
	o.partial = o.partial[:0]
	switch {
	case o.trace == inDeath:
		return
	case deathLine.MatchString(line):
		o.trace = inDeath
	case dumpLine.MatchString(line):
		o.trace = inDump
		return
	case o.trace == inDump:
		if line == "" {
			o.trace = noTrace
		}
		return
	}
	if strings.TrimSpace(line) == "" {
		return
	}
	lines := append(o.words.lines, strings.ToValidUTF8(line, "\uFFFD"))
	o.words.lines = lines[max(0, len(lines)-lastLines):]
}

// text is the lines, each on a line of its own and indented, or "".
func (w *lastWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.outs {
		if len(o.partial) > 0 {
			o.endLine()
		}
	}
	var b strings.Builder
	for _, l := range w.lines {
		b.WriteString("\n  ")
		b.WriteString(l)
	}
	return b.String()
}
