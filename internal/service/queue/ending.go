package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
	"imagebuilder/plugin"
)

const (
	// The waits between attempts grow from firstBackoff to mostBackoff: most of what is away is back within seconds, and a registry
	// that is down for minutes is not asked more often than that.
	firstBackoff = 2 * time.Second
	mostBackoff  = time.Minute

	// responseSize bounds a sentence for people. The end of a long one tells more.
	responseSize = 64 << 10
)

// ending is how an attempt ended and what is written about it.
type ending struct {
	Ending
	outcome  store.Outcome  // unless How is HandedBack
	handBack store.HandBack // if it is
}

// timeoutError is why a build that takes too long is stopped.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("the build took longer than %s", e.limit) }

// judge says what the plugin's answer means for the invocation. building is the plugin's context.
func (a *attempt) judge(building context.Context, out json.RawMessage, err error) ending {
	inv := a.lease.Invocation
	out = a.clean(out)
	if err == nil {
		return ending{Ending{How: Succeeded, Result: out}, store.Outcome{
			State: store.StateSuccess, Response: summary(out), Result: out,
		}, store.HandBack{}}
	}
	cause := context.Cause(building)
	f := a.masked(fault.As(err))
	var late *timeoutError
	switch {
	case errors.Is(cause, errShutdown):
		return handBack(store.HandBack{Reason: "the worker was stopped"}, errShutdown)
	case errors.Is(cause, errCancelled):
		return a.ended(store.StateCancelled, store.ReasonCancelled, fault.New(fault.Cancelled, "the build was cancelled"), out)
	case errors.As(cause, &late):
		return a.ended(store.StateFailed, store.ReasonTimeout, fault.New(fault.BuildFailed, "%s", late).
			WithHint("the limit is the request's timeout, options.timeout, or the service's: the least of them"), out)
	case cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, errLost): // the log could not be written
		return a.ended(store.StateFailed, store.ReasonInternal, a.masked(fault.As(cause)), out)
	}
	if f.Kind == fault.Cancelled { // by nobody here: the plugin saw no lease any more
		f = fault.New(fault.Unavailable, "%s", f.Message)
	}
	if again := f.Kind == fault.Unavailable || errors.Is(err, plugin.ErrKilled); again && inv.Attempt < a.worker.config.MaxAttempts {
		return handBack(store.HandBack{Delay: backoff(inv.Attempt), CountsAsAttempt: true, Reason: firstLine(f.Message)}, f)
	}
	return a.ended(store.StateFailed, reasonOf(f.Kind), f, out)
}

func handBack(h store.HandBack, err error) ending {
	return ending{Ending: Ending{How: HandedBack, Err: err}, handBack: h}
}

// backoff is the wait after an attempt.
func backoff(attempt int) time.Duration {
	return min(mostBackoff, firstBackoff<<min(attempt-1, 10))
}

func reasonOf(kind fault.Kind) store.Reason {
	switch kind {
	case fault.Invalid:
		return store.ReasonInvalid
	case fault.Denied:
		return store.ReasonDenied
	case fault.NotFound:
		return store.ReasonNotFound
	case fault.BuildFailed:
		return store.ReasonBuildFailed
	case fault.Unavailable:
		return store.ReasonUnavailable
	default:
		return store.ReasonInternal
	}
}

// failure is Outcome.Failure: why a build failed, for programs.
type failure struct {
	Kind     fault.Kind      `json:"kind"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint,omitempty"`
	Problems []fault.Problem `json:"problems,omitempty"`
	Step     string          `json:"step,omitempty"`     // the name of the step that broke
	LogTail  []string        `json:"log_tail,omitempty"` // its last lines
}

func (a *attempt) ended(state store.State, reason store.Reason, f *fault.Error, out json.RawMessage) ending {
	how := Failed
	if state == store.StateCancelled {
		how = Cancelled
	}
	why := failure{Kind: f.Kind, Message: plain(f.Message), Hint: plain(f.Hint), Problems: f.Problems}
	if broken := a.journal.failure(); broken != nil && f.Kind == fault.BuildFailed {
		why.Step, why.LogTail = plain(broken.name), broken.tail
		for i := range why.LogTail {
			why.LogTail[i] = plain(why.LogTail[i])
		}
	}
	response := plain(f.Error())
	if f.Hint != "" {
		response += "\n" + plain(f.Hint)
	}
	if len(response) > responseSize {
		response = "…" + strings.ToValidUTF8(response[len(response)-responseSize:], "")
	}
	return ending{Ending{How: how, Reason: reason, Result: out, Err: f}, store.Outcome{
		State: state, Reason: reason, Response: response, Failure: mustJSON(why), Result: out,
	}, store.HandBack{}}
}

// masked is an error without the document's secrets.
func (a *attempt) masked(f *fault.Error) *fault.Error {
	clean := &fault.Error{Kind: f.Kind, Message: a.mask.text(f.Message), Hint: a.mask.text(f.Hint)}
	for _, p := range f.Problems {
		clean.Problems = append(clean.Problems, fault.Problem{Pointer: p.Pointer, Message: a.mask.text(p.Message), Hint: a.mask.text(p.Hint)})
	}
	return clean
}

// clean is the plugin's result without secrets, as a database takes it.
func (a *attempt) clean(out json.RawMessage) json.RawMessage {
	if len(out) == 0 {
		return nil
	}
	out = bytes.ReplaceAll(a.mask.bytes(out), []byte(`\u0000`), []byte(`\ufffd`))
	if !json.Valid(out) {
		return nil
	}
	return out
}

// plain makes a text what every database takes: UTF-8 without NUL.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return plain(line)
}

// summary says in a line for each image what stands in the registry now.
func summary(out json.RawMessage) string {
	var r result.Result
	if json.Unmarshal(out, &r) != nil {
		return ""
	}
	var lines []string
	for _, image := range r.Images {
		did := "pushed"
		if image.Unchanged {
			did = "unchanged"
		}
		lines = append(lines, did+" "+image.Ref+" "+image.Digest)
	}
	return plain(strings.Join(lines, "\n"))
}
