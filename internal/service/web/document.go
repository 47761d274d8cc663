package web

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

// documentOf makes the build_params document that the form stands for. What the schema will refuse is passed on as it is, so that
// there is one place that says what is wrong; the problems here are with what has no form in a document.
func documentOf(typed url.Values) ([]byte, []fault.Problem) {
	t := tree{}
	switch typed.Get(sourceKind) {
	case kindFile:
		t.object("/source/dockerfile")
		t.add(typed, dockerfileFields())
	case kindBoth:
		t.object("/source/dockerfile")
		t.object("/source/build_context")
		t.add(typed, dockerfileFields())
		t.add(typed, contextFields())
	default:
		t.object("/source/git_repo")
		t.add(typed, gitFields())
	}
	t.object("/target/registry")
	t.add(typed, registryFields())
	images := make([]any, imageCount(typed))
	for i := range images {
		first, more := imageFields(i)
		at := "/target/images/" + strconv.Itoa(i)
		t.object(at)
		t.add(typed, first)
		t.add(typed, more)
		images[i] = t.take(at)
	}
	t.object("/target")["images"] = images
	t.add(typed, optionFields())
	data, err := json.Marshal(t.root())
	if err != nil { // texts, numbers and truth values always have a form
		panic(err)
	}
	return data, t.problems
}

// imageCount is how many images were typed in: at least one.
func imageCount(typed url.Values) int {
	count := 1
	for name := range typed {
		rest, ok := strings.CutPrefix(name, "/target/images/")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, "/")
		if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < maxImages {
			count = max(count, n+1)
		}
	}
	return count
}

// tree is a document that grows, and what is wrong with what goes into it.
type tree struct {
	top      map[string]any
	problems []fault.Problem
}

func (t *tree) root() map[string]any {
	if t.top == nil {
		t.top = map[string]any{}
	}
	return t.top
}

// object is the object at a pointer, made if it is missing.
func (t *tree) object(pointer string) map[string]any {
	at := t.root()
	for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		next, ok := at[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[key] = next
		}
		at = next
	}
	return at
}

// take is the object at a pointer, taken out together with what it alone was in.
func (t *tree) take(pointer string) map[string]any {
	object := t.object(pointer)
	parent := pointer[:strings.LastIndexByte(pointer, '/')]
	grand, key := parent[:strings.LastIndexByte(parent, '/')], parent[strings.LastIndexByte(parent, '/')+1:]
	delete(t.object(grand), key)
	return object
}

// add sets what was typed into fields.
func (t *tree) add(typed url.Values, fields []field) {
	for _, f := range fields {
		value := t.value(f, typed[f.Pointer])
		if value == nil {
			continue
		}
		cut := strings.LastIndexByte(f.Pointer, '/')
		t.object(f.Pointer[:cut])[f.Pointer[cut+1:]] = value
	}
}

// value is what a field stands for; nil when it is empty.
func (t *tree) value(f field, typed []string) any {
	text := ""
	if len(typed) > 0 {
		text = typed[0]
	}
	switch f.Input {
	case inputCheck:
		if len(typed) == 0 {
			return nil
		}
		return true
	case inputNumber:
		if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
			return n
		}
	case inputList:
		if list := listed(typed); len(list) > 0 {
			return list
		}
		return nil
	case inputPairs, inputHidden:
		out, problems := pairs(f.Pointer, text)
		t.problems = append(t.problems, problems...)
		if len(out) == 0 {
			return nil
		}
		return out
	case inputSecret:
		if text == "" {
			return nil
		}
		return text // its spaces may be meant
	}
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	return text
}

// pairs reads NAME=VALUE lines. A problem does not quote the line: it may be half a secret.
func pairs(pointer, text string) (map[string]string, []fault.Problem) {
	out := map[string]string{}
	var problems []fault.Problem
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSuffix(l, "\r")
		if strings.TrimSpace(l) == "" {
			continue
		}
		name, value, ok := strings.Cut(l, "=")
		name = strings.TrimSpace(name)
		switch _, again := out[name]; {
		case !ok || name == "":
			problems = append(problems, fault.Problem{Pointer: pointer, Message: fmt.Sprintf("line %d is not NAME=VALUE", i+1)})
		case again:
			problems = append(problems, fault.Problem{Pointer: pointer, Message: fmt.Sprintf("line %d has a name that an earlier line has", i+1)})
		default:
			out[name] = value
		}
	}
	return out, problems
}

// listed are the entries of a list: each value may hold several.
func listed(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == '\r' || r == '\t' })...)
	}
	return out
}

// places tells where in a document its values stand.
type places struct{ root ast.Node }

// placesIn reads a document. One that internal/buildparams cannot read has no places: only that package bounds how deep a document may
// be nested and how much its aliases may stand for, without which this parser takes for ever.
func placesIn(document []byte) places {
	if _, err := buildparams.Convert(document, "", buildparams.JSON); err != nil {
		return places{}
	}
	file, err := parser.ParseBytes(document, 0)
	if err != nil || len(file.Docs) == 0 {
		return places{}
	}
	return places{file.Docs[0].Body}
}

// line is where the value at a pointer stands, or what would hold it; 0 when that cannot be told.
func (p places) line(pointer string) int {
	for ; p.root != nil && strings.HasPrefix(pointer, "/"); pointer = pointer[:strings.LastIndexByte(pointer, '/')] {
		if node := nodeAt(p.root, pointer); node != nil {
			return node.GetToken().Position.Line
		}
	}
	return 0
}

func nodeAt(node ast.Node, pointer string) ast.Node {
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		switch n := node.(type) {
		case *ast.MappingNode:
			node = entry(n.Values, unescape.Replace(key))
		case *ast.MappingValueNode:
			node = entry([]*ast.MappingValueNode{n}, unescape.Replace(key))
		case *ast.SequenceNode:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(n.Values) {
				return nil
			}
			node = n.Values[i]
		default:
			return nil
		}
		if node == nil {
			return nil
		}
	}
	return node
}

func entry(values []*ast.MappingValueNode, key string) ast.Node {
	for _, v := range values {
		var name string
		if err := yaml.NodeToValue(v.Key, &name); err == nil && name == key {
			return v.Value
		}
	}
	return nil
}
