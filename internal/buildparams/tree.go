package buildparams

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
)

// kind is what a value of a document is; the names are JSON Schema's.
type kind string

const (
	null    kind = "null"
	boolean kind = "boolean"
	number  kind = "number"
	text    kind = "string"
	array   kind = "array"
	object  kind = "object"

	integer kind = "integer" // which the schema asks for, and no node has: what is written is a number
)

// node is a value of a document as it was read, before anything is known about its meaning. Unlike
// a map it keeps the order of its members and how a scalar was written.
type node struct {
	kind    kind
	text    string // a string's value, a number as JSON writes it, "true" or "false"
	written string // a scalar that is no string, as the document writes it: 3.10, yes, 0x1F
	items   []*node
	members []member
}

type member struct {
	key   string
	value *node
}

func textNode(s string) *node { return &node{kind: text, text: s} }

// get gives the member of an object, or nil.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for i := range n.members {
		if n.members[i].key == key {
			return n.members[i].value
		}
	}
	return nil
}

// put replaces the member of an object, or adds it at the end.
func (n *node) put(key string, value *node) {
	for i := range n.members {
		if n.members[i].key == key {
			n.members[i].value = value
			return
		}
	}
	n.members = append(n.members, member{key, value})
}

// equal tells whether two values are the same, whatever the order of members.
func (n *node) equal(m *node) bool {
	if n.kind != m.kind || n.text != m.text || len(n.items) != len(m.items) || len(n.members) != len(m.members) {
		return false
	}
	for i := range n.items {
		if !n.items[i].equal(m.items[i]) {
			return false
		}
	}
	for _, mem := range n.members {
		other := m.get(mem.key)
		if other == nil || !mem.value.equal(other) {
			return false
		}
	}
	return true
}

// value is the node as encoding/json would decode it with UseNumber.
func (n *node) value() any {
	switch n.kind {
	case boolean:
		return n.text == "true"
	case number:
		return json.Number(n.text)
	case text:
		return n.text
	case array:
		items := make([]any, len(n.items))
		for i, item := range n.items {
			items[i] = item.value()
		}
		return items
	case object:
		members := make(map[string]any, len(n.members))
		for _, m := range n.members {
			members[m.key] = m.value.value()
		}
		return members
	default:
		return nil
	}
}

// path is the way from the document to a value: member names, and indexes in decimal.
type path []string

// with is the path to a member or an item; it never shares memory with p.
func (p path) with(element string) path { return append(slices.Clip(p), element) }

func (p path) index(i int) path { return p.with(strconv.Itoa(i)) }

// pointer is the path as a JSON pointer (RFC 6901).
func (p path) pointer() string {
	var b strings.Builder
	for _, element := range p {
		b.WriteByte('/')
		b.WriteString(fault.EscapePointer(element))
	}
	return b.String()
}

// size is the number of values in a tree.
func size(n *node) int {
	count := 1
	for _, item := range n.items {
		count += size(item)
	}
	for _, m := range n.members {
		count += size(m.value)
	}
	return count
}

// height is the number of levels of a tree: 1 for a scalar.
func height(n *node) int {
	below := 0
	for _, item := range n.items {
		below = max(below, height(item))
	}
	for _, m := range n.members {
		below = max(below, height(m.value))
	}
	return below + 1
}

// clone is a copy that shares nothing with n.
func clone(n *node) *node {
	c := *n
	c.items, c.members = nil, nil
	for _, item := range n.items {
		c.items = append(c.items, clone(item))
	}
	for _, m := range n.members {
		c.members = append(c.members, member{m.key, clone(m.value)})
	}
	return &c
}
