package builds

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds/admission"
	"imagebuilder/internal/service/store"
)

// Request is what a caller wants built, and how it wants it treated.
type Request struct {
	Document []byte // build_params as JSON or YAML
	// Pointer stands before the pointers of problems with the document, as "/build_params" where the document is a part of
	// what the caller sent. Problems with anything else have pointers as /labels/KEY, /webhook/url, /priority.
	Pointer string
	// Group owns the build beside the caller, and sees it. Without one it is the caller's group if it has only one, and nobody's otherwise.
	Group          string
	Labels         map[string]string // to find builds by
	Timeout        time.Duration     // of the build; 0: what the document says, or the limit
	QueueTTL       time.Duration     // how long it may wait; 0: the limit
	Priority       int               // 1 to 4 among the caller's own builds, the higher goes first; 0: 2
	IdempotencyKey string            // the same key and request again give the build that there is
	Webhook        *Webhook
	TraceParent    string // of W3C Trace Context
}

// Webhook is where the caller wants to hear of changes.
type Webhook struct {
	URL    string
	Secret string // that deliveries are signed with, as Standard Webhooks have it: whsec_ and base64; "": they are not signed
}

// Submit puts a build into the queue. With an idempotency key that was used for the same request it gives that build, and false.
//
// Errors are fault.Invalid with everything that is wrong with the request, fault.Denied, fault.Unavailable, *LimitError when
// too many builds of the caller wait, and *ConflictError when the idempotency key was used for another request.
func (s *Service) Submit(ctx context.Context, p auth.Principal, r Request) (store.Invocation, bool, error) {
	return s.submit(ctx, p, r, "")
}

func (s *Service) submit(ctx context.Context, p auth.Principal, r Request, retryOf string) (store.Invocation, bool, error) {
	if err := may(p, auth.ScopeSubmit, "submit a build"); err != nil {
		return store.Invocation{}, false, err
	}
	doc, problems, err := s.read(r.Document, r.Pointer)
	if err != nil {
		return store.Invocation{}, false, err
	}
	group, more := s.request(p, r)
	if problems = append(problems, more...); len(problems) > 0 {
		return store.Invocation{}, false, invalid(problems)
	}
	sub := store.Submission{
		Subject: p.Subject, Group: group, Labels: r.Labels, Priority: r.Priority, RetryOf: retryOf, TraceParent: r.TraceParent,
		Timeout:     least(r.Timeout, time.Duration(doc.Parsed.Options.Timeout), s.config.Limits.Timeout),
		QueueTTL:    least(r.QueueTTL, s.config.Limits.QueueTTL),
		BuildParams: doc.Masked, HasSecrets: len(doc.Secrets) > 0,
		IdempotencyKey: r.IdempotencyKey, MaxQueued: max(0, s.config.Limits.Queued),
	}
	sub.Priority = cmp.Or(sub.Priority, defaultPriority)
	if !traceParent.MatchString(sub.TraceParent) {
		sub.TraceParent = ""
	}
	for i := range doc.Parsed.Target.Images {
		sub.Images = append(sub.Images, doc.Parsed.Ref(i))
	}
	if r.IdempotencyKey != "" {
		sub.IdempotencyHash = hash(sub, r.Webhook)
	}
	if err := s.seal(&sub, doc.Clear, r.Webhook); err != nil {
		return store.Invocation{}, false, err
	}
	inv, created, err := s.config.Store.Submit(ctx, sub)
	switch {
	case errors.Is(err, store.ErrTooManyQueued):
		return store.Invocation{}, false, &LimitError{
			What:       "submit a build: " + strconv.Itoa(sub.MaxQueued) + " builds are waiting already, which is the most for one caller",
			RetryAfter: s.config.Limits.QueuedRetry,
		}
	case errors.Is(err, store.ErrIdempotencyConflict):
		return store.Invocation{}, false, &ConflictError{
			Message: "submit a build: the idempotency key was used for another request", Hint: "use a new key for each build",
		}
	}
	return inv, created, err
}

// seal gives the submission its id, and what only workers may read.
func (s *Service) seal(sub *store.Submission, clear []byte, hook *Webhook) (err error) {
	if sub.ID, err = s.config.NewID(); err != nil {
		return fault.New(fault.Internal, "make an id: %w", err)
	}
	if sub.Sealed, err = s.config.Sealer.Seal(sub.ID, clear); err != nil {
		return fault.Wrap(err, "seal build_params")
	}
	if hook == nil {
		return nil
	}
	sub.Webhook = &store.Webhook{URL: hook.URL}
	if hook.Secret != "" {
		if sub.Webhook.Secret, err = s.config.Sealer.Seal(sub.ID, []byte(hook.Secret)); err != nil {
			return fault.Wrap(err, "seal the webhook's secret")
		}
	}
	return nil
}

// hash stands for everything in a request that makes a difference, except for secrets: a hash of one, kept in the database, could
// be guessed. So the same key with another password is the same request.
func hash(sub store.Submission, hook *Webhook) []byte {
	url := ""
	if hook != nil {
		url = hook.URL
	}
	data, _ := json.Marshal([]any{ // of texts and numbers, which always can be encoded
		sub.BuildParams, sub.Group, sub.Labels, sub.Priority, sub.Timeout, sub.QueueTTL, sub.RetryOf, url,
	})
	sum := sha256.Sum256(data)
	return sum[:]
}

// read reads a document under the policy of the service.
func (s *Service) read(data []byte, pointer string) (*admission.Document, []fault.Problem, error) {
	l := s.config.Limits
	return s.config.Policy.Read(data, pointer, admission.Limits{Bytes: l.DocumentBytes, Images: l.Images})
}

func invalid(problems []fault.Problem) error {
	count := "1 problem"
	if len(problems) > 1 {
		count = strconv.Itoa(len(problems)) + " problems"
	}
	return fault.InvalidInput("check the request: "+count, problems)
}
