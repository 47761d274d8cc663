package tosca

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// kind is what a value is.
type kind string

const (
	null    kind = "null"
	boolean kind = "boolean"
	integer kind = "integer"
	float   kind = "float"
	text    kind = "string"
	list    kind = "list"
	object  kind = "map"
	unknown kind = "unknown" // it depends on an input that is not given, or has been found wrong already
)

// Value is a value of a template or of its inputs, and where it stands. It is never changed once it has been read:
// checking and evaluating give new ones.
type Value struct {
	at     Position
	kind   kind
	text   string // a string's value, a number as JSON writes it, "true" or "false"
	plain  string // a scalar without quotes as the file writes it: 3.10, yes
	items  []*Value
	fields []field
	given  bool // it comes from the inputs, or from what an operation returned: nothing in it is a function
}

type field struct {
	key   string
	at    Position
	value *Value
}

// absent tells whether there is no value: null means the same as nothing.
func (v *Value) absent() bool { return v == nil || v.kind == null }

// get gives the member of a map, nil where there is none.
func (v *Value) get(key string) *Value {
	if v == nil {
		return nil
	}
	for i := range v.fields {
		if v.fields[i].key == key {
			return v.fields[i].value
		}
	}
	return nil
}

// empty tells whether a value is absent by the rule of build_params: null, "", {} and [] are.
func (v *Value) empty() bool {
	switch {
	case v.absent():
		return true
	case v.kind == text:
		return v.text == ""
	case v.kind == list:
		return len(v.items) == 0
	case v.kind == object:
		return len(v.fields) == 0
	}
	return false
}

// known tells whether no part of a value is unknown.
func (v *Value) known() bool {
	if v == nil {
		return true
	}
	for _, f := range v.fields {
		if !f.value.known() {
			return false
		}
	}
	return v.kind != unknown && !slices.ContainsFunc(v.items, func(item *Value) bool { return !item.known() })
}

// Any is the value as encoding/json decodes it with UseNumber. Members that are null are left out.
func (v *Value) Any() any {
	if v == nil {
		return nil
	}
	switch v.kind {
	case boolean:
		return v.text == "true"
	case integer, float:
		return json.Number(v.text)
	case text:
		return v.text
	case list:
		items := make([]any, len(v.items))
		for i, item := range v.items {
			items[i] = item.Any()
		}
		return items
	case object:
		members := make(map[string]any, len(v.fields))
		for _, f := range v.fields {
			if !f.value.absent() {
				members[f.key] = f.value.Any()
			}
		}
		return members
	default:
		return nil
	}
}

// valueOf is the reverse of Any, for what an operation returned or a state file holds. at is told in errors about it.
func valueOf(data any, at Position) *Value {
	v := &Value{at: at, given: true}
	switch data := data.(type) {
	case bool:
		v.kind, v.text = boolean, strconv.FormatBool(data)
	case json.Number:
		v.kind, v.text = integer, data.String()
		if strings.ContainsAny(v.text, ".eE") {
			v.kind = float
		}
	case float64:
		return valueOf(json.Number(strconv.FormatFloat(data, 'g', -1, 64)), at)
	case int:
		v.kind, v.text = integer, strconv.Itoa(data)
	case int64:
		v.kind, v.text = integer, strconv.FormatInt(data, 10)
	case string:
		v.kind, v.text = text, data
	case []any:
		v.kind = list
		for _, item := range data {
			v.items = append(v.items, valueOf(item, at))
		}
	case map[string]any:
		v.kind = object
		for key, value := range data {
			v.fields = append(v.fields, field{key, at, valueOf(value, at)})
		}
		slices.SortFunc(v.fields, func(a, b field) int { return strings.Compare(a.key, b.key) })
	case nil:
		v.kind = null
	default:
		raw, err := json.Marshal(data)
		var plain any
		if err == nil && unmarshal(raw, &plain) == nil {
			return valueOf(plain, at)
		}
		v.kind = null
	}
	return v
}

// unmarshal decodes JSON and keeps numbers as they are written.
func unmarshal(raw []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	return d.Decode(into)
}

// textAt is a string of our own at a place.
func textAt(s string, at Position) *Value { return &Value{at: at, kind: text, text: s, given: true} }

// unknownAt stands for what cannot be known.
func unknownAt(at Position) *Value { return &Value{at: at, kind: unknown} }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
