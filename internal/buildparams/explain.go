package buildparams

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/xeipuuv/gojsonschema"

	"imagebuilder/internal/fault"
)

// finding is a problem that the schema has with a document.
type finding struct {
	fault.Problem
	format bool // it is about the form of a text, for which the checker may have better words
}

// validate holds a document against the schema and puts what it finds into our words.
func (r *rules) validate(n *node) []finding {
	result, err := r.compiled.Validate(gojsonschema.NewRawLoader(n.value()))
	if err != nil {
		return []finding{{Problem: fault.Problem{Message: "the document cannot be validated: " + err.Error()}}}
	}
	var found []finding
	for _, e := range result.Errors() {
		if f, ok := r.explain(n, e); ok {
			found = append(found, f)
		}
	}
	return found
}

// explain puts one error of the validator into our words. It is not ok for errors that only say that others came before, and
// for the rules about which fields go together, which the checker explains.
func (r *rules) explain(n *node, e gojsonschema.ResultError) (finding, bool) {
	at := contextPath(e.Context())
	f := finding{Problem: fault.Problem{Pointer: at.pointer()}}
	switch e.Type() {
	case "number_one_of", "number_any_of", "number_all_of", "number_not":
		return f, false
	case "required":
		name, _ := e.Details()["property"].(string)
		if !slices.Contains(r.at(at).required(), name) {
			return f, false // from within a oneOf
		}
		f.Pointer = at.with(name).pointer()
		f.Message, f.Hint = "is missing", r.exampleHint(at.with(name))
	case "additional_property_not_allowed":
		name, _ := e.Details()["property"].(string)
		f.Pointer = at.with(name).pointer()
		f.Message, f.Hint = "there is no such field", r.unknownHint(at, name)
	case "invalid_type":
		f.Message, f.Hint = r.wrongType(find(n, at), at)
	case "array_min_items":
		f.Message, f.Hint = "the list is empty", r.exampleHint(at)
	case "string_gte":
		f.Message, f.format = "is empty", true
	case "pattern":
		f.Message, f.Hint, f.format = "has a form that is not allowed", r.exampleHint(at), true
	default:
		f.Message = e.Description()
	}
	return f, true
}

// contextPath is where an error of the validator lies.
func contextPath(context *gojsonschema.JsonContext) path {
	const separator = "\x00" // no key holds it: one in a key is kept apart by the validator's own copy of the document
	elements := strings.Split(context.String(separator), separator)
	return path(elements[1:])
}

// find is the value at a path, or nil.
func find(n *node, p path) *node {
	for _, element := range p {
		if n == nil {
			return nil
		}
		if n.kind == array {
			i := -1
			if isIndex(element) && len(element) < 9 {
				_, _ = fmt.Sscan(element, &i)
			}
			if i < 0 || i >= len(n.items) {
				return nil
			}
			n = n.items[i]
			continue
		}
		n = n.get(element)
	}
	return n
}

func (r *rule) required() []string {
	if r == nil {
		return nil
	}
	return r.Required
}

var kindNames = map[kind]string{
	null: "null", boolean: "a boolean", number: "a number", text: "a string", array: "a list", object: "a map",
	integer: "a whole number",
}

// wrongType says what a value is and what it should be. The text of a secret is not shown.
func (r *rules) wrongType(n *node, at path) (message, hint string) {
	want := r.at(at)
	if n == nil || want == nil {
		return "has the wrong type", ""
	}
	message = fmt.Sprintf("is %s, not %s", kindNames[n.kind], kindNames[want.Type])
	scalar := n.kind == number || n.kind == boolean
	switch {
	case want.Type == text && scalar && want.secret():
		hint = "put it in quotes"
	case want.Type == text && scalar:
		message = fmt.Sprintf("%s is %s, not %s", n.written, kindNames[n.kind], kindNames[want.Type])
		if hint = fmt.Sprintf("quote it: %q", n.written); !want.matches(n.written) {
			hint = r.exampleHint(at)
		}
	case want.Type == boolean && n.kind == text && !want.secret():
		hint = "write true or false, without quotes"
	case want.Type == array && want.Items != nil && want.Items.Type == text && n.kind == text:
		hint = fmt.Sprintf("write a list: [%q]", n.text)
	case want.Type == array && n.kind == object:
		hint = `write a list: put "- " before it in YAML, or [ ] around it in JSON`
	case len(want.Properties) > 0:
		hint = "its fields are " + enumerate(want.fields())
	}
	return message, hint
}

// exampleHint shows an example of what belongs at a path.
func (r *rules) exampleHint(at path) string {
	rule := r.at(at)
	if rule == nil || len(rule.Examples) == 0 {
		return ""
	}
	if s, ok := rule.Examples[0].(string); ok {
		return fmt.Sprintf("for example %q", s)
	}
	if rule.Type == array {
		if example, err := json.Marshal(rule.Examples[0]); err == nil {
			return "for example " + string(example)
		}
	}
	if len(rule.Properties) > 0 {
		return "its fields are " + enumerate(rule.fields())
	}
	return ""
}

// unknownHint guesses what was meant by a field that does not exist, or lists those that do.
func (r *rules) unknownHint(at path, name string) string {
	fields := r.at(at).fields()
	guess := nearest(name, fields)
	for field, names := range otherNames() {
		if slices.Contains(fields, field) && slices.Contains(names, strings.ToLower(name)) {
			guess = field
		}
	}
	if guess != "" {
		return fmt.Sprintf("did you mean %q?", guess)
	}
	if place := r.elsewhere(name); place != "" {
		return "it belongs at " + place
	}
	return "there are " + enumerate(fields)
}

// otherNames are what other tools call our fields.
func otherNames() map[string][]string {
	return map[string][]string{
		"version":    {"branch", "commit", "ref", "revision", "rev", "tag"},
		"workdir":    {"context", "path", "subdir", "folder", "directory"},
		"username":   {"user", "login", "name"},
		"password":   {"token", "secret", "pass"},
		"build_args": {"args", "arguments", "buildargs"},
		"stage":      {"target"},
		"image":      {"name", "repository", "repo"},
		"base":       {"from", "base_image"},
		"git_repo":   {"git", "repo", "repository"},
		"url":        {"host", "server", "address"},
		"ca_cert":    {"ca", "cacert", "certificate"},
	}
}

// elsewhere is the only place where a field of that name exists, or "".
func (r *rules) elsewhere(name string) string {
	var places []string
	var walk func(*rule, path)
	walk = func(at *rule, p path) {
		for _, field := range at.fields() {
			if field == name {
				places = append(places, p.with(field).pointer())
			}
			walk(at.Properties[field], p.with(field))
		}
		if at.Items != nil {
			walk(at.Items, p.with("N"))
		}
	}
	walk(r.root, nil)
	if len(places) != 1 {
		return ""
	}
	return places[0]
}

// nearest is the candidate that a misspelled name is likely to mean, or "".
func nearest(name string, candidates []string) string {
	plain := func(s string) string {
		return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(s))
	}
	best, bestDistance := "", 0
	for _, c := range candidates {
		d := distance(plain(name), plain(c))
		// A third of the letters may be wrong: more makes a guess of anything.
		if d*3 <= len(c) && (best == "" || d < bestDistance) {
			best, bestDistance = c, d
		}
	}
	return best
}

// maxCompared bounds the names that are compared: no field has a longer one, and the comparison takes time by the square.
const maxCompared = 40

// distance is how many letters must be added, taken away, changed or swapped with their neighbour to turn a into b.
func distance(a, b string) int {
	if len(a) > maxCompared || len(b) > maxCompared {
		return maxCompared
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
