package builds

import (
	"context"
	"strconv"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

// Query says which builds a list has. What is zero does not restrict.
type Query struct {
	States       []store.State
	Image        string            // what registry/repository:tag of an image begins with
	Labels       map[string]string // all of them
	Since, Until time.Time         // submitted at or after, and before
	Mine         bool              // only the caller's own
	Limit        int               // of a page; default 20, at most Limits.PageSize
	Page         string            // Page.Next of the page before; "": the first
}

// Page is a part of a list, the newest build first. Its builds lack BuildParams and Result.
type Page struct {
	Builds []store.Invocation
	Next   string // "": it is the last
}

// List gives the builds that the caller may see.
func (s *Service) List(ctx context.Context, p auth.Principal, q Query) (Page, error) {
	if err := may(p, auth.ScopeRead, "list builds"); err != nil {
		return Page{}, err
	}
	f := store.Filter{
		States: q.States, Image: q.Image, Labels: q.Labels, Since: q.Since, Until: q.Until, Limit: q.Limit, After: store.Cursor(q.Page),
		Visible: store.Visibility{All: p.May(auth.ScopeReadAll) && !q.Mine, Subject: p.Subject},
	}
	if !q.Mine {
		f.Visible.Groups = p.Groups
	}
	if f.Limit == 0 {
		f.Limit = min(defaultPageSize, s.config.Limits.PageSize)
	}
	if problems := s.queryProblems(f); len(problems) > 0 {
		return Page{}, invalid(problems)
	}
	list, next, err := s.config.Store.List(ctx, f)
	return Page{Builds: list, Next: string(next)}, err
}

func (s *Service) queryProblems(f store.Filter) (problems []fault.Problem) {
	if f.Limit < 0 || f.Limit > s.config.Limits.PageSize {
		problems = append(problems, fault.Problem{Pointer: "/limit", Message: "is not a number from 1 to " + strconv.Itoa(s.config.Limits.PageSize)})
	}
	for _, state := range f.States {
		switch state {
		case store.StatePending, store.StateInProgress, store.StateSuccess, store.StateFailed, store.StateCancelled:
		default:
			problems = append(problems, fault.Problem{Pointer: "/state", Message: "is not a state", Hint: "pending, in_progress, success, failed or cancelled"})
		}
	}
	const longestRef = 512 // 255 for the repository, 128 for the tag, and room for the registry's host
	if len(f.Image) > longestRef {
		problems = append(problems, fault.Problem{Pointer: "/image", Message: "is longer than the name of an image"})
	}
	return append(problems, labelProblems(f.Labels)...)
}
