package builds

import (
	"context"
	"io"

	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

// TextWriter takes text and can send on what it has.
type TextWriter interface {
	io.Writer
	Flush() error
}

// FollowText is WriteText that goes on until the build has ended; each piece is flushed.
func (s *Service) FollowText(ctx context.Context, p auth.Principal, id string, w TextWriter, step string) error {
	out := newPlain(w)
	return s.Follow(ctx, p, id, 0, func(entries []store.LogEntry, _ store.State) error {
		for _, e := range entries {
			err := error(nil)
			switch {
			case step == "":
				err = out.write(e)
			case e.Kind == store.LogOut && e.Step == step:
				_, err = w.Write(e.Data)
			}
			if err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		return w.Flush()
	})
}
