package buildparams

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/scalar"
)

// parseYAML reads one YAML document. The parser only gives the tree: what a plain scalar means is decided here by the
// core schema of YAML 1.2, so that one table (plainScalar) says it, and aliases are expanded here, where they are counted.
func parseYAML(data []byte) (*node, []fault.Problem) {
	file, err := yamlFile(data)
	if err != nil {
		return nil, []fault.Problem{err.problem()}
	}
	body, err := onlyDocument(file)
	if err != nil {
		return nil, []fault.Problem{err.problem()}
	}
	r := &yamlReader{anchors: map[string]*node{}}
	n := r.value(body, nil)
	if r.problems != nil {
		return nil, r.problems
	}
	return n, nil
}

// yamlFile parses the text as far as syntax goes.
func yamlFile(data []byte) (file *ast.File, wrong *syntaxError) {
	// A defect of the parser must not end a service that reads other people's documents.
	defer func() {
		if recover() != nil {
			file, wrong = nil, &syntaxError{message: "not valid YAML"}
		}
	}()
	// YAML counts all three as one line break; the parser does so only in places.
	data = bytes.ReplaceAll(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	if overfull(data) {
		return nil, &syntaxError{message: fmt.Sprintf("more than %d values", maxValues)}
	}
	tokens := lexer.Tokenize(string(data))
	if wrong := bound(tokens); wrong != nil {
		return nil, wrong
	}
	// Comments are not asked for: they would only be dropped. Duplicate keys are found by us, all at once.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err == nil {
		return file, nil
	}
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) {
		return nil, &syntaxError{message: "not valid YAML"}
	}
	// The message never quotes the document except for directives and tags; the error's own text would show its lines.
	wrong = &syntaxError{message: "not valid YAML: " + strings.ReplaceAll(syntax.Message, "'\t'", "tab")}
	if t := syntax.Token; t != nil && t.Position != nil {
		wrong.line, wrong.column = t.Position.Line, t.Position.Column
	}
	if bytes.Contains(data, []byte("\t")) && strings.Contains(syntax.Message, "cannot start any token") {
		wrong.hint = "YAML takes no tabs for indentation"
	}
	return nil, wrong
}

// onlyDocument is the body of the only document of a file.
func onlyDocument(file *ast.File) (ast.Node, *syntaxError) {
	var body ast.Node
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if body != nil {
			e := &syntaxError{message: "there is a second document", hint: `one file holds one document: split it at "---"`}
			if t := doc.Body.GetToken(); t != nil && t.Position != nil {
				e.line, e.column = t.Position.Line, t.Position.Column
			}
			return nil, e
		}
		body = doc.Body
	}
	if body == nil {
		return nil, &syntaxError{message: "the document is empty", hint: `"image-builder example" has documents to start from`}
	}
	return body, nil
}

// yamlReader builds nodes of the parser's tree.
type yamlReader struct {
	anchors  map[string]*node // nil while the anchor's own value is being read
	values   int
	problems []fault.Problem
}

func (r *yamlReader) wrong(at path, where ast.Node, message, hint string) *node {
	if len(r.problems) < maxProblems {
		if t := where.GetToken(); t != nil && t.Position != nil {
			message = position(t.Position.Line, t.Position.Column) + ": " + message
		}
		r.problems = append(r.problems, fault.Problem{Pointer: at.pointer(), Message: message, Hint: hint})
	}
	return &node{kind: null}
}

// count counts values, aliases expanded. It tells whether there are too many.
func (r *yamlReader) count(where ast.Node, more int) (tooMany bool) {
	before := r.values
	r.values += more
	if before <= maxValues && r.values > maxValues {
		r.wrong(nil, where, fmt.Sprintf("more than %d values, aliases expanded", maxValues), "")
	}
	return r.values > maxValues
}

func (r *yamlReader) value(n ast.Node, at path) *node {
	if n == nil {
		return &node{kind: null}
	}
	if len(at) > maxDepth {
		return r.wrong(nil, n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
	}
	if r.count(n, 1) {
		return &node{kind: null}
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return r.mapping(n.Values, at)
	case *ast.MappingValueNode:
		return r.mapping([]*ast.MappingValueNode{n}, at)
	case *ast.SequenceNode:
		list := &node{kind: array}
		for i, item := range n.Values {
			list.items = append(list.items, r.value(item, at.index(i)))
		}
		return list
	case *ast.AnchorNode:
		name := n.Name.GetToken().Value
		r.anchors[name] = nil
		value := r.value(n.Value, at)
		r.anchors[name] = value
		return value
	case *ast.AliasNode:
		return r.alias(n, at)
	case *ast.TagNode:
		return r.tagged(n, at)
	case *ast.LiteralNode:
		return textNode(n.Value.Value)
	case *ast.StringNode:
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			return textNode(n.Value)
		}
		return r.plain(n, n.Value, at)
	default:
		if t := n.GetToken(); t != nil && n.Type() != ast.CommentType {
			return r.plain(n, t.Value, at)
		}
		return r.wrong(at, n, "not a value", "")
	}
}

// alias is a copy of what the anchor stands for: a tree, so that whoever changes one place changes no other.
func (r *yamlReader) alias(n *ast.AliasNode, at path) *node {
	name := n.Value.GetToken().Value
	target, known := r.anchors[name]
	switch {
	case !known:
		return r.wrong(at, n, fmt.Sprintf("there is no anchor &%s before this", name), "")
	case target == nil:
		return r.wrong(at, n, fmt.Sprintf("*%s stands inside of what it stands for", name), "")
	case r.count(n, size(target)):
		return &node{kind: null}
	case len(at)+height(target) > maxDepth+1:
		return r.wrong(nil, n, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
	}
	return clone(target)
}

// mapping reads a map; keys come once, and those of a merge (<<) give way to its own.
func (r *yamlReader) mapping(values []*ast.MappingValueNode, at path) *node {
	n := &node{kind: object}
	if len(values) > maxFields {
		return r.wrong(at, values[maxFields].Key, tooManyFields(), "")
	}
	seen := map[string]bool{}
	var merged []*node
	for _, entry := range values {
		if isMerge(entry.Key) {
			merged = append(merged, r.merge(entry.Value, at)...)
			continue
		}
		key, ok := r.key(entry.Key, at)
		if !ok {
			continue
		}
		if seen[key] {
			r.wrong(at.with(key), entry.Key, "the key stands twice", "keep one of the two")
		}
		value := r.value(entry.Value, at.with(key))
		if !seen[key] {
			n.members = append(n.members, member{key, value})
		}
		seen[key] = true
	}
	for _, from := range merged {
		for _, m := range from.members {
			if !seen[m.key] {
				seen[m.key] = true
				n.members = append(n.members, m)
			}
		}
	}
	return n
}

func isMerge(key ast.MapKeyNode) bool {
	_, ok := key.(*ast.MergeKeyNode)
	return ok
}

// merge is what stands under <<: a map or a list of maps.
func (r *yamlReader) merge(value ast.Node, at path) []*node {
	n := r.value(value, at)
	list := []*node{n}
	if n.kind == array {
		list = n.items
	}
	if slices.ContainsFunc(list, func(n *node) bool { return n.kind != object }) {
		r.wrong(at, value, "<< takes a map or a list of maps", "")
		return nil
	}
	return list
}

// key is the text of a map's key, as written where it is no string: in JSON every key is one.
func (r *yamlReader) key(key ast.MapKeyNode, at path) (string, bool) {
	var n ast.Node = key
	for {
		switch inner := n.(type) {
		case *ast.MappingKeyNode:
			n = inner.Value
			continue
		case *ast.AnchorNode:
			name := inner.Name.GetToken().Value
			r.anchors[name] = nil
			r.anchors[name] = r.value(inner.Value, at)
			n = inner.Value
			continue
		case *ast.TagNode:
			n = inner.Value
			continue
		}
		break
	}
	s, ok := "", true
	switch n := n.(type) {
	case nil:
	case *ast.LiteralNode:
		s = n.Value.Value
	case *ast.StringNode:
		s = n.Value
	case *ast.AliasNode:
		value := r.alias(n, at)
		s, ok = value.text, value.kind == text
	case *ast.NullNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		s = n.GetToken().Value
	default:
		ok = false
	}
	if !ok {
		r.wrong(at, key, "a key is not a string", "")
		return "", false
	}
	if message := badKey(s); message != "" {
		r.wrong(at, key, message, "")
		return "", false
	}
	return s, true
}

// tagged is a value whose type the document names.
func (r *yamlReader) tagged(n *ast.TagNode, at path) *node {
	tag := n.Start.Value
	value := r.value(n.Value, at)
	var want kind
	switch tag {
	case "!!str", "!":
		if t := n.Value; t != nil && value.kind != array && value.kind != object && value.kind != text {
			return textNode(value.written)
		}
		want = text
	case "!!map":
		want = object
	case "!!seq":
		want = array
	case "!!int", "!!float":
		want = number
	case "!!bool":
		want = boolean
	case "!!null":
		want = null
	default:
		return r.wrong(at, n, "a tag (!) that is not known here", "leave it out")
	}
	if value.kind != want {
		return r.wrong(at, n, fmt.Sprintf("the value does not fit its tag %s", tag), "leave the tag out")
	}
	return value
}

// plain is a scalar that is not quoted.
func (r *yamlReader) plain(where ast.Node, written string, at path) *node {
	n := plainScalar(written)
	if n == nil {
		return r.wrong(at, where, "JSON has no number for "+written, "quote it if it is meant as text")
	}
	return n
}

// plainScalar is what a scalar without quotes means by YAML 1.2's core schema (§10.3.2); nil when JSON cannot say it.
func plainScalar(written string) *node {
	switch kind, value := scalar.Plain(written); kind {
	case scalar.Null:
		return &node{kind: null, written: written}
	case scalar.Boolean:
		return &node{kind: boolean, text: value, written: written}
	case scalar.Integer, scalar.Float:
		return &node{kind: number, text: value, written: written}
	case scalar.NotFinite:
		return nil
	default:
		return textNode(value)
	}
}
