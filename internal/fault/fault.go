// Package fault is the one vocabulary of errors of image-builder. Every error that
// reaches a user has a Kind, and exit codes, REST statuses and TOSCA failures are
// derived from it. It holds no text of its own: the package that fails knows what it was doing.
//
// An error that carries no fault is Internal: a bug of ours, to be reported.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Kind tells what a failure means for the one who asked.
type Kind string

// The kinds of failure.
const (
	Invalid     Kind = "invalid"      // the request is wrong; nothing was touched
	Denied      Kind = "denied"       // credentials are missing, wrong, or not allowed to do it
	NotFound    Kind = "not_found"    // something that the request names does not exist
	BuildFailed Kind = "build_failed" // the build ran and its own steps failed
	Cancelled   Kind = "cancelled"    // somebody stopped it
	Unavailable Kind = "unavailable"  // something did not answer; the same request may succeed later
	Internal    Kind = "internal"     // a defect of image-builder
)

// Exit codes of every executable.
const (
	ExitOK          = 0
	ExitFailed      = 1  // build failed, something was not found, or a defect
	ExitInvalid     = 2  // invalid input or usage
	ExitCancelled   = 3  // interrupted
	ExitDenied      = 4  // denied
	ExitUnavailable = 75 // try again; EX_TEMPFAIL of sysexits.h
)

// ExitCode is the exit code that a failure of this kind ends with.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return ExitInvalid
	case Denied:
		return ExitDenied
	case Cancelled:
		return ExitCancelled
	case Unavailable:
		return ExitUnavailable
	default:
		return ExitFailed
	}
}

// Problem is one thing that is wrong with a document.
type Problem struct {
	Pointer string `json:"pointer"`        // JSON pointer (RFC 6901) to the value; "" is the whole document
	Message string `json:"message"`        // what is wrong, without a capital or a full stop
	Hint    string `json:"hint,omitempty"` // what to do about it
}

// EscapePointer writes a key for use in a JSON pointer (RFC 6901, section 3).
func EscapePointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// String is the problem on one line: pointer, message and hint.
func (p Problem) String() string {
	s := p.Message
	if p.Pointer != "" {
		s = p.Pointer + ": " + s
	}
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// Error is a failure with its kind.
type Error struct {
	Kind     Kind
	Message  string    // action and object, as in "push localhost:5000/a:v1: status 503 after 4 tries"
	Hint     string    // what the user can do next; may be empty
	Problems []Problem // set when Kind is Invalid and the document is to blame
	Err      error     // cause for errors.Is and errors.As; its text is not added to Message
}

// Error is the message, followed by the problems, one on each line.
func (e *Error) Error() string {
	if len(e.Problems) == 0 {
		return e.Message
	}
	var b strings.Builder
	b.WriteString(e.Message)
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		b.WriteString(p.String())
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind. A %w in the format becomes its cause.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Wrap puts the action or object in front of err's message and keeps its kind, hint and problems.
// It returns nil for nil.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	f := As(err)
	return &Error{Kind: f.Kind, Message: fmt.Sprintf(format, args...) + ": " + f.Message, Hint: f.Hint, Problems: f.Problems, Err: err}
}

// WithHint sets what the user can do next and returns the error.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// InvalidInput is the error for a document with problems; it returns nil when there are none.
func InvalidInput(what string, problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Message: what, Problems: problems}
}

// As finds the first fault in err's chain. A bare context.Canceled counts as Cancelled,
// context.DeadlineExceeded as Unavailable, as does a full disk wherever it is met, and anything else as Internal.
// It returns nil for nil.
func As(err error) *Error {
	if err == nil {
		return nil
	}
	var f *Error
	found := errors.As(err, &f)
	switch {
	case (!found || f.Kind == Internal) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		return &Error{Kind: Unavailable, Message: err.Error(), Hint: "free some disk space, then try again", Err: err}
	case found:
		if f.Message == err.Error() || len(f.Problems) > 0 {
			return f
		}
		return &Error{Kind: f.Kind, Message: err.Error(), Hint: f.Hint, Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Kind: Cancelled, Message: err.Error(), Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Kind: Unavailable, Message: err.Error(), Err: err}
	default:
		return &Error{Kind: Internal, Message: err.Error(), Err: err}
	}
}

// KindOf is the kind of err, and "" for nil.
func KindOf(err error) Kind {
	if f := As(err); f != nil {
		return f.Kind
	}
	return ""
}
