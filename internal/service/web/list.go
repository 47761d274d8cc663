package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// listPage is what the list of builds shows.
type listPage struct {
	Builds   []store.Invocation
	Filter   listFilter
	Problems []fault.Problem
	Self     string // path and query of this page
	First    string // of the first page, where this is another one
	Next     string // of the next page
	Filtered bool
	Submit   bool // the visitor may submit builds
	Now      time.Time
}

// listFilter is the filter as it was typed.
type listFilter struct {
	State, Image, Label, Since, Until string
	Mine                              bool
	States                            []store.State // to choose from
}

func (s *server) list(w http.ResponseWriter, r *http.Request, who visitor) error {
	values := r.URL.Query()
	f := listFilter{
		State: values.Get("state"), Image: strings.TrimSpace(values.Get("image")), Label: strings.TrimSpace(values.Get("label")),
		Since: values.Get("since"), Until: values.Get("until"), Mine: values.Has("mine"),
		States: []store.State{store.StatePending, store.StateInProgress, store.StateSuccess, store.StateFailed, store.StateCancelled},
	}
	query, problems := f.query()
	query.Page = values.Get("page")
	p := listPage{Filter: f, Problems: problems, Submit: who.Principal.May(auth.ScopeSubmit), Now: s.config.Now()}
	p.Filtered = f.State != "" || f.Image != "" || f.Label != "" || f.Since != "" || f.Until != "" || f.Mine
	p.Self = "/builds?" + f.values(query.Page).Encode()
	status := http.StatusOK
	if len(problems) == 0 {
		found, err := s.config.Builds.List(r.Context(), who.Principal, query)
		switch invalid := fault.As(err); {
		case err != nil && invalid.Kind == fault.Invalid:
			if p.Problems = invalid.Problems; len(p.Problems) == 0 {
				p.Problems = []fault.Problem{{Message: invalid.Message, Hint: invalid.Hint}}
			}
		case err != nil:
			return err
		}
		p.Builds = found.Builds
		if found.Next != "" {
			p.Next = "/builds?" + f.values(found.Next).Encode()
		}
	}
	if query.Page != "" {
		p.First = "/builds?" + f.values("").Encode()
	}
	if len(p.Problems) > 0 {
		status = http.StatusUnprocessableEntity
	}
	return s.show(w, status, "list", frame{Title: "Builds", Section: "builds", Who: who, Page: p})
}

// query is what a filter asks for.
func (f listFilter) query() (builds.Query, []fault.Problem) {
	q := builds.Query{Image: f.Image, Mine: f.Mine}
	var problems []fault.Problem
	if f.State != "" {
		q.States = []store.State{store.State(f.State)}
	}
	if f.Label != "" {
		name, value, ok := strings.Cut(f.Label, "=")
		if !ok {
			problems = append(problems, fault.Problem{Pointer: "/label", Message: "is not NAME=VALUE"})
		}
		q.Labels = map[string]string{strings.TrimSpace(name): value}
	}
	day := func(pointer, text string, to *time.Time, more int) {
		if text == "" {
			return
		}
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			problems = append(problems, fault.Problem{Pointer: pointer, Message: "is not a date as in 2026-01-31"})
			return
		}
		*to = t.AddDate(0, 0, more)
	}
	day("/since", f.Since, &q.Since, 0)
	day("/until", f.Until, &q.Until, 1) // that day included
	return q, problems
}

// values are the filter as a query of the page's address.
func (f listFilter) values(page string) url.Values {
	out := url.Values{}
	for name, value := range map[string]string{
		"state": f.State, "image": f.Image, "label": f.Label, "since": f.Since, "until": f.Until, "page": page,
	} {
		if value != "" {
			out.Set(name, value)
		}
	}
	if f.Mine {
		out.Set("mine", "1")
	}
	return out
}
