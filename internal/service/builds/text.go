package builds

import (
	"context"
	"io"

	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

// textChunk is how much of a log is in memory at once while it is written.
const textChunk = 256 << 10

// WriteText writes the log as text, up to where it is now: all of it as docker buildx build --progress plain shows a build, or the
// bytes of one step's output as they came. What it needs of memory does not grow with the log.
func (s *Service) WriteText(ctx context.Context, p auth.Principal, id string, w io.Writer, step string) error {
	inv, err := s.Status(ctx, p, id)
	if err != nil {
		return err
	}
	if step != "" {
		return s.eachEntry(ctx, inv.ID, func(e store.LogEntry) error {
			if e.Kind != store.LogOut || e.Step != step {
				return nil
			}
			_, err := w.Write(e.Data)
			return err
		})
	}
	out := newPlain(w)
	if err := s.eachEntry(ctx, inv.ID, out.write); err != nil {
		return err
	}
	return out.flush()
}

func (s *Service) eachEntry(ctx context.Context, id string, f func(store.LogEntry) error) error {
	for after := int64(0); ; {
		entries, err := s.config.Store.Log(ctx, id, after, textChunk)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if err := f(e); err != nil {
				return err
			}
			after = e.Seq
		}
	}
}
