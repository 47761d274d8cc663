package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// repeatTime is how long a message of River is not repeated: while the database is away, it complains several times a second.
const repeatTime = 10 * time.Second

// sparing is a handler that lets each message through once in a while.
type sparing struct {
	slog.Handler
	state *sparingState
}

type sparingState struct {
	mu   sync.Mutex
	last map[string]time.Time // River has a few dozen messages
}

func newSparing(h slog.Handler) sparing {
	return sparing{h, &sparingState{last: map[string]time.Time{}}}
}

// Handle implements slog.Handler.
func (s sparing) Handle(ctx context.Context, r slog.Record) error {
	s.state.mu.Lock()
	last, known := s.state.last[r.Message]
	again := known && r.Time.Sub(last) < repeatTime
	if !again {
		s.state.last[r.Message] = r.Time
	}
	s.state.mu.Unlock()
	if again {
		return nil
	}
	return s.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (s sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparing{s.Handler.WithAttrs(attrs), s.state}
}

// WithGroup implements slog.Handler.
func (s sparing) WithGroup(name string) slog.Handler {
	return sparing{s.Handler.WithGroup(name), s.state}
}
