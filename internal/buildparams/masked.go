package buildparams

import (
	"maps"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

// SecretPointers are the JSON pointers of every value of a document in which Mask hides something, in the document's order. A masked
// document gives the same as the one that it was made of. A value that has "****" without being secret counts too: which of the
// two it is cannot be known afterwards.
func SecretPointers(data []byte) ([]string, error) {
	_, pointers, err := hide(data)
	return pointers, err
}

// hide is a document as Mask shows it, and where it hides something.
func hide(data []byte) (n *node, pointers []string, err error) {
	n, rules, err := lenient(data)
	if err != nil {
		return nil, nil, err
	}
	mask(n, rules, nil)
	eachText(n, nil, func(at path, n *node) {
		if strings.Contains(n.text, secret.Mask) {
			pointers = append(pointers, at.pointer())
		}
	})
	return n, pointers, nil
}

// WithSecrets puts values back into a masked document, by their JSON pointers: with those of all SecretPointers it is the document that was
// masked. A pointer to something that is not there, or no text, is Invalid; no error shows a value.
func WithSecrets(data []byte, values map[string]string) ([]byte, error) {
	n, _, err := lenient(data)
	if err != nil {
		return nil, err
	}
	left := maps.Clone(values)
	eachText(n, nil, func(at path, n *node) {
		pointer := at.pointer()
		if value, ok := left[pointer]; ok {
			n.text = value
			delete(left, pointer)
		}
	})
	var problems []fault.Problem
	for _, pointer := range slices.Sorted(maps.Keys(left)) {
		problems = append(problems, fault.Problem{Pointer: pointer, Message: "is not a text of the document"})
	}
	if problems != nil {
		return nil, invalid("put secrets into", "", problems)
	}
	return writeJSON(n), nil
}

// lenient reads a document that need not be valid.
func lenient(data []byte) (*node, *rules, error) {
	n, problems := parse(data, ".yaml") // the most lenient reading
	if problems != nil {
		return nil, nil, invalid("read", "", problems)
	}
	rules, err := loadRules()
	return n, rules, err
}

// eachText visits every text of a tree.
func eachText(n *node, at path, visit func(path, *node)) {
	if n.kind == text {
		visit(at, n)
	}
	for i, item := range n.items {
		eachText(item, at.index(i), visit)
	}
	for _, m := range n.members {
		eachText(m.value, at.with(m.key), visit)
	}
}
