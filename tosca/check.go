package tosca

import (
	"encoding/json"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
)

// Check asks about the inputs of every operation that a plugin performs, as far as they are known before anything runs.
// check gives an error of kind Invalid for inputs that are wrong; its JSON pointers become places in files. What it does
// not know it lets through.
func (t *Topology) Check(check func(Job) error) error {
	p := &problems{}
	for _, n := range t.nodes {
		if n.plugin == "" {
			continue
		}
		for _, operation := range []string{opCreate, opDelete} {
			if err := t.checkOperation(p, n, operation, check); err != nil {
				return err
			}
		}
	}
	return p.err("check", t.template.file)
}

func (t *Topology) checkOperation(p *problems, n *Node, operation string, check func(Job) error) error {
	o := n.operations[operation]
	if o == nil {
		return nil
	}
	e := &evaluation{Topology: t, problems: &problems{}}
	values := e.operationInputs(n, o)
	inputs := map[string]any{}
	for name, v := range values {
		if !v.known() {
			return nil
		}
		inputs[name] = v.Any()
	}
	raw, err := json.Marshal(inputs)
	if err != nil {
		return fault.New(fault.Internal, "encode the inputs of %s of %s: %w", operation, n.name, err)
	}
	err = check(Job{Node: n.name, Type: n.plugin, Operation: operation, Inputs: raw})
	f := fault.As(err)
	switch {
	case err == nil:
		return nil
	case f.Kind != fault.Invalid:
		return err
	case len(f.Problems) == 0:
		p.hint(n.at, f.Hint, "node %s: %s", n.name, f.Message)
	}
	for _, wrong := range f.Problems {
		at, message := n.at, wrong.Message
		if wrong.Pointer != "" {
			at, message = place(values, wrong.Pointer, n.at), wrong.Pointer+": "+wrong.Message
		}
		p.hint(at, wrong.Hint, "node %s: %s", n.name, message)
	}
	return nil
}

// place is where what a JSON pointer into inputs points to stands, or the nearest thing around it that stands anywhere.
func place(values map[string]*Value, pointer string, otherwise Position) Position {
	at := otherwise
	var v *Value
	for i, step := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		if i == 0 {
			v = values[step]
		} else {
			v = v.step(step)
		}
		if v == nil {
			break
		}
		if v.at.Line > 0 {
			at = v.at
		}
	}
	return at
}

// step is the member of a map, or the item of a list, that a step of a JSON pointer names.
func (v *Value) step(name string) *Value {
	if v.kind != list {
		return v.get(name)
	}
	for i, item := range v.items {
		if name == strconv.Itoa(i) {
			return item
		}
	}
	return nil
}
