package store

import (
	"encoding/json"
	"errors"
	"time"
)

// State is where an invocation is on its way.
type State string

// The states. The last three are final.
const (
	StatePending    State = "pending"
	StateInProgress State = "in_progress"
	StateSuccess    State = "success"
	StateFailed     State = "failed"
	StateCancelled  State = "cancelled"
)

// Ended tells whether a state is final.
func (s State) Ended() bool { return s == StateSuccess || s == StateFailed || s == StateCancelled }

// Reason says, for a program, why an invocation failed or was cancelled. It is empty otherwise.
type Reason string

// The reasons.
const (
	ReasonBuildFailed Reason = "build_failed"
	ReasonInvalid     Reason = "invalid"
	ReasonDenied      Reason = "denied"
	ReasonNotFound    Reason = "not_found"
	ReasonUnavailable Reason = "unavailable"
	ReasonInternal    Reason = "internal"
	ReasonTimeout     Reason = "timeout"
	ReasonExpired     Reason = "expired" // it waited longer than its QueueTTL
	ReasonCancelled   Reason = "cancelled"
	ReasonLost        Reason = "lost" // its workers died more often than it may be tried
)

// What callers tell apart by errors.Is. Each comes as a *fault.Error that names the invocation.
var (
	ErrNotFound            = errors.New("there is no such record")
	ErrRunning             = errors.New("the invocation has not ended")
	ErrIdempotencyConflict = errors.New("the idempotency key was used for another request")
	ErrTooManyQueued       = errors.New("too many invocations are waiting")
	ErrLeaseLost           = errors.New("the lease is lost")
)

// Webhook is where changes of state are told.
type Webhook struct {
	URL    string
	Secret []byte // what deliveries are signed with, sealed to the workers by package seal; nil: not signed
}

// Invocation is one request to build, and what became of it.
type Invocation struct {
	ID              string // UUID version 7
	State           State
	Reason          Reason
	Subject, Group  string
	Attempt         int           // from 1
	Priority        int           // within its subject the higher goes first; 0 is usual
	Timeout         time.Duration // of one attempt; 0: the worker's default
	QueueTTL        time.Duration // how long it may wait for its first start; 0: for ever
	SubmittedAt     time.Time
	StartedAt       time.Time       // of the newest attempt; zero while pending
	EndedAt         time.Time       // zero until it has ended
	BuildParams     json.RawMessage // masked; List leaves it out
	Labels          map[string]string
	Images          []string // registry/repository:tag
	Response        string   // a sentence for people
	Failure         json.RawMessage
	Result          json.RawMessage // List leaves it out
	RetryOf         string          // ID of the invocation that this one repeats
	TraceParent     string          // of W3C Trace Context
	CancelRequested bool
	LogBytes        int64 // of output stored
	LogCut          bool  // output beyond the limit was dropped
	Webhook         *Webhook
	HasSecrets      bool // the document held secrets
	Sealed          bool // the document with its secrets is still here
	IdempotencyKey  string
}
