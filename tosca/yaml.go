package tosca

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may hold at most. Ours have some kilobytes; the limits keep a parser that calls itself for each level,
// and takes time by the square of a map's length, from taking down the process.
const (
	maxSize   = 1 << 20
	maxDepth  = 40
	maxValues = 50_000
	maxFields = 2_000
)

// dialect is by which rules scalars without quotes are read.
type dialect int

const (
	yaml12 dialect = iota // templates: opera reads them by YAML 1.2
	yaml11                // inputs: opera reads them by YAML 1.1, so what the two read differently is refused
)

// readYAML reads one YAML document. What is wrong with it goes to problems, and nil is returned then.
func readYAML(data []byte, file string, by dialect, p *problems) *Value {
	r := &yamlReader{file: file, by: by, anchors: map[string]*Value{}, problems: p}
	before := len(p.list)
	body := r.parse(data)
	if body == nil {
		return nil
	}
	v := r.value(body, 0)
	if len(p.list) > before {
		return nil
	}
	return v
}

type yamlReader struct {
	file     string
	by       dialect
	anchors  map[string]*Value // nil while the anchor's own value is being read
	values   int
	problems *problems
}

func (r *yamlReader) at(n ast.Node) Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		n = m.Key
	}
	if t := n.GetToken(); t != nil {
		return r.place(t)
	}
	return Position{File: r.file, Line: 1, Column: 1}
}

func (r *yamlReader) place(t *token.Token) Position {
	if t == nil || t.Position == nil {
		return Position{File: r.file, Line: 1, Column: 1}
	}
	return Position{r.file, max(t.Position.Line, 1), max(t.Position.Column, 1)}
}

// parse gives the body of the only document.
func (r *yamlReader) parse(data []byte) (body ast.Node) {
	start := Position{r.file, 1, 1}
	// A defect of the parser is no defect of the process.
	defer func() {
		if recover() != nil {
			r.problems.add(start, "not valid YAML")
			body = nil
		}
	}()
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	switch {
	case len(data) > maxSize:
		r.problems.add(start, "larger than %d kB", maxSize>>10)
		return nil
	case bytes.IndexByte(data, 0) >= 0 || !utf8.Valid(data):
		r.problems.add(start, "not text in UTF-8")
		return nil
	}
	data = bytes.ReplaceAll(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	tokens := lexer.Tokenize(string(data))
	if !r.bounded(tokens) {
		return nil
	}
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // duplicates are found by us, all at once
	if err != nil {
		r.syntax(err)
		return nil
	}
	for _, doc := range parsed.Docs {
		switch doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if body != nil {
			r.problems.hint(r.at(doc.Body), `split the file at "---"`, "there is a second document")
			return nil
		}
		body = doc.Body
	}
	if body == nil && r.by == yaml12 { // inputs may well be none
		r.problems.add(start, "the document is empty")
	}
	return body
}

func (r *yamlReader) syntax(err error) {
	var wrong *yaml.SyntaxError
	if !errors.As(err, &wrong) {
		r.problems.add(Position{r.file, 1, 1}, "not valid YAML")
		return
	}
	r.problems.add(r.place(wrong.Token), "not valid YAML: %s", wrong.Message)
}

// bounded refuses what would exhaust the parser: depth in brackets, rows of indicators, and too many tokens.
func (r *yamlReader) bounded(tokens token.Tokens) bool {
	depth, row := 0, 0
	for _, t := range tokens {
		row++
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth = max(depth-1, 0)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.AliasType, token.TagType:
		default:
			if t.Prev == nil || (t.Prev.Type != token.AnchorType && t.Prev.Type != token.AliasType) {
				row = 0
			}
		}
		if depth > maxDepth || row > 2*maxDepth {
			r.problems.add(r.place(t), "nested deeper than %d levels", maxDepth)
			return false
		}
	}
	if len(tokens) > 4*maxValues {
		r.problems.add(Position{r.file, 1, 1}, "more than %d values", maxValues)
		return false
	}
	return true
}

// wrong notes a problem and stands for the value.
func (r *yamlReader) wrong(n ast.Node, hint, format string, args ...any) *Value {
	at := r.at(n)
	r.problems.hint(at, hint, format, args...)
	return unknownAt(at)
}

func (r *yamlReader) value(n ast.Node, depth int) *Value {
	if n == nil {
		return &Value{at: Position{r.file, 1, 1}, kind: null}
	}
	r.values++
	switch {
	case depth > maxDepth:
		return r.wrong(n, "", "nested deeper than %d levels", maxDepth)
	case r.values == maxValues+1:
		return r.wrong(n, "", "more than %d values, aliases expanded", maxValues)
	case r.values > maxValues:
		return unknownAt(r.at(n))
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return r.mapping(n, n.Values, depth)
	case *ast.MappingValueNode:
		return r.mapping(n, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		v := &Value{at: r.at(n), kind: list}
		for _, item := range n.Values {
			v.items = append(v.items, r.value(item, depth+1))
		}
		return v
	case *ast.AnchorNode:
		name := n.Name.GetToken().Value
		r.anchors[name] = nil
		v := r.value(n.Value, depth)
		r.anchors[name] = v
		return v
	case *ast.AliasNode:
		return r.alias(n, depth)
	case *ast.TagNode:
		return r.tagged(n, depth)
	case *ast.LiteralNode:
		return &Value{at: r.at(n), kind: text, text: n.Value.Value}
	case *ast.StringNode:
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			return &Value{at: r.at(n), kind: text, text: n.Value}
		}
		return r.scalar(n, n.Value)
	}
	if t := n.GetToken(); t != nil && n.Type() != ast.CommentType {
		return r.scalar(n, t.Value)
	}
	return r.wrong(n, "", "not a value")
}

// alias is what the anchor stands for. Its parts keep their own places, where they can be mended.
func (r *yamlReader) alias(n *ast.AliasNode, depth int) *Value {
	name := n.Value.GetToken().Value
	v, known := r.anchors[name]
	switch {
	case !known:
		return r.wrong(n, "", "there is no anchor &%s before this", name)
	case v == nil:
		return r.wrong(n, "", "*%s stands inside of what it stands for", name)
	}
	size, height := measure(v)
	if r.values += size; r.values > maxValues || depth+height > maxDepth {
		return r.wrong(n, "", "more than %d values or %d levels, aliases expanded", maxValues, maxDepth)
	}
	return v
}

// measure counts values and levels.
func measure(v *Value) (size, height int) {
	size = 1
	below := func(inner *Value) {
		s, h := measure(inner)
		size, height = size+s, max(height, h)
	}
	for _, item := range v.items {
		below(item)
	}
	for _, f := range v.fields {
		below(f.value)
	}
	return size, height + 1
}

func (r *yamlReader) mapping(n ast.Node, entries []*ast.MappingValueNode, depth int) *Value {
	v := &Value{at: r.at(n), kind: object}
	if len(entries) > maxFields {
		return r.wrong(entries[maxFields].Key, "", "more than %d fields in one map", maxFields)
	}
	seen := map[string]bool{}
	var merged []*Value
	for _, entry := range entries {
		if _, ok := entry.Key.(*ast.MergeKeyNode); ok {
			merged = append(merged, r.merge(entry.Value, depth)...)
			continue
		}
		key, ok := r.key(entry.Key)
		if !ok {
			continue
		}
		if seen[key] {
			r.problems.hint(r.at(entry.Key), "keep one of the two", "the key %s stands twice", key)
			continue
		}
		seen[key] = true
		inner := r.value(entry.Value, depth+1)
		if inner.kind == null && inner.plain == "" {
			inner.at = r.at(entry.Key) // a value that is left out has no place of its own
		}
		v.fields = append(v.fields, field{key, r.at(entry.Key), inner})
	}
	for _, from := range merged {
		for _, f := range from.fields {
			if !seen[f.key] {
				seen[f.key] = true
				v.fields = append(v.fields, f)
			}
		}
	}
	return v
}

// merge is what stands under <<: a map or a list of maps.
func (r *yamlReader) merge(n ast.Node, depth int) []*Value {
	v := r.value(n, depth)
	maps := []*Value{v}
	if v.kind == list {
		maps = v.items
	}
	if slices.ContainsFunc(maps, func(v *Value) bool { return v.kind != object }) {
		r.wrong(n, "", "<< takes a map or a list of maps")
		return nil
	}
	return maps
}

// key is the text of a map's key as it is written.
func (r *yamlReader) key(key ast.MapKeyNode) (string, bool) {
	switch n := key.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.MappingKeyNode, *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, nil:
	default:
		if t := key.GetToken(); t != nil && t.Value != "" {
			return t.Value, true
		}
	}
	r.wrong(key, "write the key as it is, or in quotes", "a key is not a string")
	return "", false
}

// tagged is a value whose type the file names; only what JSON has is known.
func (r *yamlReader) tagged(n *ast.TagNode, depth int) *Value {
	tag := n.Start.Value
	v := r.value(n.Value, depth)
	if tag == "!!str" && v.plain != "" {
		return &Value{at: v.at, kind: text, text: v.plain}
	}
	fits := map[string]kind{"!!str": text, "!!map": object, "!!seq": list, "!!int": integer, "!!float": float, "!!bool": boolean, "!!null": null}
	if want, ok := fits[tag]; !ok || want != v.kind {
		return r.wrong(n, "leave it out", "the tag %s is not known, or does not fit the value", tag)
	}
	return v
}

// scalar is a scalar without quotes.
func (r *yamlReader) scalar(n ast.Node, written string) *Value {
	v := plainScalar(written)
	v.at = r.at(n)
	if v.kind == unknown {
		return r.wrong(n, "quote it if it is meant as text", "there is no such number in JSON: %s", written)
	}
	if r.by == yaml11 {
		if old := kind11(written); old != "" && old != string(v.kind) {
			return r.wrong(n, fmt.Sprintf("quote it if it is meant as text: %q", written),
				"%s is %s in YAML 1.2, but %s in YAML 1.1, which opera reads inputs by", written, article(string(v.kind)), article(old))
		}
	}
	return v
}
