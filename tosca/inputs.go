package tosca

import (
	"imagebuilder/internal/fault"
)

// Inputs are the values for a template's inputs, as a file has them.
type Inputs struct {
	file   string
	at     Position
	fields []field
}

// NoInputs are inputs that give nothing.
func NoInputs() *Inputs { return &Inputs{} }

// ReadInputs reads a file with inputs, YAML or JSON. Nothing in it is ever a function or a template: what looks like one
// is text. The error is of kind Invalid.
func ReadInputs(data []byte, file string) (*Inputs, error) {
	p := &problems{}
	in := readInputs(data, file, p)
	if err := p.err("read", file); err != nil {
		return nil, err
	}
	return in, nil
}

func readInputs(data []byte, file string, p *problems) *Inputs {
	v := readYAML(data, file, yaml11, p)
	in := &Inputs{file: file, at: Position{file, 1, 1}}
	switch {
	case v == nil || v.kind == null:
		return in
	case v.kind != object:
		p.add(v.at, "inputs are %s, not a map", article(string(v.kind)))
		return in
	}
	in.at = v.at
	for _, f := range v.fields {
		in.fields = append(in.fields, field{f.key, f.at, given(f.value)})
	}
	return in
}

// LoadInputs reads the inputs that stand in a file.
func LoadInputs(file string) (*Inputs, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read %s: %w", file, cause(err))
	}
	return ReadInputs(data, file)
}

// given marks a value and its parts as data.
func given(v *Value) *Value {
	out := *v
	out.given = true
	out.items, out.fields = make([]*Value, len(v.items)), make([]field, len(v.fields))
	for i, item := range v.items {
		out.items[i] = given(item)
	}
	for i, f := range v.fields {
		out.fields[i] = field{f.key, f.at, given(f.value)}
	}
	return &out
}

func (in *Inputs) value(name string) *Value {
	for _, f := range in.fields {
		if f.key == name {
			return f.value
		}
	}
	return nil
}
