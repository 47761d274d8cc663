package tosca

import (
	"fmt"
	"slices"
	"strings"
)

// Topology is a template with its inputs: nodes with their properties, in an order that their requirements allow.
type Topology struct {
	template *Template
	inputs   map[string]*Value
	nodes    []*Node // in the order of the template
	partial  bool    // inputs are missing, and that is no problem
}

// Node is a node of a topology.
type Node struct {
	name         string
	at           Position
	typ          *nodeType
	properties   map[string]*Value
	attributes   map[string]*Value // as the template and its types say; functions in them are not evaluated
	requirements []*requirement
	operations   map[string]*operation // of the interface Standard, with what the node itself says about them
	plugin       string                // the plugin's node type that performs operations of this one; "" for none
}

// requirement is a requirement of a node, fulfilled by another one.
type requirement struct {
	name         string
	at           Position
	node         *Node
	relationship *simpleType
}

// Name is the node's name in the template.
func (n *Node) Name() string { return n.name }

// Type is the name of the node's type.
func (n *Node) Type() string { return n.typ.name }

// Nodes are the nodes in the order of the template.
func (t *Topology) Nodes() []*Node { return t.nodes }

// Node gives the node of a name, nil where there is none.
func (t *Topology) Node(name string) *Node {
	i := slices.IndexFunc(t.nodes, func(n *Node) bool { return n.name == name })
	if i < 0 {
		return nil
	}
	return t.nodes[i]
}

// Bind gives a template its inputs. Everything that is wrong with the two is the error, of kind Invalid. With inputs nil,
// all is checked that does not depend on inputs without a default; such a topology cannot be deployed.
func (t *Template) Bind(inputs *Inputs) (*Topology, error) {
	p := &problems{}
	top := t.bind(inputs, p)
	if err := p.err("check", t.file); err != nil {
		return nil, err
	}
	return top, nil
}

func (t *Template) bind(inputs *Inputs, p *problems) *Topology {
	b := &binder{
		Topology: &Topology{template: t, inputs: map[string]*Value{}, partial: inputs == nil},
		checker:  checker{problems: p},
	}
	b.bindInputs(inputs)
	for _, n := range t.nodes {
		b.nodes = append(b.nodes, b.node(n))
	}
	for i, n := range t.nodes {
		b.require(b.nodes[i], n)
	}
	b.cycles()
	for _, policy := range t.policies {
		for _, target := range policy.targets {
			if b.Node(target.text) == nil {
				b.problems.add(target.at, "policy %s: there is no node %s", policy.name, shown(target))
			}
		}
	}
	b.evaluateProperties()
	if len(p.list) == 0 {
		b.look()
	}
	return b.Topology
}

// binder makes a topology of a template.
type binder struct {
	*Topology
	checker
}

func (b *binder) bindInputs(given *Inputs) {
	if given != nil {
		var names []string
		for _, def := range b.template.inputs {
			names = append(names, def.name)
		}
		for _, f := range given.fields {
			if find(b.template.inputs, f.key) == nil {
				b.problems.hint(f.at, nearest(f.key, slices.Clone(names)), "the template has no input %s", f.key)
			}
		}
	}
	for _, def := range b.template.inputs {
		var v *Value
		if given != nil {
			v = given.value(def.name)
		}
		if v.absent() {
			v = def.value
			if !v.absent() && hasFunction(v) {
				b.problems.add(v.at, "the default of input %s is a function", def.name)
				v = unknownAt(v.at)
			}
		}
		switch {
		case !v.absent():
			b.inputs[def.name] = b.conform(v, def.schema, "input "+def.name, def.required)
		case given == nil:
			b.inputs[def.name] = unknownAt(def.at)
		case def.required:
			at := def.at
			if given.file != "" {
				at = given.at
			}
			b.problems.hint(at, fmt.Sprintf("%s wants it", def.at), "there is no input %s, which is required", def.name)
			b.inputs[def.name] = unknownAt(def.at)
		default:
			b.inputs[def.name] = &Value{at: def.at, kind: null}
		}
	}
}

// node takes over what a node template says and checks its names.
func (b *binder) node(t *nodeTemplate) *Node {
	n := &Node{name: t.name, at: t.at, typ: t.typ, properties: map[string]*Value{}, attributes: map[string]*Value{}, operations: map[string]*operation{}}
	assign := func(what string, definitions []*property, given []field, into map[string]*Value) {
		var names []string
		for _, def := range definitions {
			names = append(names, def.name)
			into[def.name] = def.value
		}
		for _, f := range given {
			def := find(definitions, f.key)
			if def == nil {
				b.problems.hint(f.at, nearest(f.key, slices.Clone(names)), "node type %s has no %s %s", t.typ.name, what, f.key)
				continue
			}
			if !f.value.absent() {
				into[f.key] = f.value
			}
		}
	}
	assign("property", t.typ.allProperties(), t.properties, n.properties)
	assign("attribute", t.typ.allAttributes(), t.attributes, n.attributes)
	if v, _ := t.typ.metadatum(pluginMetadatum); v != nil {
		n.plugin = v.text
	}
	b.interfaces(n, t)
	return n
}

// require finds the nodes that a node's requirements name.
func (b *binder) require(n *Node, t *nodeTemplate) {
	definitions := t.typ.allRequirements()
	count := map[string]int{}
	for _, a := range t.requirements {
		i := slices.IndexFunc(definitions, func(d *requirementDefinition) bool { return d.name == a.name })
		if i < 0 {
			var names []string
			for _, d := range definitions {
				names = append(names, d.name)
			}
			b.problems.hint(a.at, nearest(a.name, names), "node type %s has no requirement %s", t.typ.name, a.name)
			continue
		}
		count[a.name]++
		if r := b.fulfil(n, a, definitions[i]); r != nil {
			n.requirements = append(n.requirements, r)
		}
	}
	for _, d := range definitions {
		switch {
		case count[d.name] < d.least:
			b.problems.add(t.at, "node %s lacks the requirement %s", t.name, d.name)
		case d.most >= 0 && count[d.name] > d.most:
			b.problems.add(t.at, "node %s has the requirement %s %d times, at most %d are allowed", t.name, d.name, count[d.name], d.most)
		}
	}
}

// fulfil checks that the node that an assignment names is one that the definition takes.
func (b *binder) fulfil(n *Node, a *assignment, d *requirementDefinition) *requirement {
	target := b.Node(a.node.text)
	if target == nil {
		var names []string
		for _, other := range b.nodes {
			names = append(names, other.name)
		}
		b.problems.hint(a.node.at, nearest(a.node.text, names), "there is no node %s", a.node.text)
		return nil
	}
	if d.node != nil && !target.typ.isA(d.node.text) {
		b.problems.add(a.node.at, "requirement %s of %s takes a node of type %s, and %s is of type %s", a.name, n.name, d.node.text, target.name, target.typ.name)
		return nil
	}
	types := b.template.types
	if d.capability != nil && !slices.ContainsFunc(target.typ.allCapabilities(), func(c *capabilityDefinition) bool {
		return types.capabilities[c.typ.text].isA(d.capability.text)
	}) {
		b.problems.add(a.node.at, "node %s has no capability of type %s, which requirement %s of %s takes", target.name, d.capability.text, a.name, n.name)
		return nil
	}
	r := &requirement{name: a.name, at: a.at, node: target}
	name := d.relationship
	if a.relationship != nil {
		name = a.relationship
	}
	if name != nil {
		found, ok := types.relationships[name.text]
		if !ok {
			b.problems.hint(name.at, "relationship templates are not in the subset of this host", "there is no relationship type %s", name.text)
			return nil
		}
		if d.relationship != nil && !found.isA(d.relationship.text) {
			b.problems.add(name.at, "relationship %s does not derive from %s, which requirement %s takes", name.text, d.relationship.text, a.name)
		}
		r.relationship = found
	}
	return r
}

// cycles tells about nodes that require each other in a circle. Each circle is told once.
func (b *binder) cycles() {
	const visiting, done = 1, 2
	state := map[*Node]int{}
	var path []*Node
	var visit func(*Node)
	visit = func(n *Node) {
		state[n] = visiting
		path = append(path, n)
		for _, r := range n.requirements {
			switch state[r.node] {
			case visiting:
				var names []string
				for _, on := range path[slices.Index(path, r.node):] {
					names = append(names, on.name)
				}
				b.problems.add(r.at, "nodes require each other in a circle: %s", strings.Join(append(names, r.node.name), " → "))
			case 0:
				visit(r.node)
			}
		}
		path = path[:len(path)-1]
		state[n] = done
	}
	for _, n := range b.nodes {
		if state[n] == 0 {
			visit(n)
		}
	}
}

// height is the length of the longest way to a node that nothing requires: the higher, the earlier it should begin.
func (t *Topology) heights() map[string]int {
	dependants := map[*Node][]*Node{}
	for _, n := range t.nodes {
		for _, r := range n.requirements {
			dependants[r.node] = append(dependants[r.node], n)
		}
	}
	heights := map[string]int{}
	var height func(*Node) int
	height = func(n *Node) int {
		if h, ok := heights[n.name]; ok {
			return h
		}
		most := 0
		for _, d := range dependants[n] {
			most = max(most, height(d)+1)
		}
		heights[n.name] = most
		return most
	}
	for _, n := range t.nodes {
		height(n)
	}
	return heights
}

// host is the Compute node that a node stands on, nil where there is none.
func (n *Node) host() *Node {
	for _, r := range n.requirements {
		if r.relationship.isA(hostedOn) && r.node.typ.isA(computeNode) {
			return r.node
		}
	}
	for _, r := range n.requirements {
		if r.relationship.isA(hostedOn) {
			if host := r.node.host(); host != nil {
				return host
			}
		}
	}
	return nil
}
