package tosca

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"imagebuilder/internal/fault"
)

// Undeploy takes back what was deployed, dependants first. What is gone already, or is somebody else's by now, is no failure.
// Without anything deployed it does nothing. An undeployment that was interrupted goes on when it is called again.
//
// credentials gives the topology that secrets are taken from, which are kept nowhere; it is asked only when there were
// literal ones.
func (d *Deployment) Undeploy(ctx context.Context, credentials func() (*Topology, error)) (*Report, error) {
	before, err := loadState(d.Folder)
	if err != nil || len(before.Nodes) == 0 {
		return &Report{Status: NotDeployed, Nodes: []NodeReport{}}, err
	}
	store, err := openStore(d.Folder)
	if err != nil {
		return nil, err
	}
	defer store.close()
	st, err := loadState(d.Folder) // it may have changed until the lock was ours
	if err != nil {
		return nil, err
	}
	run, err := d.newRun(store, st, nil)
	if err != nil {
		return nil, err
	}
	revealed, err := run.reveal(credentials)
	if err != nil {
		return nil, err
	}
	st.Status = Undeploying
	if err := store.save(st); err != nil {
		return nil, err
	}
	records := slices.Clone(st.Nodes)
	var order []string
	for _, rec := range records {
		order = append(order, rec.Name)
	}
	outcomes := schedule(ctx, backwards(records), d.workers(), func(ctx context.Context, name string) error {
		return run.remove(ctx, name, revealed[name])
	})
	err = failure(ctx, "undeploy", order, outcomes)
	if err == nil {
		st.Status, st.Outputs, st.Given = NotDeployed, nil, nil
		err = store.save(st)
	}
	return run.undeployed(records, outcomes), err
}

// backwards are tasks in which each node waits for those that require it.
func backwards(records []*record) []task {
	var tasks []task
	for _, rec := range records {
		t := task{name: rec.Name}
		for _, other := range records {
			if slices.Contains(other.Requires, rec.Name) {
				t.after = append(t.after, other.Name)
			}
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// reveal puts secrets back into the inputs of delete operations.
func (r *run) reveal(credentials func() (*Topology, error)) (map[string][]any, error) {
	all := map[string][]any{}
	for _, rec := range r.state.Nodes {
		for _, del := range rec.Delete {
			inputs, err := cloned(del.Inputs)
			if err != nil {
				return nil, err
			}
			if len(del.Secrets) > 0 {
				if r.top == nil {
					if r.top, err = credentials(); err != nil {
						return nil, fault.Wrap(err, "get back the secrets of %s, which are kept nowhere", rec.Name)
					}
				}
				if err := r.fill(rec.Name, del, inputs); err != nil {
					return nil, err
				}
			}
			all[rec.Name] = append(all[rec.Name], inputs)
		}
	}
	return all, nil
}

// cloned is a copy that shares nothing.
func cloned(data any) (out any, err error) {
	raw, err := json.Marshal(data)
	if err == nil {
		err = unmarshal(raw, &out)
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "copy inputs: %w", err)
	}
	return out, nil
}

// registryURL is where a target says which registry it is: a secret of one is not for another.
const registryURL = "/target/registry/url"

// fill takes the secrets of a node from the topology that has them.
func (r *run) fill(name string, del *removal, inputs any) error {
	n := r.top.Node(name)
	var now map[string]any
	if n != nil {
		var err error
		if now, err = r.inputs(n, opDelete); err != nil {
			return err
		}
	}
	for _, place := range del.Secrets {
		value := valueAt(now, place)
		if value == nil || fmt.Sprint(valueAt(now, registryURL)) != fmt.Sprint(valueAt(inputs, registryURL)) {
			return fault.New(fault.Invalid, "undeploy %s: template and inputs no longer have %s of registry %v, and secrets are kept nowhere",
				name, place, valueAt(inputs, registryURL)).WithHint("give the inputs that it was deployed with, by -i")
		}
		put(inputs, place, value)
	}
	return nil
}

// remove performs the operation delete of a node for everything that it has made.
func (r *run) remove(ctx context.Context, name string, inputs []any) error {
	r.mu.Lock()
	rec := r.state.find(name)
	plugin := rec.Plugin
	r.mu.Unlock()
	for len(inputs) > 0 && plugin != "" {
		result, err := r.perform(ctx, name, plugin, opDelete, inputs[0])
		r.mu.Lock()
		for _, note := range result.Notes {
			if !slices.Contains(r.notes[name], note) {
				r.notes[name] = append(r.notes[name], note)
			}
		}
		if err == nil {
			inputs, rec.Delete = inputs[1:], rec.Delete[1:]
		}
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Nodes = slices.DeleteFunc(r.state.Nodes, func(other *record) bool { return other == rec })
	if plugin == "" {
		return nil // nothing has happened that would have to be noted at once
	}
	return r.store.save(r.state)
}

func (r *run) undeployed(records []*record, outcomes map[string]outcome) *Report {
	report := &Report{Status: r.state.Status, Nodes: []NodeReport{}}
	for _, rec := range records {
		one := NodeReport{Name: rec.Name, Type: rec.Type, State: "removed", Notes: r.notes[rec.Name]}
		switch o := outcomes[rec.Name]; {
		case o.err != nil && fault.KindOf(o.err) != fault.Cancelled:
			one.State, one.Error = nodeFailed, fault.As(o.err).Message
		case o.err != nil, o.skipped:
			one.State, one.Blocked = "cancelled", o.blocked
		}
		report.Nodes = append(report.Nodes, one)
	}
	return report
}
