package source

import (
	"strings"
	"sync"
	"time"

	"imagebuilder/internal/event"
)

// progressEvery is the least time between two reports of a transfer: more often nobody can read.
const progressEvery = 200 * time.Millisecond

// progress reports a transfer to a step: bytes that came, and what the server says meanwhile.
type progress struct {
	job     *job
	step    string
	started time.Time
	mu      sync.Mutex
	bytes   int64
	last    time.Time
}

func (j *job) progress(step string) *progress {
	return &progress{job: j, step: step, started: j.now()}
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
	if now := p.job.now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		p.send(now, nil)
	}
}

func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.job.now()
	p.send(now, &now)
}

func (p *progress) send(now time.Time, completed *time.Time) {
	p.job.emit(event.Event{Progress: &event.Progress{
		ID: p.step + ":receive", Step: p.step, Name: "receive", Current: p.bytes,
		At: now, Started: &p.started, Completed: completed,
	}})
}

// Write passes on what the server says, without what would move a terminal's cursor or be a secret.
func (p *progress) Write(text []byte) (int, error) {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\r' || r == 0x7f || r == 0x9b {
			return -1
		}
		return r
	}, string(text))
	p.job.emit(event.Event{Log: &event.Log{
		Step: p.step, Stream: 2, Data: []byte(p.job.hidden.Replace(clean)), At: p.job.now(),
	}})
	return len(text), nil
}
