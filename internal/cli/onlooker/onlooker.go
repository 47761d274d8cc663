// Package onlooker shows lines to the person who started opera. Opera runs a playbook, and the playbook runs us with
// pipes for standard output and error, whose ends opera keeps to itself: what we print there is seen late or never. What
// opera itself prints on is found through its process instead. On systems without /proc, and where no opera is
// above us, there is nobody.
//
// Nothing here may hold up or end a build: lines for someone who does not read are dropped.
package onlooker

import (
	"io"
	"strings"
	"sync"
	"time"
)

const (
	// waiting is how many writes may wait for someone who reads slowly; a burst of a build's output is less.
	waiting = 1024
	// patience is how long Close waits for what is waiting.
	patience = time.Second
)

// Onlooker writes lines to where opera's user looks. It is safe for concurrent use.
type Onlooker struct {
	to     io.WriteCloser
	prefix string
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	lines  chan string
	rest   string // of a line that is not complete
	closed bool
}

// Find looks for opera above this process; every line is shown after the prefix. It is nil, which may be used like any
// other, when there is nobody to show anything to.
func Find(prefix string) *Onlooker {
	to := find()
	if to == nil {
		return nil
	}
	return show(to, prefix)
}

func show(to io.WriteCloser, prefix string) *Onlooker {
	o := &Onlooker{to: to, prefix: prefix, lines: make(chan string, waiting), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		for line := range o.lines {
			_, _ = io.WriteString(to, line) // one write for a line: several of us may write at once
		}
	}()
	return o
}

// Write shows the complete lines of what it is given, now and before. It never fails and never waits.
func (o *Onlooker) Write(p []byte) (int, error) {
	if o == nil {
		return len(p), nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return len(p), nil
	}
	text := o.rest + string(p)
	for {
		line, rest, whole := strings.Cut(text, "\n")
		if !whole {
			break
		}
		o.line(line)
		text = rest
	}
	o.rest = text
	return len(p), nil
}

func (o *Onlooker) line(text string) {
	if text == "" {
		return // BuildKit's display parts steps by them; between the lines of several nodes they part nothing
	}
	select {
	case o.lines <- o.prefix + text + "\n":
	default: // dropped
	}
}

// Close shows what is still waiting, for a moment at most.
func (o *Onlooker) Close() {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.line(o.rest)
	o.closed = true
	close(o.lines)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-o.done:
	case <-timeout.C:
	}
	_ = o.to.Close() // which ends a write that hangs
}
