package buildparams

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"imagebuilder/internal/fault"
)

// parseJSON reads JSON. Unlike encoding/json it keeps the order of members and refuses a key that comes twice.
func parseJSON(data []byte) (*node, []fault.Problem) {
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, []fault.Problem{jsonSyntax(data, err).problem()}
	}
	p := &jsonParser{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	n := p.value(nil)
	if p.problems != nil {
		return nil, p.problems
	}
	return n, nil
}

// jsonSyntax puts a syntax error of encoding/json into the place and the words that help.
func jsonSyntax(data []byte, err error) *syntaxError {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return &syntaxError{message: "not valid JSON: " + err.Error()}
	}
	// The offset is that after the offending byte.
	offset := max(int(syntax.Offset)-1, 0)
	line, column := lineColumn(data, offset)
	said := syntax.Error()
	e := &syntaxError{line: line, column: column, message: "not valid JSON: " + said}
	switch {
	case strings.Contains(said, "unexpected end"):
		e.line, e.column = lineColumn(data, len(data))
		e.message, e.hint = "not valid JSON: the text ends too early", "a closing bracket, brace or quote is missing"
	case strings.Contains(said, "after object key:value pair") && data[offset] == '"':
		e.message, e.hint = "not valid JSON: a comma is missing before this", "the one before it needs a comma at its end"
	case strings.Contains(said, "after array element") && strings.ContainsRune(`"{[`, rune(data[offset])):
		e.message, e.hint = "not valid JSON: a comma is missing before this", "the one before it needs a comma at its end"
	case strings.Contains(said, "looking for beginning of object key string") && data[offset] == '}',
		strings.Contains(said, "looking for beginning of value") && (data[offset] == ']' || data[offset] == '}'):
		e.message, e.hint = "not valid JSON: a comma before a closing bracket or brace", "the last of a list has no comma after it"
	case strings.Contains(said, "after top-level value"):
		e.message, e.hint = "not valid JSON: there is more text after the document", "only one document is read"
	case data[offset] == '/' || data[offset] == '#':
		e.hint = "JSON has no comments"
	case offset == 0 || strings.TrimSpace(string(data[:offset])) == "":
		e.hint = "if it is YAML, its file's name should end in .yaml"
	case strings.Contains(said, "in string literal"):
		e.hint = `write a line break inside a string as \n, and a tab as \t`
	}
	return e
}

// jsonParser builds nodes of text that is known to be JSON.
type jsonParser struct {
	data     []byte
	dec      *json.Decoder
	values   int
	depth    int
	problems []fault.Problem
}

// token is the next token; the text has been found valid, so an error is a defect of ours.
func (p *jsonParser) token() json.Token {
	t, err := p.dec.Token()
	if err != nil && !errors.Is(err, io.EOF) {
		panic("valid JSON does not parse: " + err.Error())
	}
	return t
}

func (p *jsonParser) wrong(at path, message, hint string) {
	if len(p.problems) < maxProblems {
		line, column := lineColumn(p.data, int(p.dec.InputOffset()))
		p.problems = append(p.problems, fault.Problem{Pointer: at.pointer(), Message: position(line, column) + ": " + message, Hint: hint})
	}
}

// value reads one value. It returns nil once a limit is passed: the rest of the document is not looked at then.
func (p *jsonParser) value(at path) *node {
	token := p.token()
	if p.values++; p.values > maxValues {
		p.wrong(nil, fmt.Sprintf("more than %d values", maxValues), "")
		return nil
	}
	switch t := token.(type) {
	case bool:
		word := fmt.Sprint(t)
		return &node{kind: boolean, text: word, written: word}
	case json.Number:
		return &node{kind: number, text: t.String(), written: t.String()}
	case string:
		return textNode(t)
	case json.Delim:
		if p.depth++; p.depth > maxDepth {
			p.wrong(nil, fmt.Sprintf("nested deeper than %d levels", maxDepth), "")
			return nil
		}
		defer func() { p.depth-- }()
		if t == '[' {
			return p.array(at)
		}
		return p.object(at)
	default:
		return &node{kind: null, written: "null"}
	}
}

func (p *jsonParser) array(at path) *node {
	n := &node{kind: array}
	for i := 0; p.dec.More(); i++ {
		item := p.value(at.index(i))
		if item == nil {
			return nil
		}
		n.items = append(n.items, item)
	}
	p.token()
	return n
}

func (p *jsonParser) object(at path) *node {
	n := &node{kind: object}
	seen := map[string]bool{}
	for p.dec.More() {
		key, _ := p.token().(string)
		if seen[key] {
			p.wrong(at.with(key), "the key stands twice", "keep one of the two")
		}
		if message := badKey(key); message != "" {
			p.wrong(at, message, "")
		}
		if len(n.members) == maxFields {
			p.wrong(at, tooManyFields(), "")
			return nil
		}
		value := p.value(at.with(key))
		if value == nil {
			return nil
		}
		if !seen[key] {
			n.members = append(n.members, member{key, value})
		}
		seen[key] = true
	}
	p.token()
	return n
}

// writeJSON writes a node as JSON, indented by two spaces, with a line break at its end.
func writeJSON(n *node) []byte {
	var b bytes.Buffer
	jsonValue(&b, n, "\n")
	b.WriteByte('\n')
	return b.Bytes()
}

// jsonValue writes one value; newline is the line break with the indentation of the line that the value is on.
func jsonValue(b *bytes.Buffer, n *node, newline string) {
	switch n.kind {
	case text:
		b.WriteString(jsonString(n.text))
	case array:
		if len(n.items) == 0 {
			b.WriteString("[]")
			return
		}
		for i, item := range n.items {
			b.WriteString(separator(i, "[") + newline + "  ")
			jsonValue(b, item, newline+"  ")
		}
		b.WriteString(newline + "]")
	case object:
		if len(n.members) == 0 {
			b.WriteString("{}")
			return
		}
		for i, m := range n.members {
			b.WriteString(separator(i, "{") + newline + "  " + jsonString(m.key) + ": ")
			jsonValue(b, m.value, newline+"  ")
		}
		b.WriteString(newline + "}")
	case null:
		b.WriteString("null")
	default:
		b.WriteString(n.text)
	}
}

// separator is what stands before the i-th element of a list.
func separator(i int, opening string) string {
	if i == 0 {
		return opening
	}
	return ","
}

// jsonString is s in quotes, with nothing escaped that need not be.
func jsonString(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("a string does not encode: " + err.Error()) // encoding/json has no such error
	}
	return strings.TrimSuffix(b.String(), "\n")
}
