package tosca

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// evaluators are the functions that are evaluated.
var evaluators = []string{"get_input", "get_property", "get_attribute", "concat", "join", "token"}

// strangers are TOSCA's other functions.
var strangers = []string{"get_artifact", "get_nodes_of_type", "get_operation_output"}

// function tells whether a value is a function, and gives it. A map of one's own may have an entry of that name: functions
// on strings take a list, and get_input a name or a list, which nothing else does in the types that there are.
func function(v *Value) (name string, argument *Value, ok bool) {
	if v == nil || v.kind != object || v.given || len(v.fields) != 1 {
		return "", nil, false
	}
	f := v.fields[0]
	switch f.key {
	case "concat", "join", "token":
		return f.key, f.value, f.value.kind == list
	case "get_input":
		return f.key, f.value, true
	}
	return f.key, f.value, slices.Contains(evaluators, f.key) || slices.Contains(strangers, f.key)
}

// hasFunction tells whether there is a function anywhere in a value.
func hasFunction(v *Value) bool {
	if v == nil || v.given {
		return false
	}
	if _, _, ok := function(v); ok {
		return true
	}
	return slices.ContainsFunc(v.items, hasFunction) ||
		slices.ContainsFunc(v.fields, func(f field) bool { return hasFunction(f.value) })
}

// evaluation evaluates functions.
type evaluation struct {
	*Topology
	problems *problems
	// results are the attributes that operations have returned, by node. Before anything has run it is nil, and what
	// operations may return is unknown.
	results map[string]map[string]*Value
	active  []string // what is being evaluated
}

// value evaluates a value: a function that is all of it, and functions that are direct entries of a map or list. Deeper
// ones are what opera would pass on as they are, which is never meant.
func (e *evaluation) value(v *Value, self *Node) *Value {
	if v == nil || v.given {
		return v
	}
	if _, _, ok := function(v); ok {
		return e.call(v, self)
	}
	out := *v
	out.items, out.fields = slices.Clone(v.items), slices.Clone(v.fields)
	for i, item := range v.items {
		out.items[i] = e.entry(item, self)
	}
	for i, f := range v.fields {
		out.fields[i].value = e.entry(f.value, self)
	}
	return &out
}

func (e *evaluation) entry(v *Value, self *Node) *Value {
	if _, _, ok := function(v); ok {
		return e.call(v, self)
	}
	return e.refuseNested(v)
}

// refuseNested tells about functions in a value, and puts unknown values in their places.
func (e *evaluation) refuseNested(v *Value) *Value {
	if !hasFunction(v) {
		return v
	}
	if name, _, ok := function(v); ok {
		e.problems.hint(v.at, "make an input, or a property, of the value that it stands in",
			"%s stands too deep: opera evaluates functions only as a whole value or as one of its direct entries, and would pass this one on as it is", name)
		return unknownAt(v.at)
	}
	out := *v
	out.items, out.fields = slices.Clone(v.items), slices.Clone(v.fields)
	for i, item := range v.items {
		out.items[i] = e.refuseNested(item)
	}
	for i, f := range v.fields {
		out.fields[i].value = e.refuseNested(f.value)
	}
	return &out
}

func (e *evaluation) wrong(v *Value, format string, args ...any) *Value {
	e.problems.add(v.at, format, args...)
	return unknownAt(v.at)
}

func (e *evaluation) call(v *Value, self *Node) *Value {
	name, argument, _ := function(v)
	switch name {
	case "get_input":
		return e.getInput(argument)
	case "get_property", "get_attribute":
		return e.get(name, argument, self)
	case "concat":
		return e.join(argument, argument.items, "", self)
	case "join":
		delimiter := ""
		if len(argument.items) == 0 || len(argument.items) > 2 || argument.items[0].kind != list {
			return e.wrong(v, "join takes a list of strings, and a delimiter")
		}
		if len(argument.items) == 2 {
			if argument.items[1].kind != text {
				return e.wrong(argument.items[1], "the delimiter of join is not a string")
			}
			delimiter = argument.items[1].text
		}
		return e.join(argument, argument.items[0].items, delimiter, self)
	case "token":
		return e.token(argument, self)
	}
	e.problems.hint(v.at, notOurs, "the function %s is not in the subset of this host", name)
	return unknownAt(v.at)
}

func (e *evaluation) getInput(argument *Value) *Value {
	name := argument
	if argument.kind == list && len(argument.items) > 0 {
		name = argument.items[0]
		if len(argument.items) > 1 {
			return e.wrong(argument, "get_input with a path into the value: opera ignores it and takes the whole value")
		}
	}
	if name.kind != text {
		return e.wrong(argument, "get_input takes the name of an input")
	}
	v, ok := e.inputs[name.text]
	if !ok {
		var names []string
		for _, def := range e.template.inputs {
			names = append(names, def.name)
		}
		e.problems.hint(name.at, nearest(name.text, names), "there is no input %s", name.text)
		return unknownAt(name.at)
	}
	return e.asGiven(v)
}

// asGiven is a value in which nothing is evaluated any more.
func (e *evaluation) asGiven(v *Value) *Value {
	if v == nil || v.given || v.kind == unknown {
		return v
	}
	return given(v)
}

// get evaluates get_property and get_attribute: [SELF | HOST | node, name], or with a requirement before the name.
func (e *evaluation) get(function string, argument *Value, self *Node) *Value {
	if argument.kind != list || len(argument.items) < 2 || slices.ContainsFunc(argument.items[:2], func(v *Value) bool { return v.kind != text }) {
		return e.wrong(argument, "%s takes a list: SELF or the name of a node, and a name", function)
	}
	node := e.entity(argument.items[0], self)
	if node == nil {
		return unknownAt(argument.at)
	}
	rest := argument.items[1:]
	for len(rest) > 1 && !e.has(function, node, rest[0].text) {
		next := node.fulfilled(rest[0].text)
		switch {
		case len(next) == 0 && slices.ContainsFunc(node.typ.allRequirements(), func(d *requirementDefinition) bool {
			return d.name == rest[0].text && d.least > 0
		}):
			return unknownAt(argument.at) // that it is missing has been told
		case len(next) == 0:
			return e.wrong(rest[0], "node %s has neither %s nor a requirement %s", node.name, article(strings.TrimPrefix(function, "get_")), rest[0].text)
		case len(next) > 1:
			return e.wrong(rest[0], "node %s has more than one requirement %s", node.name, rest[0].text)
		}
		node, rest = next[0], rest[1:]
		if rest[0].kind != text {
			return e.wrong(rest[0], "%s takes names", function)
		}
	}
	switch {
	case len(rest) > 1:
		return e.wrong(rest[1], "%s with a path into the value: opera ignores it and takes the whole value", function)
	case !e.has(function, node, rest[0].text):
		return e.unknownName(function, node, rest[0])
	}
	if function == "get_property" {
		return e.asGiven(e.property(node, rest[0]))
	}
	return e.asGiven(e.attribute(node, rest[0]))
}

func (e *evaluation) unknownName(function string, node *Node, name *Value) *Value {
	what, all := "property", node.typ.allProperties()
	if function == "get_attribute" {
		what, all = "attribute", append(slices.Clone(all), node.typ.allAttributes()...)
	}
	var names []string
	for _, def := range all {
		names = append(names, def.name)
	}
	e.problems.hint(name.at, nearest(name.text, names), "node %s (type %s) has no %s %s", node.name, node.typ.name, what, name.text)
	return unknownAt(name.at)
}

// entity is the node that a function begins at.
func (e *evaluation) entity(name *Value, self *Node) *Node {
	switch name.text {
	case "SELF":
		if self == nil {
			e.problems.hint(name.at, "name a node", "there is no SELF in an output")
		}
		return self
	case "HOST":
		if self != nil {
			for _, r := range self.requirements {
				if r.relationship.isA(hostedOn) {
					return r.node
				}
			}
		}
		e.problems.add(name.at, "there is no HOST here")
		return nil
	case "SOURCE", "TARGET":
		e.problems.hint(name.at, notOurs, "%s belongs to operations of relationships, which are not in the subset of this host", name.text)
		return nil
	}
	node := e.Node(name.text)
	if node == nil {
		var names []string
		for _, n := range e.nodes {
			names = append(names, n.name)
		}
		e.problems.hint(name.at, nearest(name.text, names), "there is no node %s", name.text)
	}
	return node
}

func (n *Node) fulfilled(requirement string) (nodes []*Node) {
	for _, r := range n.requirements {
		if r.name == requirement {
			nodes = append(nodes, r.node)
		}
	}
	return nodes
}

// has tells whether a node has a property; each property is an attribute as well.
func (e *evaluation) has(function string, node *Node, name string) bool {
	if _, ok := node.properties[name]; ok {
		return true
	}
	_, ok := node.attributes[name]
	return ok && function == "get_attribute"
}

// once evaluates something that may refer to others, but not to itself in the end.
func (e *evaluation) once(what string, at *Value, evaluate func() *Value) *Value {
	if slices.Contains(e.active, what) {
		return e.wrong(at, "%s refers to itself", what)
	}
	e.active = append(e.active, what)
	defer func() { e.active = e.active[:len(e.active)-1] }()
	return evaluate()
}

func (e *evaluation) property(node *Node, name *Value) *Value {
	return e.once(fmt.Sprintf("property %s of node %s", name.text, node.name), name, func() *Value {
		return e.value(node.properties[name.text], node)
	})
}

func (e *evaluation) attribute(node *Node, name *Value) *Value {
	if v, ok := e.results[node.name][name.text]; ok {
		return v
	}
	switch name.text {
	case "tosca_name":
		return textAt(node.name, node.at)
	case "tosca_id":
		return textAt(node.name+"_0", node.at) // as opera numbers its instances
	}
	v, ok := node.attributes[name.text]
	if !ok {
		return e.property(node, name)
	}
	value := e.once(fmt.Sprintf("attribute %s of node %s", name.text, node.name), name, func() *Value { return e.value(v, node) })
	if e.results == nil && node.plugin != "" && !hasFunction(v) {
		return unknownAt(node.at) // an operation may give it a value
	}
	return value
}

// join evaluates concat and join.
func (e *evaluation) join(at *Value, items []*Value, delimiter string, self *Node) *Value {
	var parts []string
	known := true
	for _, item := range items {
		v := item
		if _, _, ok := function(item); ok {
			v = e.call(item, self)
		}
		switch {
		case v.absent():
			return e.wrong(item, "a part of the text has no value")
		case v.kind == unknown:
			known = false
		case v.kind != text:
			return e.wrong(item, "a part of the text is %s, not a string", article(string(v.kind)))
		}
		parts = append(parts, v.text)
	}
	if !known {
		return unknownAt(at.at)
	}
	return textAt(strings.Join(parts, delimiter), at.at)
}

// token takes a part of a text: [text, separator, number of the part].
func (e *evaluation) token(argument *Value, self *Node) *Value {
	if len(argument.items) != 3 {
		return e.wrong(argument, "token takes a text, a separator and the number of a part")
	}
	parts := make([]*Value, 3)
	for i, item := range argument.items {
		if parts[i] = item; item.kind == object {
			if _, _, ok := function(item); ok {
				parts[i] = e.call(item, self)
			}
		}
		if parts[i].kind == unknown {
			return unknownAt(argument.at)
		}
	}
	if parts[0].absent() || parts[0].kind != text || parts[1].kind != text || parts[2].kind != integer {
		return e.wrong(argument, "token takes a text, a separator and the number of a part")
	}
	if parts[1].text == "" || !strings.Contains(parts[0].text, parts[1].text) {
		return e.wrong(argument.items[1], "the separator of token is not in the text")
	}
	all := strings.Split(parts[0].text, parts[1].text)
	i, err := strconv.Atoi(parts[2].text)
	if err != nil || i < 0 || i >= len(all) {
		return e.wrong(argument.items[2], "the text has %d parts, counted from 0", len(all))
	}
	return textAt(all[i], argument.at)
}
