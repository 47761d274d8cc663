package builds

import (
	"context"

	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/store"
)

// Follow hands the log of a build to f as it grows, from the entry after the given one (0: from the start), until the build
// has ended and all of it is delivered, the context ends, or f gives an error. The state comes with each call, also where it
// alone has changed; it is an ended one only in the last call. Entries are shared: f must not change them.
func (s *Service) Follow(ctx context.Context, p auth.Principal, id string, after int64, f func([]store.LogEntry, store.State) error) error {
	inv, err := s.Status(ctx, p, id)
	if err != nil {
		return err
	}
	last := inv.State
	if last.Ended() {
		last = store.StateInProgress
	}
	return s.config.Hub.Follow(ctx, inv.ID, after, func(u follow.Update) error {
		state := u.Invocation.State
		if state == "" || (state.Ended() && !u.Last) {
			state = last
		}
		if state == last && len(u.Entries) == 0 && !u.Last {
			return nil
		}
		last = state
		return f(u.Entries, state)
	})
}
