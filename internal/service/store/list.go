package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store/cursor"
)

// Visibility is what a caller may see: everything, or what its subject or one of its groups owns.
type Visibility struct {
	All     bool
	Subject string
	Groups  []string
}

// Cursor is where a page ends: opaque, text that fits into a URL. The empty one is the beginning, and the end.
type Cursor string

// Filter says what List gives. What is zero does not restrict.
type Filter struct {
	Visible      Visibility
	States       []State
	Image        string            // what a reference registry/repository:tag of it begins with
	Labels       map[string]string // all of them
	Since, Until time.Time         // submitted at or after, and before
	Limit        int               // of a page; 0: 50; at most 500
	After        Cursor
}

const (
	usualLimit, mostLimit = 50, 500
	// groupsApart is how many groups are looked up one by one, each with its own index scan in the order of the list.
	groupsApart = 50
)

// List gives a page of invocations, newest first, without BuildParams and Result. The cursor is empty on the last page.
// Invocations that arrive while somebody pages do not move what is on later pages. A cursor that List did not make is Invalid.
func (s *Store) List(ctx context.Context, f Filter) ([]Invocation, Cursor, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = usualLimit
	}
	limit = min(limit, mostLimit)
	conditions, args, err := f.conditions()
	if err != nil {
		return nil, "", err
	}
	var text strings.Builder
	var all []any
	owners, ownerArgs := f.Visible.owners()
	// Each owner's newest come from an index; the newest of those are the page.
	for i, owner := range owners {
		if i > 0 {
			text.WriteString(" union ")
		}
		fmt.Fprintf(&text, "select * from (select id, submitted_at from ib_invocation v where %s order by submitted_at desc, id desc limit ?) as of_%d",
			strings.Join(append(slices.Clone(conditions), owner), " and "), i)
		all = append(append(append(all, args...), ownerArgs[i]...), limit+1)
	}
	all = append(all, limit+1)
	var page []Invocation
	query := ask(func(r row) error {
		var inv Invocation
		err := scan(r, &inv, false)
		page = append(page, inv)
		return err
	}, "select "+summaryColumns+" from ib_invocation where id in (select id from ("+text.String()+
		") as newest order by submitted_at desc, id desc limit ?) order by submitted_at desc, id desc", all...)
	// A plan for any label walks through all invocations for one that nobody has.
	query.varied = true
	if err := s.db.read(ctx, query); err != nil {
		return nil, "", failed(err, "list invocations")
	}
	if len(page) <= limit {
		return page, "", nil
	}
	page = page[:limit]
	last := page[limit-1]
	return page, Cursor(cursor.Write(last.SubmittedAt.UnixMilli(), last.ID)), nil
}

// owners are the conditions that what is seen fulfils one of, with their parameters.
func (v Visibility) owners() (conditions []string, args [][]any) {
	if v.All {
		return []string{"true"}, [][]any{nil}
	}
	conditions, args = []string{"subject = ?"}, [][]any{{v.Subject}}
	groups := slices.DeleteFunc(slices.Clone(v.Groups), func(g string) bool { return g == "" })
	if len(groups) > groupsApart {
		return append(conditions, "group_name <> '' and group_name in ("+marks(len(groups))+")"), append(args, anyOf(groups))
	}
	for _, group := range groups {
		conditions, args = append(conditions, "group_name <> '' and group_name = ?"), append(args, []any{group})
	}
	return conditions, args
}

// conditions are what all fulfil.
func (f Filter) conditions() (conditions []string, args []any, err error) {
	add := func(condition string, values ...any) {
		conditions, args = append(conditions, condition), append(args, values...)
	}
	if f.After != "" {
		at, id, err := cursor.Read(string(f.After))
		if err != nil {
			return nil, nil, fault.New(fault.Invalid, "list invocations: the page token: %w", err).WithHint("begin again without it")
		}
		add("(submitted_at, id) < (?, ?)", at, id)
	}
	if len(f.States) > 0 {
		add("state in ("+marks(len(f.States))+")", anyOf(f.States)...)
	}
	if !f.Since.IsZero() {
		add("submitted_at >= ?", f.Since.UnixMilli())
	}
	if !f.Until.IsZero() {
		add("submitted_at < ?", f.Until.UnixMilli())
	}
	if f.Image != "" {
		// Nothing that begins with it is beyond the highest character.
		add("exists (select 1 from ib_invocation_image i where i.invocation_id = v.id and i.ref >= ? and i.ref < ?)", f.Image, f.Image+"\U0010FFFF")
	}
	for name, value := range f.Labels {
		add("exists (select 1 from ib_label l where l.invocation_id = v.id and l.name = ? and l.value = ?)", name, value)
	}
	return conditions, args, nil
}
