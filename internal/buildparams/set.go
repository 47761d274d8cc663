package buildparams

import (
	"fmt"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
)

// step is one element of a --set path: a key of a map, or an index of a list.
type step struct {
	key   string
	index int // -1 for a key
}

// set puts one value, PATH=VALUE, into the document. A problem names PATH only: the value may be secret.
func (r *rules) set(n *node, assignment string) *fault.Problem {
	name, value, ok := cutPath(assignment)
	wrong := func(at path, message, hint string) *fault.Problem {
		return &fault.Problem{Pointer: at.pointer(), Message: "set " + name + ": " + message, Hint: hint}
	}
	const example = "for example target.images[0].tag=v2"
	if !ok {
		return &fault.Problem{Message: "set: there is no = in it", Hint: example}
	}
	steps, err := parsePath(name)
	if err != nil {
		return wrong(nil, err.Error(), example)
	}
	var at path
	for i, s := range steps {
		var slot *node
		if slot, err = s.enter(n); err != nil {
			return wrong(at, err.Error(), "")
		}
		at = at.with(s.text())
		if i == len(steps)-1 {
			filled, problem := r.valueFor(value, at)
			if problem != nil {
				problem.Message = "set " + name + ": " + problem.Message
				return problem
			}
			*slot = *filled
			break
		}
		// A value that is absent makes room for what the path needs.
		if slot.kind == null || (slot.kind == text && slot.text == "") {
			*slot = node{kind: object}
			if steps[i+1].index >= 0 {
				slot.kind = array
			}
		}
		n = slot
	}
	return nil
}

func (s step) text() string {
	if s.index >= 0 {
		return strconv.Itoa(s.index)
	}
	return s.key
}

// enter is the value that a step leads to; it makes one, null, where there is none yet.
func (s step) enter(n *node) (*node, error) {
	if s.index >= 0 {
		switch {
		case n.kind != array:
			return nil, fmt.Errorf("[%d] is for a list, and there is %s", s.index, kindNames[n.kind])
		case s.index > len(n.items):
			return nil, fmt.Errorf("[%d] is beyond the end of the list, which has %d", s.index, len(n.items))
		case s.index == len(n.items):
			n.items = append(n.items, &node{kind: null})
		}
		return n.items[s.index], nil
	}
	if n.kind != object {
		return nil, fmt.Errorf("%q is a field, and there is %s", s.key, kindNames[n.kind])
	}
	if n.get(s.key) == nil {
		n.put(s.key, &node{kind: null})
	}
	return n.get(s.key), nil
}

// valueFor makes a value of a flag's text as the schema wants it at a path: text, or JSON where it wants something else.
func (r *rules) valueFor(value string, at path) (*node, *fault.Problem) {
	rule := r.at(at)
	if rule == nil || rule.Type == text || rule.Type == "" {
		return textNode(value), nil
	}
	if value == "" {
		return &node{kind: null}, nil
	}
	n, problems := parseJSON([]byte(value))
	isNumber := rule.Type == integer && problems == nil && n.kind == number // that it is a whole one, the schema checks
	if problems != nil || n.kind != rule.Type && !isNumber {
		hint := map[kind]string{boolean: "write true or false", array: `write JSON, as in '["linux/amd64","linux/arm64"]'`, object: `write JSON, as in '{"NAME":"value"}'`}[rule.Type]
		return nil, &fault.Problem{Pointer: at.pointer(), Message: "the value is not " + kindNames[rule.Type], Hint: hint}
	}
	return n, nil
}

// cutPath cuts at the first = that is not escaped.
func cutPath(s string) (name, value string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '=':
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// maxIndex keeps a mistyped index from being more than a number; no list is that long.
const maxIndex = 10_000

// parsePath reads target.images[0].tag. A backslash takes the meaning from the character after it.
func parsePath(s string) ([]step, error) {
	var steps []step
	for rest := s; ; {
		key, after := cutKey(rest)
		if key == "" {
			return nil, fmt.Errorf("a name is missing in the path")
		}
		steps = append(steps, step{key, -1})
		rest = after
		for strings.HasPrefix(rest, "[") {
			digits, after, closed := strings.Cut(rest[1:], "]")
			i, err := strconv.Atoi(digits)
			if !closed || err != nil || i < 0 || i > maxIndex || digits != strconv.Itoa(i) {
				return nil, fmt.Errorf("[ is not followed by a number and ]")
			}
			steps = append(steps, step{"", i})
			rest = after
		}
		switch {
		case rest == "":
			return steps, checkDepth(steps)
		case rest[0] != '.':
			return nil, fmt.Errorf("] is not followed by a point")
		}
		rest = rest[1:]
	}
}

func checkDepth(steps []step) error {
	if len(steps) > maxDepth {
		return fmt.Errorf("the path has more than %d steps", maxDepth)
	}
	return nil
}

// cutKey reads a key, up to a dot or bracket that is not escaped.
func cutKey(s string) (key, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '.', '[':
			return b.String(), s[i:]
		case '\\':
			if i++; i == len(s) {
				return b.String(), ""
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
