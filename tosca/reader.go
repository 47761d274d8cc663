package tosca

import (
	"slices"
	"strconv"
)

// version13 is the only grammar that is read.
const version13 = "tosca_simple_yaml_1_3"

// notOurs is the hint for what TOSCA has and this host has not.
const notOurs = "opera deploys such templates"

// reader makes definitions of values, as far as a single place shows what is wrong with them. Names of types are left
// for later, when all files have been read.
type reader struct {
	problems *problems
	schemas  []*schema // all that were read, to be resolved
}

// keys checks the keys of a map, and gives false when it is none. Those in other are TOSCA's and not ours.
func (r *reader) keys(v *Value, what string, known []string, other ...string) bool {
	if v.absent() {
		return false
	}
	if v.kind != object {
		r.problems.add(v.at, "%s is %s, not a map", what, article(string(v.kind)))
		return false
	}
	for _, f := range v.fields {
		switch {
		case slices.Contains(known, f.key):
		case slices.Contains(other, f.key):
			r.problems.hint(f.at, notOurs, "%s of %s is not in the subset of this host", f.key, what)
		default:
			r.problems.hint(f.at, nearest(f.key, slices.Clone(known)), "%s has no key %s", what, f.key)
		}
	}
	return true
}

// fields are the entries of a map that may be left out.
func (r *reader) fields(v *Value, what string) []field {
	if v.absent() {
		return nil
	}
	if v.kind != object {
		r.problems.add(v.at, "%s is %s, not a map", what, article(string(v.kind)))
		return nil
	}
	return v.fields
}

// text is a string that may be left out: nil then.
func (r *reader) text(v *Value, what string) *Value {
	if v.absent() {
		return nil
	}
	if v.kind != text || v.text == "" {
		r.problems.add(v.at, "%s is not a name", what)
		return nil
	}
	return v
}

// strings checks that all values of a map are strings, which is what opera takes.
func (r *reader) metadata(v *Value) map[string]*Value {
	all := map[string]*Value{}
	for _, f := range r.fields(v, "metadata") {
		if f.value.kind != text {
			r.problems.hint(f.value.at, "quote it", "metadata %s is %s, not a string", f.key, article(string(f.value.kind)))
			continue
		}
		all[f.key] = f.value
	}
	return all
}

func (r *reader) description(v *Value) string {
	if d := v.get("description"); !d.absent() {
		if d.kind == text {
			return d.text
		}
		r.problems.add(d.at, "description is %s, not a string", article(string(d.kind)))
	}
	return ""
}

// typeKeys are what all definitions of types may have.
var typeKeys = []string{"derived_from", "version", "metadata", "description"}

func (r *reader) entity(f field, what, root string) entity {
	e := entity{name: f.key, at: f.at, parent: r.text(f.value.get("derived_from"), "derived_from")}
	if e.parent == nil && root != "" {
		e.parent = &Value{at: f.at, kind: text, text: root}
	}
	r.description(f.value)
	if what != "node type" { // which keeps it
		r.metadata(f.value.get("metadata"))
	}
	return e
}

func (r *reader) dataType(f field) *dataType {
	r.keys(f.value, "data type "+f.key, append([]string{"constraints", "properties", "key_schema", "entry_schema"}, typeKeys...))
	t := &dataType{entity: r.entity(f, "data type", rootData)}
	t.properties = r.properties(f.value.get("properties"), "property", true)
	t.constraints = readConstraints(r.problems, f.value.get("constraints"))
	t.entry, t.key = r.schema(f.value.get("entry_schema"), "entry_schema"), r.schema(f.value.get("key_schema"), "key_schema")
	return t
}

// schemaKeys are those of a definition that say what a value has to be.
var schemaKeys = []string{"type", "description", "constraints", "entry_schema", "key_schema"}

// schema reads what a value has to be; nil when nothing is said.
func (r *reader) schema(v *Value, what string) *schema {
	if v.absent() {
		return nil
	}
	if v.kind == text {
		r.problems.hint(v.at, "write {type: "+v.text+"}, which opera takes as well", "%s is a string, not a map", what)
		return nil
	}
	if !r.keys(v, what, schemaKeys) {
		return nil
	}
	r.description(v)
	return r.schemaOf(v, what)
}

// schemaOf reads type, constraints and the schemas of entries.
func (r *reader) schemaOf(v *Value, what string) *schema {
	name := r.text(v.get("type"), "type")
	if name == nil {
		if v.get("type").absent() {
			r.problems.add(v.at, "%s has no type", what)
		}
		return nil
	}
	s := &schema{at: name.at, name: name.text}
	s.constraints = readConstraints(r.problems, v.get("constraints"))
	s.entry, s.key = r.schema(v.get("entry_schema"), "entry_schema"), r.schema(v.get("key_schema"), "key_schema")
	r.schemas = append(r.schemas, s)
	return s
}

// properties reads definitions of properties, attributes (which are never required) or parameters.
func (r *reader) properties(v *Value, what string, required bool) []*property {
	var all []*property
	for _, f := range r.fields(v, "the list of "+what+" definitions") {
		all = append(all, r.property(f, what, required))
	}
	return all
}

func (r *reader) property(f field, what string, required bool) *property {
	p := &property{name: f.key, at: f.at, required: required}
	what += " " + f.key
	if f.value.absent() {
		r.problems.add(f.at, "%s has no type", what)
		return p
	}
	if !r.keys(f.value, what, append([]string{"required", "default", "status", "metadata"}, schemaKeys...), "external-schema") {
		return p
	}
	p.description, p.schema = r.description(f.value), r.schemaOf(f.value, what)
	if v := f.value.get("required"); !v.absent() {
		if v.kind != boolean {
			r.problems.add(v.at, "required is %s, not a boolean", article(string(v.kind)))
		}
		p.required = required && v.text != "false"
	}
	p.value = f.value.get("default")
	return p
}

// parameter is an input of an operation: a definition, where a type says what there is, or a value.
func (r *reader) parameter(f field) *property {
	v := f.value
	if v.kind == object && v.get("type") != nil && !slices.ContainsFunc(v.fields, func(f field) bool {
		return !slices.Contains(append([]string{"required", "default", "value", "status"}, schemaKeys...), f.key)
	}) {
		p := &property{name: f.key, at: f.at, description: r.description(v), schema: r.schemaOf(v, "input "+f.key), required: true}
		if p.value = v.get("value"); p.value == nil {
			p.value = v.get("default")
		}
		if required := v.get("required"); !required.absent() {
			p.required = required.text != "false"
		}
		return p
	}
	return &property{name: f.key, at: f.at, value: v}
}

func (r *reader) nodeType(f field, file string) *nodeType {
	r.keys(f.value, "node type "+f.key, append([]string{
		"properties", "attributes", "requirements", "capabilities", "interfaces", "artifacts",
	}, typeKeys...))
	return &nodeType{
		entity:       r.entity(f, "node type", rootNode),
		metadata:     r.metadata(f.value.get("metadata")),
		properties:   r.properties(f.value.get("properties"), "property", true),
		attributes:   r.properties(f.value.get("attributes"), "attribute", false),
		requirements: r.requirements(f.value.get("requirements")),
		capabilities: r.capabilities(f.value.get("capabilities")),
		interfaces:   r.interfaces(f.value.get("interfaces"), file),
	}
}

func (r *reader) simpleType(f field, what, root, file string, own ...string) *simpleType {
	r.keys(f.value, what+" "+f.key, append(append([]string{"properties"}, own...), typeKeys...))
	return &simpleType{
		entity: r.entity(f, what, root), properties: r.properties(f.value.get("properties"), "property", true),
		interfaces: r.interfaces(f.value.get("interfaces"), file),
	}
}

// requirements reads definitions: a list of maps with one entry each.
func (r *reader) requirements(v *Value) []*requirementDefinition {
	var all []*requirementDefinition
	for _, f := range r.entries(v, "requirements") {
		d := &requirementDefinition{name: f.key, at: f.at, least: 1, most: 1}
		all = append(all, d)
		if f.value.kind == text {
			d.capability = f.value
			continue
		}
		if !r.keys(f.value, "requirement "+f.key, []string{"capability", "node", "relationship", "occurrences", "description"}, "node_filter") {
			continue
		}
		d.capability, d.node = r.text(f.value.get("capability"), "capability"), r.text(f.value.get("node"), "node")
		d.relationship = r.relationship(f.value.get("relationship"))
		if o := f.value.get("occurrences"); !o.absent() {
			d.least, d.most = r.occurrences(o)
		}
	}
	return all
}

// relationship is a name, or a map with a type.
func (r *reader) relationship(v *Value) *Value {
	if v.absent() || v.kind == text {
		return r.text(v, "relationship")
	}
	r.keys(v, "relationship", []string{"type"}, "interfaces", "properties", "node_filter")
	return r.text(v.get("type"), "type")
}

// occurrences is a range, as [1, UNBOUNDED].
func (r *reader) occurrences(v *Value) (least, most int) {
	if v.kind == list && len(v.items) == 2 && v.items[0].kind == integer {
		least, err := strconv.Atoi(v.items[0].text)
		if err == nil && v.items[1].text == "UNBOUNDED" {
			return least, -1
		}
		if most, bad := strconv.Atoi(v.items[1].text); err == nil && bad == nil && 0 <= least && least <= most {
			return least, most
		}
	}
	r.problems.add(v.at, "occurrences is not a range, as [1, UNBOUNDED]")
	return 0, -1
}

// entries reads a list of maps that have one entry each.
func (r *reader) entries(v *Value, what string) []field {
	if v.absent() {
		return nil
	}
	if v.kind != list {
		r.problems.add(v.at, "%s is %s, not a list", what, article(string(v.kind)))
		return nil
	}
	var all []field
	for _, item := range v.items {
		if item.kind != object || len(item.fields) != 1 {
			r.problems.add(item.at, "%s is a list of maps with one entry each", what)
			continue
		}
		all = append(all, item.fields[0])
	}
	return all
}

func (r *reader) capabilities(v *Value) []*capabilityDefinition {
	var all []*capabilityDefinition
	for _, f := range r.fields(v, "capabilities") {
		d := &capabilityDefinition{name: f.key, at: f.at, typ: f.value}
		if f.value.kind == object {
			r.keys(f.value, "capability "+f.key, []string{"type", "description", "occurrences", "valid_source_types"}, "properties", "attributes")
			d.typ = f.value.get("type")
		}
		if d.typ = r.text(d.typ, "type"); d.typ == nil {
			r.problems.add(f.at, "capability %s has no type", f.key)
			continue
		}
		all = append(all, d)
	}
	return all
}
