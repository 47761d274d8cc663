package tosca

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// task is one node's turn.
type task struct {
	name   string
	after  []string // tasks that have to have succeeded before; names of no task count as done
	height int      // tasks that wait for it, one after the other: the most first
}

// outcome is how a task ended.
type outcome struct {
	err     error
	blocked string // the task whose failure kept this one from beginning
	skipped bool   // it did not begin: blocked, or everything was cancelled
}

// schedule runs tasks, at most workers at once, each as soon as those are done that it waits for. One that fails stops
// nothing that runs and nothing that does not need it; what needs it, in whatever number of steps, does not begin. When ctx
// ends nothing begins any more.
func schedule(ctx context.Context, tasks []task, workers int, run func(context.Context, string) error) map[string]outcome {
	type ended struct {
		name string
		err  error
	}
	outcomes := map[string]outcome{}
	waiting := slices.Clone(tasks)
	slices.SortStableFunc(waiting, func(a, b task) int { return cmp.Compare(b.height, a.height) })
	known := map[string]bool{}
	for _, t := range tasks {
		known[t.name] = true
	}
	ends := make(chan ended)
	var running sync.WaitGroup
	count := 0
	for {
		// What cannot begin any more is settled first: others may wait for that.
		for changed := true; changed; {
			changed = false
			waiting = slices.DeleteFunc(waiting, func(t task) bool {
				for _, name := range t.after {
					if o, over := outcomes[name]; known[name] && over && (o.err != nil || o.skipped) {
						by := cmp.Or(o.blocked, name)
						outcomes[t.name] = outcome{blocked: by, skipped: true}
						changed = true
						return true
					}
				}
				return false
			})
		}
		for i := 0; i < len(waiting) && count < workers && ctx.Err() == nil; {
			t := waiting[i]
			if slices.ContainsFunc(t.after, func(name string) bool { _, over := outcomes[name]; return known[name] && !over }) {
				i++
				continue
			}
			waiting = slices.Delete(waiting, i, i+1)
			count++
			running.Go(func() { ends <- ended{t.name, run(ctx, t.name)} })
		}
		if count == 0 {
			break
		}
		e := <-ends
		count--
		outcomes[e.name] = outcome{err: e.err}
	}
	running.Wait()
	for _, t := range waiting {
		outcomes[t.name] = outcome{skipped: true}
	}
	return outcomes
}
