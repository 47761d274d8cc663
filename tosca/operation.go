package tosca

import (
	"slices"
	"strings"
)

// pluginMetadatum is the word in a node type's metadata that names the plugin's node type whose operations these are.
const pluginMetadatum = "imagebuilder.plugin"

// Operations of the interface Standard that are handed to plugins.
const (
	opCreate = "create"
	opDelete = "delete"
)

// playbookInput begins the names of inputs that are for a playbook and not for what it runs.
const playbookInput = "ib_"

// interfaces puts what a node says about its operations over what its type says.
func (b *binder) interfaces(n *Node, t *nodeTemplate) {
	definitions := t.typ.allInterfaces(b.template.types)
	for _, own := range t.interfaces {
		if !slices.ContainsFunc(definitions, func(d *interfaceDefinition) bool { return d.name == own.name }) {
			b.problems.add(own.at, "node type %s has no interface %s", t.typ.name, own.name)
		}
	}
	for _, d := range definitions {
		var own *interfaceDefinition
		if i := slices.IndexFunc(t.interfaces, func(i *interfaceDefinition) bool { return i.name == d.name }); i >= 0 {
			own = t.interfaces[i]
			for _, o := range own.operations {
				if !slices.ContainsFunc(d.operations, func(x *operation) bool { return x.name == o.name }) {
					b.problems.add(o.at, "interface %s of node type %s has no operation %s", d.name, t.typ.name, o.name)
				}
			}
		}
		for _, o := range d.operations {
			merged := b.operation(n, d, o, own)
			if d.name == standard {
				n.operations[o.name] = merged
			} else {
				n.operations[d.name+"."+o.name] = merged
			}
		}
	}
}

// operation is an operation with the inputs of its interface, its own, and what the node gives them.
func (b *binder) operation(n *Node, d *interfaceDefinition, o *operation, own *interfaceDefinition) *operation {
	out := *o
	out.inputs = inherited(o.inputs, d.inputs, (*property).key)
	if own == nil {
		return &out
	}
	given := own.inputs
	if i := slices.IndexFunc(own.operations, func(x *operation) bool { return x.name == o.name }); i >= 0 {
		given = append(slices.Clone(given), own.operations[i].inputs...)
		if own.operations[i].implementation != "" {
			out.implementation, out.implementedAt = own.operations[i].implementation, own.operations[i].implementedAt
		}
	}
	for _, g := range given {
		i := slices.IndexFunc(out.inputs, func(p *property) bool { return p.name == g.name })
		if i < 0 {
			b.problems.add(g.at, "operation %s of node type %s has no input %s", o.name, n.typ.name, g.name)
			continue
		}
		filled := *out.inputs[i]
		filled.value = g.value
		out.inputs[i] = &filled
	}
	return &out
}

// evaluateProperties evaluates and checks all that does not depend on what operations return, and looks at the rest.
func (b *binder) evaluateProperties() {
	e := &evaluation{Topology: b.Topology, problems: b.problems}
	for _, n := range b.nodes {
		for _, def := range n.typ.allProperties() {
			v := e.property(n, &Value{at: n.at, text: def.name})
			if v.absent() && def.required {
				b.problems.add(n.at, "node %s has no property %s, which is required (type %s)", n.name, def.name, n.typ.name)
			}
			n.properties[def.name] = e.asGiven(b.conform(v, def.schema, "property "+def.name, def.required))
		}
		for _, def := range n.typ.allAttributes() {
			switch v := n.attributes[def.name]; {
			case v == nil:
			case !hasFunction(v):
				b.conform(v, def.schema, "attribute "+def.name, false)
			default:
				b.conform(e.attribute(n, &Value{at: v.at, text: def.name}), def.schema, "attribute "+def.name, false)
			}
		}
	}
	for _, n := range b.nodes {
		for _, name := range sortedKeys(n.operations) {
			e.operationInputs(n, n.operations[name])
		}
	}
	for _, o := range b.template.outputs {
		b.conform(e.value(o.value, nil), o.schema, "output "+o.name, false)
	}
}

// operationInputs are the inputs of an operation as a plugin gets them: those with a value, and without those that are
// for a playbook.
func (e *evaluation) operationInputs(n *Node, o *operation) map[string]*Value {
	c := checker{problems: e.problems}
	out := map[string]*Value{}
	for _, def := range o.inputs {
		v := c.conform(e.value(def.value, n), def.schema, "input "+def.name+" of "+o.name, false)
		if !v.absent() && !strings.HasPrefix(def.name, playbookInput) {
			out[def.name] = v
		}
	}
	return out
}

// look tells about what only opera can do with a topology.
func (b *binder) look() {
	e := &evaluation{Topology: b.Topology, problems: b.problems}
	for _, n := range b.nodes {
		if n.typ.isA(computeNode) {
			b.machine(e, n)
		}
		for _, name := range sortedKeys(n.operations) {
			b.performable(n, name, n.operations[name])
		}
	}
}

// machine refuses a machine other than this one. Opera, too, takes only the word localhost for it.
func (b *binder) machine(e *evaluation, n *Node) {
	const here = "localhost"
	hosts := slices.ContainsFunc(b.nodes, func(other *Node) bool { return other.plugin != "" && other.host() == n })
	v := e.attribute(n, &Value{at: n.at, text: "public_address"})
	switch {
	case v != nil && v.kind == unknown:
	case v.absent() && hosts:
		b.problems.hint(n.at, "give it the attribute public_address: localhost", "node %s has no public_address", n.name)
	case !v.absent() && v.text != here:
		b.problems.hint(v.at, notOurs, "node %s is another machine (%s): this host reaches only localhost", n.name, v.text)
	}
}

// performable tells about operations that a playbook performs, and no plugin.
func (b *binder) performable(n *Node, name string, o *operation) {
	switch {
	case o.implementation == "" || strings.Contains(name, "."): // opera runs the others only when it is notified
		return
	case n.plugin == "":
		b.problems.hint(n.at, notOurs, "node %s: no plugin claims the type %s, whose operation %s is a playbook", n.name, n.typ.name, name)
	case name != opCreate && name != opDelete:
		b.problems.hint(o.implementedAt, notOurs, "node %s: the operation %s is a playbook, and no plugin's", n.name, name)
	case o.implementation != b.claimed(n, name):
		b.problems.hint(o.implementedAt, notOurs, "node %s: the operation %s is a playbook of its own, and not the plugin's", n.name, name)
	}
}

// claimed is the implementation of an operation that stands for the plugin's: the one of the type that names the plugin.
func (b *binder) claimed(n *Node, name string) string {
	_, of := n.typ.metadatum(pluginMetadatum)
	for _, i := range of.allInterfaces(b.template.types) {
		for _, o := range i.operations {
			if i.name == standard && o.name == name {
				return o.implementation
			}
		}
	}
	return ""
}
