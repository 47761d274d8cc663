package queue

import "sync"

// builds are those that run in this process, so that notices and the end of the worker reach them.
type builds struct {
	mu      sync.Mutex
	keepers map[string]*keeper // by invocation
	stopped bool
}

func newBuilds() *builds { return &builds{keepers: map[string]*keeper{}} }

// add makes a build known until leave is called.
func (b *builds) add(id string, k *keeper) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keepers[id] = k
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.keepers[id] == k { // not the next attempt's
			delete(b.keepers, id)
		}
	}
}

func (b *builds) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.keepers)
}

// ask has the database asked whether to stop a build, or all with the id "".
func (b *builds) ask(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := b.keepers[id]; k != nil {
		k.ask()
		return
	}
	if id != "" {
		return
	}
	for _, k := range b.keepers {
		k.ask()
	}
}

// stop stops all builds, those that come too, to be handed back.
func (b *builds) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	for _, k := range b.keepers {
		k.stop(errShutdown)
	}
}

func (b *builds) stopping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stopped
}
