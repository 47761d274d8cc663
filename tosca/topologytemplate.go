package tosca

import (
	"maps"
	"slices"
)

// topology reads the topology_template.
func (l *loader) topology(v *Value) {
	if !l.keys(v, "topology_template", []string{"description", "inputs", "node_templates", "policies", "outputs"},
		"relationship_templates", "groups", "substitution_mappings", "workflows") {
		return
	}
	l.description(v)
	t := l.template
	before := len(l.schemas)
	t.inputs = l.properties(v.get("inputs"), "input", true)
	for _, f := range l.fields(v.get("node_templates"), "node_templates") {
		if n := l.nodeTemplate(f); n != nil {
			t.nodes = append(t.nodes, n)
		}
	}
	for _, f := range l.entries(v.get("policies"), "policies") {
		l.policy(f)
	}
	for _, f := range l.fields(v.get("outputs"), "outputs") {
		l.output(f)
	}
	for _, s := range l.schemas[before:] {
		if found, ok := lookup(l.problems, &Value{at: s.at, text: s.name}, "data type", t.types.data); ok {
			s.data = found
		}
	}
	if len(v.get("node_templates").fieldList()) == 0 {
		l.problems.add(v.at, "there are no node_templates")
	}
}

func (v *Value) fieldList() []field {
	if v == nil {
		return nil
	}
	return v.fields
}

func (l *loader) nodeTemplate(f field) *nodeTemplate {
	if f.value.absent() {
		l.problems.add(f.at, "node %s has no type", f.key)
		return nil
	}
	if !l.keys(f.value, "node "+f.key, []string{
		"type", "description", "metadata", "properties", "attributes", "requirements", "capabilities", "interfaces", "artifacts",
	}, "directives", "node_filter", "copy") {
		return nil
	}
	l.description(f.value)
	l.metadata(f.value.get("metadata"))
	n := &nodeTemplate{
		name: f.key, at: f.at,
		properties: l.fields(f.value.get("properties"), "properties"),
		attributes: l.fields(f.value.get("attributes"), "attributes"),
		interfaces: l.interfaces(f.value.get("interfaces"), l.template.file),
	}
	for _, r := range l.entries(f.value.get("requirements"), "requirements") {
		if a := l.assignment(r); a != nil {
			n.requirements = append(n.requirements, a)
		}
	}
	name := l.text(f.value.get("type"), "type")
	switch {
	case name == nil && f.value.get("type").absent():
		l.problems.add(f.at, "node %s has no type", f.key)
	case name != nil:
		n.typ = l.nodeTypeOf(name)
	}
	if n.typ == nil {
		return nil
	}
	return n
}

// nodeTypeOf finds a node's type. Those that TOSCA has and this host has not are opera's.
func (l *loader) nodeTypeOf(name *Value) *nodeType {
	t, ok := l.template.types.nodes[name.text]
	switch {
	case ok:
		return t
	case isTOSCA(name.text):
		l.problems.hint(name.at, notOurs, "the node type %s is not in the subset of this host", name.text)
	default:
		l.problems.hint(name.at, nearest(name.text, slices.Collect(maps.Keys(l.template.types.nodes))), "there is no node type %s", name.text)
	}
	return nil
}

func (l *loader) assignment(f field) *assignment {
	a := &assignment{name: f.key, at: f.at}
	switch {
	case f.value.kind == text:
		a.node = f.value
	case l.keys(f.value, "requirement "+f.key, []string{"node", "relationship", "capability"}, "node_filter", "occurrences"):
		a.node, a.relationship = l.text(f.value.get("node"), "node"), l.relationship(f.value.get("relationship"))
		a.capability = l.text(f.value.get("capability"), "capability")
	}
	if a.node == nil {
		l.problems.add(f.at, "requirement %s does not name a node", f.key)
		return nil
	}
	return a
}

func (l *loader) policy(f field) {
	if !l.keys(f.value, "policy "+f.key, []string{"type", "description", "metadata", "properties", "targets", "triggers"}) {
		return
	}
	p := &policy{name: f.key, at: f.at}
	if name := l.text(f.value.get("type"), "type"); name != nil {
		p.typ, _ = lookup(l.problems, name, "policy type", l.template.types.policies)
	} else {
		l.problems.add(f.at, "policy %s has no type", f.key)
	}
	if targets := f.value.get("targets"); !targets.absent() {
		if targets.kind != list {
			l.problems.add(targets.at, "targets is %s, not a list", article(string(targets.kind)))
		}
		p.targets = targets.items
	}
	for _, trigger := range l.fields(f.value.get("triggers"), "triggers") {
		l.keys(trigger.value, "trigger "+trigger.key, []string{"event", "target_filter", "condition", "action", "description", "schedule"})
	}
	l.template.policies = append(l.template.policies, p)
}

func (l *loader) output(f field) {
	o := &output{name: f.key, at: f.at}
	if !l.keys(f.value, "output "+f.key, append([]string{"value", "required", "default", "status"}, schemaKeys...)) {
		l.problems.add(f.at, "output %s has no value", f.key)
		return
	}
	o.description = l.description(f.value)
	if f.value.get("type") != nil {
		o.schema = l.schemaOf(f.value, "output "+f.key)
	}
	if o.value = f.value.get("value"); o.value == nil {
		l.problems.add(f.at, "output %s has no value", f.key)
		return
	}
	l.template.outputs = append(l.template.outputs, o)
}
