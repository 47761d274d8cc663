package tosca

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// checker checks values against types.
type checker struct{ problems *problems }

// of is the primitive that a type is made of, "" for one with named properties.
func (t *dataType) of() kindOf {
	for ; t != nil; t = t.base {
		if t.primitive != "" {
			return t.primitive
		}
	}
	return ""
}

// conform checks a value and gives it back with the defaults of its type filled in. name is what the value is called in
// problems. What is wrong becomes unknown, so that nothing that follows from it is told as well.
func (c *checker) conform(v *Value, s *schema, name string, required bool) *Value {
	switch {
	case v == nil || v.kind == null || v.kind == unknown, s == nil, s.data == nil:
		return v
	case !required && v.empty():
		return v // absent, in the way of those who cannot leave a field out
	}
	before := len(c.problems.list)
	out := c.shape(v, s, name)
	if len(c.problems.list) > before {
		return unknownAt(v.at)
	}
	of := s.data.of()
	for _, con := range s.constraints {
		c.constrain(out, con, of, name)
	}
	for t := s.data; t != nil; t = t.base {
		for _, con := range t.constraints {
			c.constrain(out, con, of, name)
		}
	}
	if len(c.problems.list) > before {
		return unknownAt(v.at)
	}
	return out
}

func (c *checker) constrain(v *Value, con *constraint, of kindOf, name string) {
	if broken := con.broken(v, of); broken != "" {
		c.problems.add(v.at, "%s %s", name, broken)
	}
}

// shape checks what a value is made of.
func (c *checker) shape(v *Value, s *schema, name string) *Value {
	of := s.data.of()
	if of == "" {
		return c.structure(v, s, name)
	}
	wrong := func(want string) *Value {
		hint := ""
		switch {
		case of == ofText && v.plain != "":
			hint = fmt.Sprintf("quote it: %q", v.plain)
		case v.kind == object && len(v.fields) == 1 && !v.given: // a function whose name is misspelled
			hint = nearest(v.fields[0].key, slices.Clone(evaluators))
		}
		c.problems.hint(v.at, hint, "%s is %s, not %s", name, article(string(v.kind)), want)
		return v
	}
	switch of {
	case ofText:
		if v.kind != text {
			return wrong("a string")
		}
	case ofInteger:
		if v.kind != integer {
			return wrong("an integer")
		}
	case ofFloat:
		if v.kind != float && v.kind != integer {
			return wrong("a float")
		}
	case ofBoolean:
		if v.kind != boolean {
			return wrong("a boolean")
		}
	case ofNull:
		return wrong("null")
	case ofTimestamp:
		if v.kind != text || !old11Time.MatchString(v.text) {
			return wrong("a timestamp")
		}
	case ofVersion:
		return c.version(v, wrong)
	case ofRange:
		if v.kind != list || len(v.items) != 2 || v.items[0].kind != integer || (v.items[1].kind != integer && v.items[1].text != "UNBOUNDED") {
			return wrong("a range, as [1, 10]")
		}
	case ofSize, ofTime, ofFrequency, ofBitrate:
		if v.kind != text || magnitude(v, of) == nil {
			return wrong("a " + string(of) + ", as " + map[kindOf]string{ofSize: "10 MB", ofTime: "5 m", ofFrequency: "2.4 GHz", ofBitrate: "1 Gbps"}[of])
		}
	case ofList:
		return c.list(v, s, name, wrong)
	case ofMap:
		return c.mapping(v, s, name, wrong)
	}
	return v
}

var versionText = regexp.MustCompile(`^[0-9]+\.[0-9]+(\.[0-9]+(\.[A-Za-z0-9_]+(-[0-9]+)?)?)?$`)

// version takes 1.0 without quotes as well, which is how TOSCA's own examples write it.
func (c *checker) version(v *Value, wrong func(string) *Value) *Value {
	written := v.text
	if v.kind == float {
		written = v.plain
	}
	if (v.kind != text && v.kind != float) || !versionText.MatchString(written) {
		return wrong("a version, as 1.2")
	}
	return &Value{at: v.at, kind: text, text: written}
}

func article(what string) string {
	if strings.ContainsRune("aeiou", rune(what[0])) {
		return "an " + what
	}
	return "a " + what
}

// entrySchema is what the entries of a list or map have to be: as said where it is used, or by its type.
func (s *schema) entrySchema() *schema {
	if s.entry != nil {
		return s.entry
	}
	for t := s.data; t != nil; t = t.base {
		if t.entry != nil {
			return t.entry
		}
	}
	return nil
}

func (s *schema) keySchema() *schema {
	if s.key != nil {
		return s.key
	}
	for t := s.data; t != nil; t = t.base {
		if t.key != nil {
			return t.key
		}
	}
	return nil
}

func (c *checker) list(v *Value, s *schema, name string, wrong func(string) *Value) *Value {
	if v.kind != list {
		return wrong("a list")
	}
	out := *v
	out.items = make([]*Value, len(v.items))
	for i, item := range v.items {
		out.items[i] = item
		if entry := s.entrySchema(); entry != nil {
			if item.kind == null {
				c.problems.add(item.at, "%s[%d] is null", name, i)
			}
			out.items[i] = c.conform(item, entry, fmt.Sprintf("%s[%d]", name, i), true)
		}
	}
	return &out
}

func (c *checker) mapping(v *Value, s *schema, name string, wrong func(string) *Value) *Value {
	if v.kind != object {
		return wrong("a map")
	}
	out := *v
	out.fields = slices.Clone(v.fields)
	for i, f := range v.fields {
		if key := s.keySchema(); key != nil {
			c.conform(&Value{at: f.at, kind: text, text: f.key}, key, "the key "+f.key, true)
		}
		if entry := s.entrySchema(); entry != nil {
			out.fields[i].value = c.conform(f.value, entry, name+"."+f.key, true)
		}
	}
	return &out
}

// structure checks a map with named properties.
func (c *checker) structure(v *Value, s *schema, name string) *Value {
	if v.kind != object {
		c.problems.add(v.at, "%s is %s, not a map of type %s", name, article(string(v.kind)), s.data.name)
		return v
	}
	out := *v
	out.fields = nil
	definitions := s.data.allProperties()
	var names []string
	for _, def := range definitions {
		names = append(names, def.name)
	}
	for _, f := range v.fields {
		def := find(definitions, f.key)
		if def == nil {
			c.problems.hint(f.at, nearest(f.key, names), "%s has no property %s (type %s)", name, f.key, s.data.name)
			continue
		}
		if !f.value.absent() {
			out.fields = append(out.fields, field{f.key, f.at, c.conform(f.value, def.schema, name+"."+f.key, def.required)})
		}
	}
	for _, def := range definitions {
		if !out.get(def.name).absent() {
			continue
		}
		switch {
		case !def.value.absent():
			out.fields = append(out.fields, field{def.name, v.at, def.value})
		case def.required:
			c.problems.add(v.at, "%s has no %s, which is required (type %s)", name, def.name, s.data.name)
		}
	}
	return &out
}
