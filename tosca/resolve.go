package tosca

import (
	"maps"
	"slices"
)

// resolve connects types by their names, and tells about names that nothing has.
func resolve(p *problems, d *definitions, schemas []*schema) {
	connect(p, "data type", d.data, func(t *dataType) (*entity, **dataType) { return &t.entity, &t.base })
	connect(p, "node type", d.nodes, func(t *nodeType) (*entity, **nodeType) { return &t.entity, &t.base })
	connect(p, "interface type", d.interfaces, func(t *interfaceType) (*entity, **interfaceType) { return &t.entity, &t.base })
	simple := func(t *simpleType) (*entity, **simpleType) { return &t.entity, &t.base }
	connect(p, "capability type", d.capabilities, simple)
	connect(p, "relationship type", d.relationships, simple)
	connect(p, "policy type", d.policies, simple)
	connect(p, "artifact type", d.artifacts, simple)
	for _, s := range schemas {
		if found, ok := lookup(p, &Value{at: s.at, text: s.name}, "data type", d.data); ok {
			s.data = found
		}
	}
	for _, t := range d.data {
		if t.of() != "" && len(t.properties) > 0 {
			p.add(t.properties[0].at, "data type %s derives from %s, which has no properties", t.name, t.of())
		}
	}
	for _, t := range d.nodes {
		checkNodeType(p, d, t)
	}
	for _, t := range d.relationships {
		for _, i := range t.interfaces {
			for _, o := range i.operations {
				if o.implementation != "" {
					p.hint(o.implementedAt, notOurs, "relationship type %s has a playbook for %s, which this host does not run", t.name, o.name)
				}
			}
		}
	}
	if len(p.list) == 0 {
		checkDefaults(p, d)
	}
}

// connect finds what each type derives from. A type that derives from itself in the end is cut off.
func connect[T any](p *problems, what string, all map[string]*T, parts func(*T) (*entity, **T)) {
	names := slices.Sorted(maps.Keys(all))
	for _, name := range names {
		e, base := parts(all[name])
		if e.parent == nil || e.parent.text == rootEntity {
			continue
		}
		if found, ok := lookup(p, e.parent, what, all); ok {
			*base = found
		} else if nearby, hint := e.parent, notOurs; len(p.list) > 0 && nearby.at != normative {
			last := &p.list[len(p.list)-1]
			if last.hint == "" && isTOSCA(nearby.text) {
				last.message, last.hint = "the "+what+" "+nearby.text+" is not in the subset of this host", hint
			}
		}
	}
	for _, name := range names {
		slow, fast := all[name], all[name]
		for {
			_, next := parts(fast)
			if *next == nil {
				break
			}
			_, second := parts(*next)
			if *second == nil {
				break
			}
			fast = *second
			_, one := parts(slow)
			if slow = *one; slow == fast {
				e, base := parts(all[name])
				p.add(e.at, "%s %s derives from itself", what, e.name)
				*base = nil
				break
			}
		}
	}
}

// isTOSCA tells whether a name is one of those that TOSCA defines itself.
func isTOSCA(name string) bool { return len(name) > 6 && name[:6] == "tosca." }

// checkNodeType looks at the names of types in a node type.
func checkNodeType(p *problems, d *definitions, t *nodeType) {
	for _, r := range t.requirements {
		if r.capability != nil {
			lookup(p, r.capability, "capability type", d.capabilities)
		} else {
			p.add(r.at, "requirement %s has no capability", r.name)
		}
		if r.node != nil {
			lookup(p, r.node, "node type", d.nodes)
		}
		if r.relationship != nil {
			lookup(p, r.relationship, "relationship type", d.relationships)
		}
	}
	for _, c := range t.capabilities {
		lookup(p, c.typ, "capability type", d.capabilities)
	}
	for _, i := range t.interfaces {
		if i.typ == nil {
			continue
		}
		lookup(p, i.typ, "interface type", d.interfaces)
	}
	for _, i := range t.allInterfaces(d) {
		checkOperations(p, d, t, i)
	}
}

// checkOperations tells about operations that the interface's type does not have.
func checkOperations(p *problems, d *definitions, t *nodeType, i *interfaceDefinition) {
	if i.typ == nil {
		if len(i.operations) > 0 {
			p.add(i.at, "interface %s of node type %s has no type, and none is inherited", i.name, t.name)
		}
		return
	}
	var known []string
	for of := d.interfaces[i.typ.text]; of != nil; of = of.base {
		for _, o := range of.operations {
			known = append(known, o.name)
		}
	}
	for _, o := range i.operations {
		if !slices.Contains(known, o.name) {
			p.hint(o.at, nearest(o.name, slices.Clone(known)), "interface type %s has no operation %s", i.typ.text, o.name)
		}
	}
}

// checkDefaults checks the defaults of types as the values that they will be.
func checkDefaults(p *problems, d *definitions) {
	c := &checker{problems: p}
	check := func(list []*property, functions bool) {
		for _, def := range list {
			switch {
			case def.value.absent() || def.schema == nil:
			case !hasFunction(def.value):
				// an empty default stands for nothing, whatever the type says
				def.value = c.conform(def.value, def.schema, "the default of "+def.name, false)
			case !functions:
				p.add(def.value.at, "the default of %s is a function, which only properties and attributes of nodes have", def.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.data)) {
		check(d.data[name].properties, false)
	}
	for _, name := range slices.Sorted(maps.Keys(d.nodes)) {
		check(d.nodes[name].properties, true)
		check(d.nodes[name].attributes, true)
	}
}
