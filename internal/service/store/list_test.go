package store_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/store"
)

func list(t *testing.T, s *store.Store, f store.Filter) (ids []string) {
	t.Helper()
	page, next, err := s.List(t.Context(), f)
	require.NoError(t, err)
	require.Empty(t, next)
	for _, inv := range page {
		ids = append(ids, inv.ID)
	}
	return ids
}

func TestListFilters(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		put := func(subject, group string, labels map[string]string, images ...string) string {
			sub := submission(subject)
			sub.Group, sub.Labels, sub.Images = group, labels, images
			id := submit(t, s, sub).ID
			nextMillisecond()
			return id
		}
		one := put("a", "red", map[string]string{"env": "test", "team": "x"}, "r/app:1", "r/app:2")
		two := put("a", "blue", map[string]string{"env": "prod"}, "r/app2:1")
		three := put("b", "red", nil, "r/other:1")
		four := put("c", "", map[string]string{"env": "test"})
		finish(t, s, claim(t, s, "w")) // one
		_, err := s.Cancel(t.Context(), four)
		require.NoError(t, err)
		submitted := map[string]time.Time{}
		for _, id := range []string{one, two, three, four} {
			submitted[id] = get(t, s, id).SubmittedAt
		}

		all := store.Visibility{All: true}
		many := make([]string, 80)
		for i := range many {
			many[i] = fmt.Sprint("group", i)
		}
		for name, c := range map[string]struct {
			filter store.Filter
			want   []string
		}{
			"everything":               {store.Filter{Visible: all}, []string{four, three, two, one}},
			"own":                      {store.Filter{Visible: store.Visibility{Subject: "a"}}, []string{two, one}},
			"own and the group's":      {store.Filter{Visible: store.Visibility{Subject: "a", Groups: []string{"red"}}}, []string{three, two, one}},
			"of groups":                {store.Filter{Visible: store.Visibility{Subject: "x", Groups: []string{"red", "blue", ""}}}, []string{three, two, one}},
			"of many groups":           {store.Filter{Visible: store.Visibility{Subject: "x", Groups: append(many, "blue")}}, []string{two}},
			"the empty group is none":  {store.Filter{Visible: store.Visibility{Subject: "x", Groups: []string{""}}}, nil},
			"nobody":                   {store.Filter{}, nil},
			"a state":                  {store.Filter{Visible: all, States: []store.State{store.StateSuccess}}, []string{one}},
			"states":                   {store.Filter{Visible: all, States: []store.State{store.StatePending, store.StateCancelled}}, []string{four, three, two}},
			"a repository":             {store.Filter{Visible: all, Image: "r/app:"}, []string{one}},
			"an image":                 {store.Filter{Visible: all, Image: "r/app:2"}, []string{one}},
			"images by prefix":         {store.Filter{Visible: all, Image: "r/app"}, []string{two, one}},
			"images, and no pattern":   {store.Filter{Visible: all, Image: "r/%"}, nil},
			"a label":                  {store.Filter{Visible: all, Labels: map[string]string{"env": "test"}}, []string{four, one}},
			"labels":                   {store.Filter{Visible: all, Labels: map[string]string{"env": "test", "team": "x"}}, []string{one}},
			"since":                    {store.Filter{Visible: all, Since: submitted[three]}, []string{four, three}},
			"until":                    {store.Filter{Visible: all, Until: submitted[three]}, []string{two, one}},
			"all of it together":       {store.Filter{Visible: store.Visibility{Subject: "a"}, States: []store.State{store.StateSuccess}, Image: "r/app", Labels: map[string]string{"env": "test"}, Since: submitted[one], Until: submitted[two]}, []string{one}},
			"somebody else's are seen": {store.Filter{Visible: store.Visibility{Subject: "b"}, Labels: map[string]string{"env": "test"}}, nil},
		} {
			require.Equal(t, c.want, list(t, s, c.filter), name)
		}
		page, _, err := s.List(t.Context(), store.Filter{Visible: all, Image: "r/app:1"})
		require.NoError(t, err)
		whole := get(t, s, one)
		whole.BuildParams = nil
		require.Equal(t, []store.Invocation{whole}, page)
	})
}

func TestListPagesWhileInvocationsArrive(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		first := map[string]bool{}
		arrive := func(into map[string]bool) {
			sub := submission("a")
			sub.Group = "g"
			into[submit(t, s, sub).ID] = true
		}
		for range 50 {
			arrive(first) // several in one millisecond
		}
		for _, visible := range []store.Visibility{{All: true}, {Subject: "a", Groups: []string{"g"}}} {
			var seen []string
			later := map[string]bool{}
			var last store.Invocation
			for after := store.Cursor(""); ; {
				page, next, err := s.List(t.Context(), store.Filter{Visible: visible, Limit: 7, After: after})
				require.NoError(t, err)
				for _, inv := range page {
					require.False(t, later[inv.ID], "what has arrived since is on no later page")
					if last.ID != "" {
						require.False(t, inv.SubmittedAt.After(last.SubmittedAt), "newest first")
					}
					last = inv
					seen = append(seen, inv.ID)
				}
				if after = next; after == "" {
					break
				}
				require.Len(t, page, 7)
				arrive(later)
			}
			slices.Sort(seen)
			require.Equal(t, slices.Sorted(maps.Keys(first)), seen)
			maps.Copy(first, later)
		}
		for _, token := range []store.Cursor{"x", "AAAA", "MSB4", store.Cursor(strings.Repeat("A", 5000)), "\x00"} {
			_, _, err := s.List(t.Context(), store.Filter{After: token})
			require.Equal(t, fault.Invalid, fault.KindOf(err), "%q: %v", token, err)
		}
		page, next, err := s.List(t.Context(), store.Filter{Visible: store.Visibility{All: true}, Limit: 1 << 30})
		require.NoError(t, err)
		require.Len(t, page, len(first))
		require.Empty(t, next)
	})
}
