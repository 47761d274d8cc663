// Package event holds what is told about work while it runs: steps, their output and notes.
// It knows no engine: BuildKit's vertices become steps, and so does a git fetch.
package event

import (
	"context"
	"strings"
	"time"
)

// Event is one thing that happened. Exactly one of its pointers is set.
type Event struct {
	Step     *Step     `json:"step,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Log      *Log      `json:"log,omitempty"`
	Note     *Note     `json:"note,omitempty"`
}

// Step is the state of one step; a later event with the same ID replaces it.
type Step struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Group     string     `json:"group,omitempty"` // what the step belongs to, as a variant's image; may be empty
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// Broken tells whether a step with this error broke by itself. One that was only cancelled did not: because another step failed, perhaps
// of another build, which shared this one.
func Broken(stepError string) bool {
	return stepError != "" && !strings.Contains(stepError, context.Canceled.Error())
}

// Progress is a countable part of a step, as bytes transferred.
type Progress struct {
	ID        string     `json:"id"`
	Step      string     `json:"step"` // Step.ID
	Name      string     `json:"name"`
	Current   int64      `json:"current,omitempty"` // bytes
	Total     int64      `json:"total,omitempty"`   // bytes; 0 when unknown
	At        time.Time  `json:"at"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

// Log is output of a step, as it came: not split into lines.
type Log struct {
	Step   string    `json:"step"`   // Step.ID
	Stream int       `json:"stream"` // 1 stdout, 2 stderr
	Data   []byte    `json:"data"`
	At     time.Time `json:"at"`
}

// Note is a sentence for people.
type Note struct {
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// Level is how much a note matters.
type Level string

// The levels.
const (
	Info    Level = "info"
	Warning Level = "warning"
)

// Sink takes events. It is called by several goroutines at once and must not block for long.
type Sink func(Event)

// Note sends a note.
func (s Sink) Note(level Level, text string) { s(Event{Note: &Note{Level: level, Text: text}}) }

// Begin announces a step that has started at t and returns the function that ends it.
func (s Sink) Begin(id, name string, now func() time.Time) (end func(error)) {
	started := now()
	s(Event{Step: &Step{ID: id, Name: name, Started: &started}})
	return func(err error) {
		completed := now()
		step := &Step{ID: id, Name: name, Started: &started, Completed: &completed}
		if err != nil {
			step.Error = err.Error()
		}
		s(Event{Step: step})
	}
}

// Discard is a sink that forgets.
func Discard(Event) {}
