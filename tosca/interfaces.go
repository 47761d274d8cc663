package tosca

import "path"

// interfaceType reads a type of interfaces.
func (r *reader) interfaceType(f field, file string) *interfaceType {
	r.keys(f.value, "interface type "+f.key, append([]string{"operations", "inputs"}, typeKeys...), "notifications")
	return &interfaceType{
		entity:     r.entity(f, "interface type", "tosca.interfaces.Root"),
		operations: r.operations(f.value.get("operations"), f.key, file),
		inputs:     r.parameters(f.value.get("inputs")),
	}
}

// interfaces reads those of a node type or a node template.
func (r *reader) interfaces(v *Value, file string) []*interfaceDefinition {
	var all []*interfaceDefinition
	for _, f := range r.fields(v, "interfaces") {
		d := &interfaceDefinition{name: f.key, at: f.at}
		all = append(all, d)
		if f.key == lifecycle {
			d.name = standard
		}
		if r.inlineOperations(f) {
			continue
		}
		if r.keys(f.value, "interface "+f.key, []string{"type", "operations", "inputs", "description"}, "notifications") {
			d.typ = r.text(f.value.get("type"), "type")
			d.operations, d.inputs = r.operations(f.value.get("operations"), f.key, file), r.parameters(f.value.get("inputs"))
		}
	}
	return all
}

// inlineOperations tells about the way in which TOSCA 1.2 writes operations.
func (r *reader) inlineOperations(f field) bool {
	for _, inner := range f.value.fields {
		switch inner.key {
		case "create", "configure", "start", "stop", "delete":
			r.problems.hint(inner.at, "put it under operations:, as TOSCA 1.3 has it and opera wants it", "operation %s stands directly under the interface %s", inner.key, f.key)
			return true
		}
	}
	return false
}

func (r *reader) parameters(v *Value) []*property {
	var all []*property
	for _, f := range r.fields(v, "inputs") {
		all = append(all, r.parameter(f))
	}
	return all
}

func (r *reader) operations(v *Value, of, file string) []*operation {
	var all []*operation
	for _, f := range r.fields(v, "operations") {
		o := &operation{name: f.key, at: f.at}
		all = append(all, o)
		switch {
		case f.value.kind == text:
			r.implementation(o, f.value, file)
		case r.keys(f.value, "operation "+of+"."+f.key, []string{"inputs", "implementation", "description"}, "outputs"):
			o.inputs = r.parameters(f.value.get("inputs"))
			r.implementation(o, f.value.get("implementation"), file)
		}
	}
	return all
}

// implementation reads which file an operation is. It is only told from others, never run.
func (r *reader) implementation(o *operation, v *Value, file string) {
	if v.absent() {
		return
	}
	o.implementedAt = v.at
	if v.kind == object {
		r.keys(v, "implementation", []string{"primary", "dependencies", "timeout", "operation_host"})
		primary := v.get("primary")
		if primary != nil && primary.kind == object {
			r.keys(primary, "primary", []string{"file", "type", "description", "deploy_path", "repository", "artifact_version", "properties"})
			primary = primary.get("file")
		}
		v = primary
	}
	if v.absent() {
		return
	}
	if name := r.text(v, "implementation"); name != nil {
		o.implementation = path.Join(path.Dir(file), name.text)
	}
}
