// Package builds holds the use cases of the service: submit, look at, follow, cancel, retry, delete and plan builds. It decides who
// sees what, what a stranger may ask for, how much, and which secrets are sealed; both the REST API and the web page call it.
//
// It knows neither HTTP nor SQL, and it builds nothing: workers do that.
package builds

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds/admission"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/store"
)

// Store is what the use cases keep builds in; *store.Store is one.
type Store interface {
	Submit(ctx context.Context, s store.Submission) (inv store.Invocation, created bool, err error)
	Get(ctx context.Context, id string) (store.Invocation, error)
	List(ctx context.Context, f store.Filter) ([]store.Invocation, store.Cursor, error)
	Cancel(ctx context.Context, id string) (store.Invocation, error)
	Delete(ctx context.Context, id string) error
	Log(ctx context.Context, id string, after int64, maxBytes int) ([]store.LogEntry, error)
	LogKindEntries(ctx context.Context, id string, kinds ...store.LogKind) ([]store.LogEntry, error)
}

// Sealer locks a document away so that only workers can read it; *seal.Sealer is one.
type Sealer interface {
	Seal(id string, doc []byte) ([]byte, error)
}

// Config is what a Service works with.
type Config struct {
	Store  Store
	Hub    *follow.Hub // for Follow: one reader of the store per followed build
	Sealer Sealer
	// Planner says what a document would do; its secrets are in clear in it. Nil: there are no plans, and Plan is Unavailable.
	Planner func(ctx context.Context, doc []byte) (json.RawMessage, error)
	Limits  Limits
	Policy  Policy
	Now     func() time.Time       // default time.Now
	NewID   func() (string, error) // of invocations; default UUIDs of version 7, which sort by time
}

// Policy says what strangers may ask for beyond the schema; the zero value is the strictest.
type Policy = admission.Policy

// Service does the use cases. It is made by New and may be used by many at once.
type Service struct {
	config Config
	plans  chan struct{} // holds one for each plan that is being made
}

// New makes a Service.
func New(config Config) *Service {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.NewID == nil {
		config.NewID = func() (string, error) {
			id, err := uuid.NewV7()
			return id.String(), err
		}
	}
	config.Limits = config.Limits.withDefaults()
	return &Service{config: config, plans: make(chan struct{}, config.Limits.Plans)}
}

// Build is one invocation and what is known of its course.
type Build struct {
	store.Invocation
	Timeline Timeline
}

// LimitError says that the caller has reached a limit, and when to try again: HTTP's 429.
type LimitError struct {
	What       string // which limit, for people
	RetryAfter time.Duration
}

// Error is the limit that was reached.
func (e *LimitError) Error() string { return e.What }

// ConflictError says that the state of things does not allow it: HTTP's 409.
type ConflictError struct {
	Message  string
	Hint     string
	Pointers []string // of the secrets that a retry needs again
}

// Error is what stands in the way.
func (e *ConflictError) Error() string { return e.Message }

// Get is one build with its timeline. A build that the caller may not see is NotFound, as one that does not exist.
func (s *Service) Get(ctx context.Context, p auth.Principal, id string) (Build, error) {
	inv, err := s.Status(ctx, p, id)
	if err != nil {
		return Build{}, err
	}
	timeline, err := s.timeline(ctx, inv)
	if err != nil {
		return Build{}, err
	}
	return Build{Invocation: inv, Timeline: timeline}, nil
}

// Status is Get without the timeline: one look into the store.
func (s *Service) Status(ctx context.Context, p auth.Principal, id string) (store.Invocation, error) {
	if err := may(p, auth.ScopeRead, "see builds"); err != nil {
		return store.Invocation{}, err
	}
	if _, err := uuid.Parse(id); err != nil || len(id) != len(uuid.Nil.String()) {
		return store.Invocation{}, notFound(id)
	}
	inv, err := s.config.Store.Get(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Invocation{}, notFound(id)
	case err != nil:
		return store.Invocation{}, err
	case !sees(p, inv):
		return store.Invocation{}, notFound(id)
	}
	return inv, nil
}

// owned is a build that the caller may change: its own, or any for an administrator.
func (s *Service) owned(ctx context.Context, p auth.Principal, id, action string) (store.Invocation, error) {
	inv, err := s.Status(ctx, p, id)
	if err != nil {
		return store.Invocation{}, err
	}
	if err := may(p, auth.ScopeSubmit, action); err != nil {
		return store.Invocation{}, err
	}
	if inv.Subject != p.Subject && !p.May(auth.ScopeAdmin) {
		return store.Invocation{}, fault.New(fault.Denied, "%s %s: it belongs to somebody else", action, id).
			WithHint("this needs the scope %s", auth.ScopeAdmin)
	}
	return inv, nil
}

// Cancel stops a build, or takes it out of the queue. It returns at once: a running build ends within seconds. An ended one stays as it is.
func (s *Service) Cancel(ctx context.Context, p auth.Principal, id string) (store.Invocation, error) {
	if _, err := s.owned(ctx, p, id, "cancel build"); err != nil {
		return store.Invocation{}, err
	}
	inv, err := s.config.Store.Cancel(ctx, id)
	if errors.Is(err, store.ErrNotFound) { // deleted in between
		return store.Invocation{}, notFound(id)
	}
	return inv, err
}

// Delete removes the record and the log of an ended build; what it pushed stays. One that has not ended is a ConflictError.
func (s *Service) Delete(ctx context.Context, p auth.Principal, id string) error {
	if _, err := s.owned(ctx, p, id, "delete build"); err != nil {
		return err
	}
	err := s.config.Store.Delete(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return notFound(id)
	case errors.Is(err, store.ErrRunning):
		return &ConflictError{Message: "delete build " + id + ": it has not ended", Hint: "cancel it first, and wait for its end"}
	}
	return err
}

// may is nil when the caller has the scope.
func may(p auth.Principal, scope, action string) error {
	if p.May(scope) {
		return nil
	}
	return fault.New(fault.Denied, "%s: the credentials do not allow it", action).WithHint("this needs the scope %s", scope)
}

// sees tells whether the invocation is the caller's own, of one of its groups, or whether it sees everybody's.
func sees(p auth.Principal, inv store.Invocation) bool {
	return p.May(auth.ScopeReadAll) || inv.Subject == p.Subject || p.InGroup(inv.Group)
}

func notFound(id string) error {
	const most = 64 // more of a stranger's text says nothing
	return fault.New(fault.NotFound, "there is no build %.*q", most, id)
}
