package builds

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

// Plan says what a document would do, without doing it. It looks at the document as Submit does; pointer is as Request.Pointer.
// Few plans are made at once, for each fetches the source: *LimitError.
func (s *Service) Plan(ctx context.Context, p auth.Principal, data []byte, pointer string) (json.RawMessage, error) {
	if err := may(p, auth.ScopeSubmit, "plan a build"); err != nil {
		return nil, err
	}
	doc, problems, err := s.read(data, pointer)
	switch {
	case err != nil:
		return nil, err
	case len(problems) > 0:
		return nil, invalid(problems)
	case s.config.Planner == nil:
		return nil, fault.New(fault.Unavailable, "plan a build: this process of the service makes no plans")
	}
	// Somebody who clicked twice need not be told to come again.
	wait := time.NewTimer(planWait)
	defer wait.Stop()
	select {
	case s.plans <- struct{}{}:
		defer func() { <-s.plans }()
	case <-wait.C:
		return nil, &LimitError{What: "plan a build: too many plans are being made", RetryAfter: planRetry}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	within, cancel := context.WithTimeout(ctx, s.config.Limits.PlanTime)
	defer cancel()
	plan, err := s.config.Planner(within, doc.Clear)
	if err != nil && errors.Is(within.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, fault.New(fault.Unavailable, "plan a build: it took longer than %s", s.config.Limits.PlanTime).
			WithHint("submit the build: it has more time")
	}
	return plan, err
}

const (
	planWait  = 2 * time.Second // about what a plan takes that fetches little
	planRetry = 5 * time.Second
)
