package tosca

import (
	"maps"
	"slices"

	"github.com/agext/levenshtein"
)

// entity is what all definitions of types have.
type entity struct {
	name   string
	at     Position // of the name, where it is defined
	parent *Value   // the name of the type that it derives from; nil for a root
}

// dataType is a type of values.
type dataType struct {
	entity
	base        *dataType // resolved parent
	properties  []*property
	constraints []*constraint
	entry, key  *schema
	primitive   kindOf // "" for a type of maps with named properties
}

// schema says what a value has to be.
type schema struct {
	at          Position
	name        string
	data        *dataType // nil when the type does not exist, which has been told
	constraints []*constraint
	entry, key  *schema
}

// property is a property, an attribute or a parameter: something with a name, a type and perhaps a value.
type property struct {
	name        string
	at          Position
	schema      *schema
	required    bool
	value       *Value // the default, or the value of a parameter; nil when there is none
	description string
}

// nodeType is a type of nodes.
type nodeType struct {
	entity
	base         *nodeType
	metadata     map[string]*Value
	properties   []*property
	attributes   []*property
	requirements []*requirementDefinition
	capabilities []*capabilityDefinition
	interfaces   []*interfaceDefinition
}

// simpleType is a type of capabilities, relationships, policies or artifacts: what is known of it is what it derives from.
type simpleType struct {
	entity
	base       *simpleType
	properties []*property
	interfaces []*interfaceDefinition
}

type requirementDefinition struct {
	name               string
	at                 Position
	capability         *Value // names of types
	node, relationship *Value
	least, most        int // most < 0 is unbounded
}

type capabilityDefinition struct {
	name string
	at   Position
	typ  *Value
}

// interfaceType is a type of interfaces.
type interfaceType struct {
	entity
	base       *interfaceType
	operations []*operation
	inputs     []*property
}

// interfaceDefinition is an interface of a node type, or what a node template says about it.
type interfaceDefinition struct {
	name       string
	at         Position
	typ        *Value // nil when it is inherited
	inputs     []*property
	operations []*operation
}

// operation is one operation of an interface.
type operation struct {
	name           string
	at             Position
	inputs         []*property
	implementation string // path of the primary artifact, from where the template stands; "" for none
	implementedAt  Position
}

// definitions are the types of all files together, and those that TOSCA has by itself.
type definitions struct {
	data          map[string]*dataType
	nodes         map[string]*nodeType
	capabilities  map[string]*simpleType
	relationships map[string]*simpleType
	policies      map[string]*simpleType
	artifacts     map[string]*simpleType
	interfaces    map[string]*interfaceType
}

// isA tells whether a node type is the named one or derives from it.
func (t *nodeType) isA(name string) bool {
	for ; t != nil; t = t.base {
		if t.name == name {
			return true
		}
	}
	return false
}

func (t *simpleType) isA(name string) bool {
	for ; t != nil; t = t.base {
		if t.name == name {
			return true
		}
	}
	return false
}

// lookup finds a definition by the name that stands at a place, and tells when there is none.
func lookup[T any](p *problems, name *Value, what string, in map[string]T) (T, bool) {
	found, ok := in[name.text]
	if !ok {
		p.hint(name.at, nearest(name.text, slices.Collect(maps.Keys(in))), "there is no %s %s", what, name.text)
	}
	return found, ok
}

// maxTypos is how many letters may be wrong for a name to be suggested, and of short names no more than two thirds.
const maxTypos = 3

// nearest is "did you mean …?" for the name that comes closest, or "".
func nearest(name string, names []string) string {
	slices.Sort(names)
	best, distance := "", maxTypos+1
	for _, n := range names {
		if d := levenshtein.Distance(name, n, nil); d < distance && 3*d <= 2*len(name) {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// find gives the definition with a name.
func find(list []*property, name string) *property {
	i := slices.IndexFunc(list, func(p *property) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return list[i]
}

// inherited puts what a type defines over what it inherits, by name.
func inherited[T any](own, base []T, name func(T) string) []T {
	all := slices.Clone(base)
	for _, one := range own {
		i := slices.IndexFunc(all, func(t T) bool { return name(t) == name(one) })
		if i >= 0 {
			all[i] = one
			continue
		}
		all = append(all, one)
	}
	return all
}

func (p *property) key() string              { return p.name }
func (r *requirementDefinition) key() string { return r.name }
func (c *capabilityDefinition) key() string  { return c.name }
func (o *operation) key() string             { return o.name }

// allProperties are a data type's properties with the inherited ones.
func (t *dataType) allProperties() []*property {
	if t == nil {
		return nil
	}
	return inherited(t.properties, t.base.allProperties(), (*property).key)
}

func (t *nodeType) allProperties() []*property {
	if t == nil {
		return nil
	}
	return inherited(t.properties, t.base.allProperties(), (*property).key)
}

func (t *nodeType) allAttributes() []*property {
	if t == nil {
		return nil
	}
	return inherited(t.attributes, t.base.allAttributes(), (*property).key)
}

func (t *nodeType) allRequirements() []*requirementDefinition {
	if t == nil {
		return nil
	}
	return inherited(t.requirements, t.base.allRequirements(), (*requirementDefinition).key)
}

func (t *nodeType) allCapabilities() []*capabilityDefinition {
	if t == nil {
		return nil
	}
	return inherited(t.capabilities, t.base.allCapabilities(), (*capabilityDefinition).key)
}

// metadatum is a word of the metadata of a type, or of the nearest type that it derives from.
func (t *nodeType) metadatum(key string) (value *Value, of *nodeType) {
	for ; t != nil; t = t.base {
		if v := t.metadata[key]; v != nil {
			return v, t
		}
	}
	return nil, nil
}

// allInterfaces are a node type's interfaces with the inherited ones. An operation that is declared again replaces the
// inherited one whole, inputs and all, as under opera.
func (t *nodeType) allInterfaces(d *definitions) []*interfaceDefinition {
	if t == nil {
		return nil
	}
	all := t.base.allInterfaces(d)
	for _, own := range t.interfaces {
		i := slices.IndexFunc(all, func(x *interfaceDefinition) bool { return x.name == own.name })
		merged := &interfaceDefinition{name: own.name, at: own.at, typ: own.typ}
		if i >= 0 {
			merged.inputs, merged.operations = all[i].inputs, all[i].operations
			if merged.typ == nil {
				merged.typ = all[i].typ
			}
		}
		if own.typ != nil {
			for of := d.interfaces[own.typ.text]; of != nil; of = of.base {
				merged.operations = inherited(merged.operations, of.operations, (*operation).key)
				merged.inputs = inherited(merged.inputs, of.inputs, (*property).key)
			}
		}
		merged.operations = inherited(own.operations, merged.operations, (*operation).key)
		merged.inputs = inherited(own.inputs, merged.inputs, (*property).key)
		if i >= 0 {
			all = slices.Clone(all)
			all[i] = merged
		} else {
			all = append(slices.Clip(all), merged)
		}
	}
	return all
}
