package store

import (
	"context"
	"sync"
	"time"
)

const (
	// gatherTrips is how many round trips are under way at once before reads wait for each other: enough for both sides to have
	// something to do all the time.
	gatherTrips = 3
	// gatherMost bounds what one round trip answers, so that nobody waits for many.
	gatherMost = 32
	// gatherWithin bounds a round trip that belongs to no single caller.
	gatherWithin = 30 * time.Second
)

// gatherer sends small reads together. One that comes alone goes at once; those that come while others are under way wait for
// the next round trip and share it. At some thousand looks at a status a second, the trips cost more than the looks.
type gatherer struct {
	run func(ctx context.Context, statements ...*statement) error

	mu      sync.Mutex
	trips   int
	waiting []*gathered
}

// gathered is a read that somebody waits for.
type gathered struct {
	statement *statement
	done      chan error // takes one
}

// read is as database.read.
func (g *gatherer) read(ctx context.Context, st *statement) error {
	own := &gathered{statement: st, done: make(chan error, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, own)
	if g.trips < gatherTrips {
		g.trips++
		go g.travel()
	}
	g.mu.Unlock()
	select {
	case err := <-own.done:
		return err
	case <-ctx.Done():
		return ctx.Err() // what the trip brings is nobody's
	}
}

// travel makes round trips until nobody waits.
func (g *gatherer) travel() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), gatherMost)
		if n == 0 {
			g.trips--
			g.mu.Unlock()
			return
		}
		together := append([]*gathered(nil), g.waiting[:n]...)
		g.waiting = append(g.waiting[:0], g.waiting[n:]...)
		g.mu.Unlock()
		g.trip(together)
	}
}

// trip carries reads out together, and each by itself where that does not go: the fault of one is not the others'.
func (g *gatherer) trip(together []*gathered) {
	statements := make([]*statement, len(together))
	for i, one := range together {
		statements[i] = one.statement
	}
	err := g.within(statements...)
	for _, one := range together {
		if err != nil && len(together) > 1 {
			go func() { one.done <- g.within(one.statement) }()
			continue
		}
		one.done <- err
	}
}

func (g *gatherer) within(statements ...*statement) error {
	ctx, cancel := context.WithTimeout(context.Background(), gatherWithin)
	defer cancel()
	return g.run(ctx, statements...)
}
