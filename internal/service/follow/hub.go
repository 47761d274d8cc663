// Package follow delivers the growing logs of builds to any number of followers at the cost of one reader: what is new is read from the
// store once for each followed build, kept for a moment, and handed to all who wait for it. Whoever is too slow for that, or
// begins earlier, reads what it missed from the store, together with others who miss the same.
//
// A follower gets every entry once and in order, whatever its pace. The package decides nothing about who may follow what.
package follow

import (
	"context"
	"sync"
	"time"

	"imagebuilder/internal/service/store"
)

// Source is where logs and states are read; *store.Store is one.
type Source interface {
	Log(ctx context.Context, id string, after int64, maxBytes int) ([]store.LogEntry, error)
	Get(ctx context.Context, id string) (store.Invocation, error)
	Watch(ctx context.Context, f func(store.Notice)) error
}

const (
	// readBytes is how much of a log is read at once: some hundred lines, 4 of the largest entries.
	readBytes = 256 << 10
	// keepBytes is how much of the newest part of a followed log is kept for those who are a little behind, and again as much of
	// older parts that somebody just read. 1,000 builds followed at once take 2 GB at the very most, and a hundredth of it as a rule.
	keepBytes = 1 << 20
	// pollEvery is how often a followed build is looked at without a notice, in case one was lost.
	pollEvery = 5 * time.Second
)

// Hub hands logs to followers. It is made by New, hears of news while Run runs, and may be used by many at once.
type Hub struct {
	source Source
	poll   time.Duration

	mu     sync.Mutex
	topics map[string]*topic
}

// Option changes a Hub.
type Option func(*Hub)

// PollEvery sets how often a followed build is looked at without a notice. Default 5 s.
func PollEvery(d time.Duration) Option { return func(h *Hub) { h.poll = d } }

// New makes a Hub.
func New(source Source, options ...Option) *Hub {
	h := &Hub{source: source, poll: pollEvery, topics: map[string]*topic{}}
	for _, option := range options {
		option(h)
	}
	return h
}

// Run listens for news until the context ends. Without it followers get what is there, and then nothing more.
func (h *Hub) Run(ctx context.Context) error {
	watched := make(chan error, 1)
	go func() { watched <- h.source.Watch(ctx, h.notice) }()
	tick := time.NewTicker(h.poll)
	defer tick.Stop()
	for {
		select {
		case err := <-watched:
			return err
		case <-tick.C:
			h.notice(store.Notice{Kind: store.NoticeAll})
		}
	}
}

// notice marks what may have changed.
func (h *Hub) notice(n store.Notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch n.Kind {
	case store.NoticeLog, store.NoticeState:
		if t := h.topics[n.ID]; t != nil {
			t.stale(n.Kind == store.NoticeState)
		}
	case store.NoticeAll:
		for _, t := range h.topics {
			t.stale(true)
		}
	}
}

// Update is news of a followed build. Its entries are shared with other followers: they are not to be changed.
type Update struct {
	Entries    []store.LogEntry // next to those before, without a gap
	Invocation store.Invocation // as it was read last
	Last       bool             // there will be no other
}

// Follow hands the log of a build to f, from the entry after the given one, and the build's state whenever it changes, until the build has
// ended and all of its log is delivered, the context ends, or f gives an error. An after that the log has not reached is Invalid: it does not come from this log.
func (h *Hub) Follow(ctx context.Context, id string, after int64, f func(Update) error) error {
	t := h.enter(id)
	defer h.leave(t)
	if err := t.begin(ctx, after); err != nil {
		return err
	}
	at := position{seq: after}
	for {
		update, wait, err := t.next(ctx, &at)
		switch {
		case err != nil:
			return err
		case wait != nil:
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := f(update); err != nil {
			return err
		}
		if update.Last {
			return nil
		}
	}
}

// Followed is how many builds are being followed.
func (h *Hub) Followed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.topics)
}

func (h *Hub) enter(id string) *topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[id]
	if t == nil {
		t = newTopic(h.source, id)
		h.topics[id] = t
	}
	t.followers++
	return t
}

func (h *Hub) leave(t *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.followers--; t.followers == 0 {
		t.end()
		delete(h.topics, t.id)
	}
}
