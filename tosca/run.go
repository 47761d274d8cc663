package tosca

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"imagebuilder/internal/fault"
)

// run is one deployment while it runs.
type run struct {
	*Deployment
	store   *store
	top     *Topology
	masker  masker
	secrets []string // literals that are kept nowhere

	mu      sync.Mutex // guards what follows
	state   *state
	results map[string]map[string]*Value
	resumed map[string]bool
	notes   map[string][]string
}

func (d *Deployment) newRun(store *store, st *state, top *Topology) (*run, error) {
	m, err := newMasker()
	if err != nil {
		return nil, err
	}
	r := &run{
		Deployment: d, store: store, top: top, masker: m, state: st,
		results: map[string]map[string]*Value{}, resumed: map[string]bool{}, notes: map[string][]string{},
	}
	if top != nil {
		r.secrets = top.secrets(m)
	}
	return r, nil
}

// secrets are the literal secrets of inputs and of nodes' properties.
func (t *Topology) secrets(m masker) []string {
	var all []string
	for name, v := range t.inputs {
		all = append(all, m.literals(map[string]any{name: v.Any()})...)
	}
	for _, n := range t.nodes {
		for name, v := range n.properties {
			all = append(all, m.literals(map[string]any{name: v.Any()})...)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // one may be part of another
	return slices.Compact(all)
}

// maskedInputs are a topology's inputs as they may be shown.
func (t *Topology) maskedInputs(m masker) map[string]any {
	all := map[string]any{}
	for name, v := range t.inputs {
		if !v.absent() {
			all[name] = v.Any()
		}
	}
	masked, _ := m.mask(all)
	return masked.(map[string]any)
}

// begin notes what is going to be deployed.
func (r *run) begin(inputs string) error {
	st := r.state
	if st.Status != Deploying && st.Status != Failed {
		st.Round++
	}
	template, err := filepath.Abs(r.top.template.file)
	if err != nil {
		return fault.New(fault.Invalid, "%s: %w", r.top.template.file, err)
	}
	st.Status, st.Template, st.Inputs = Deploying, template, inputs
	st.Given, st.Outputs = scrub(r.top.maskedInputs(r.masker), r.secrets).(map[string]any), nil
	var records []*record
	for _, n := range r.top.nodes {
		rec := st.find(n.name)
		if rec == nil {
			rec = &record{Name: n.name}
		}
		rec.Type, rec.Plugin, rec.Requires = n.typ.name, n.plugin, requires(n)
		records = append(records, rec)
	}
	for _, old := range st.Nodes {
		if r.top.Node(old.Name) == nil {
			r.note("node %s is no longer in the template; undeploy takes back what it made", old.Name)
			records = append(records, old)
		}
	}
	st.Nodes = records
	return nil // the first node that begins writes it
}

// create performs the operation create of a node, unless this deployment has done so before it was interrupted.
func (r *run) create(ctx context.Context, name string) error {
	n := r.top.Node(name)
	if n.plugin == "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		rec := r.state.find(name)
		rec.State, rec.Round = nodeDone, r.state.Round
		return nil
	}
	inputs, err := r.inputs(n, opCreate)
	if err != nil {
		return err
	}
	undo, err := r.inputs(n, opDelete)
	if err != nil {
		return err
	}
	masked, _ := r.masker.mask(inputs)
	done, err := r.start(name, fingerprint(masked), undo)
	if done || err != nil {
		return err
	}
	result, err := r.perform(ctx, n.name, n.plugin, opCreate, inputs)
	return r.ended(name, result, err)
}

// inputs evaluates the inputs of an operation, with what other nodes' operations have returned by now.
func (r *run) inputs(n *Node, operation string) (map[string]any, error) {
	o := n.operations[operation]
	if o == nil {
		return map[string]any{}, nil
	}
	r.mu.Lock()
	results := maps.Clone(r.results)
	r.mu.Unlock()
	p := &problems{}
	e := &evaluation{Topology: r.top, problems: p, results: results}
	values := e.operationInputs(n, o)
	if err := p.err("evaluate the inputs of "+operation+" of "+n.name+" in", r.top.template.file); err != nil {
		return nil, err
	}
	all := map[string]any{}
	for name, v := range values {
		all[name] = v.Any()
	}
	if operation == opCreate {
		r.pinBase(n, all, results)
	}
	return all, nil
}

// start notes that a node's operation begins. done tells that it need not.
func (r *run) start(name, hash string, undo map[string]any) (done bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.state.find(name)
	if rec.State == nodeDone && rec.Round == r.state.Round && rec.Inputs == hash {
		r.resumed[name] = true
		r.keep(name, rec.Attributes)
		return true, nil
	}
	rec.State, rec.Round, rec.Inputs, rec.Error = nodeRunning, r.state.Round, hash, ""
	if undo != nil {
		masked, places := r.masker.mask(undo)
		rec.remember(&removal{Inputs: masked, Secrets: places})
	}
	return false, r.store.save(r.state)
}

// remember adds a way to take back what a node makes. Earlier ones, of other inputs, stay: what they made is still there.
func (rec *record) remember(next *removal) {
	same := func(r *removal) bool { return fingerprint(r) == fingerprint(next) }
	rec.Delete = append(slices.DeleteFunc(rec.Delete, same), next)
}

// keep makes a node's attributes known to others. The caller holds the lock.
func (r *run) keep(name string, attributes map[string]any) {
	values := map[string]*Value{}
	for key, v := range attributes {
		values[key] = valueOf(v, Position{File: name + "." + key})
	}
	r.results[name] = values
}

func (r *run) perform(ctx context.Context, name, plugin, operation string, inputs any) (Result, error) {
	raw, err := json.Marshal(inputs)
	if err != nil {
		return Result{}, fault.New(fault.Internal, "encode the inputs of %s of %s: %w", operation, name, err)
	}
	return r.Runner.Run(ctx, Job{Node: name, Type: plugin, Operation: operation, Inputs: raw})
}

// ended notes how a node's operation ended.
func (r *run) ended(name string, result Result, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.state.find(name)
	r.notes[name] = result.Notes
	switch {
	case err == nil:
		rec.State, rec.Attributes = nodeDone, result.Attributes
		r.keep(name, result.Attributes)
	case fault.KindOf(err) == fault.Cancelled:
		return err // it may be the end of a process that has no time left: what stands there says the same
	default:
		rec.State, rec.Error = nodeFailed, scrub(fault.As(err).Message, r.secrets).(string)
	}
	if saved := r.store.save(r.state); saved != nil && err == nil {
		return saved
	}
	return err
}

// finish notes how the deployment ended and makes the report.
func (r *run) finish(ctx context.Context, outcomes map[string]outcome) (*Report, error) {
	err := failure(ctx, "deploy", r.order(), outcomes)
	switch {
	case err == nil:
		r.state.Status = Deployed
	case fault.KindOf(err) != fault.Cancelled:
		r.state.Status = Failed
	}
	r.state.Outputs = r.outputs()
	if saved := r.store.save(r.state); saved != nil && err == nil {
		err = saved
	}
	report := &Report{Status: r.state.Status, Outputs: r.state.Outputs}
	for _, rec := range r.state.Nodes {
		one := NodeReport{Name: rec.Name, Type: rec.Type, State: nodeDone, Attributes: rec.Attributes, Notes: r.notes[rec.Name]}
		o, ours := outcomes[rec.Name]
		switch {
		case !ours:
			one.State = "left"
		case o.err != nil && fault.KindOf(o.err) == fault.Cancelled, o.skipped:
			one.State, one.Blocked = "cancelled", o.blocked
		case o.err != nil:
			one.State, one.Error = nodeFailed, fault.As(o.err).Message
		case r.resumed[rec.Name]:
			one.State = "resumed"
		}
		report.Nodes = append(report.Nodes, one)
	}
	return report, err
}

func (r *run) order() []string {
	var names []string
	for _, n := range r.top.nodes {
		names = append(names, n.name)
	}
	return names
}

// outputs are the template's outputs as far as they are known, without secrets. Attributes are what plugins return, who hide
// secrets themselves; an output may be made of anything.
func (r *run) outputs() map[string]any {
	p := &problems{}
	e := &evaluation{Topology: r.top, problems: p, results: r.results}
	all := map[string]any{}
	for _, o := range r.top.template.outputs {
		if v := e.value(o.value, nil); v != nil && v.known() {
			all[o.name] = v.Any()
		}
	}
	masked, _ := r.masker.mask(all)
	return scrub(masked, r.secrets).(map[string]any)
}
