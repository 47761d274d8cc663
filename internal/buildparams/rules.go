package buildparams

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/xeipuuv/gojsonschema"

	"imagebuilder/internal/fault"
	"imagebuilder/schemas"
)

// rules is the schema in two forms: compiled, to validate with, and as it stands, to ask what belongs at a path.
type rules struct {
	compiled    *gojsonschema.Schema
	root        *rule
	Definitions map[string]*rule
}

// rule is the part of the schema that describes one value, as far as it is asked for.
type rule struct {
	Type       kind             `json:"type"`
	Format     string           `json:"format"`
	Properties map[string]*rule `json:"properties"`
	Required   []string         `json:"required"`
	Items      *rule            `json:"items"`
	Additional json.RawMessage  `json:"additionalProperties"`
	Ref        string           `json:"$ref"`
	Pattern    string           `json:"pattern"`
	Examples   []any            `json:"examples"`

	free *rule // of additionalProperties where that is a schema
}

// loadRules reads the schema once: it is part of the executable and never changes.
var loadRules = sync.OnceValues(func() (*rules, error) {
	loader := gojsonschema.NewSchemaLoader()
	loader.Draft, loader.AutoDetect = gojsonschema.Draft7, false
	compiled, err := loader.Compile(gojsonschema.NewBytesLoader(schemas.BuildParams()))
	if err != nil {
		return nil, fault.New(fault.Internal, "compile build_params.schema.json: %w", err)
	}
	var whole struct {
		rule
		Definitions map[string]*rule `json:"definitions"`
	}
	if err := json.Unmarshal(schemas.BuildParams(), &whole); err != nil {
		return nil, fault.New(fault.Internal, "read build_params.schema.json: %w", err)
	}
	r := &rules{compiled: compiled, root: &whole.rule, Definitions: whole.Definitions}
	r.link(r.root)
	return r, nil
})

// link puts definitions in the place of references to them.
func (r *rules) link(at *rule) {
	resolve := func(to *rule) *rule {
		if to.Ref != "" {
			to = r.Definitions[strings.TrimPrefix(to.Ref, "#/definitions/")]
		}
		r.link(to)
		return to
	}
	for name, property := range at.Properties {
		at.Properties[name] = resolve(property)
	}
	if at.Items != nil {
		at.Items = resolve(at.Items)
	}
	var free rule
	if len(at.Additional) > 0 && at.Additional[0] == '{' && json.Unmarshal(at.Additional, &free) == nil {
		at.free = &free
	}
}

// at is the rule for the value at a path, or nil where nothing belongs.
func (r *rules) at(p path) *rule {
	at := r.root
	for _, element := range p {
		switch {
		case at == nil:
			return nil
		case at.Properties[element] != nil:
			at = at.Properties[element]
		case at.Items != nil:
			at = at.Items
		default:
			at = at.free
		}
	}
	return at
}

// secret tells whether the value is a password or the like.
func (r *rule) secret() bool { return r != nil && r.Format == "password" }

// matches tells whether a text has the form that the rule wants.
func (r *rule) matches(s string) bool {
	ok, err := regexp.MatchString(r.Pattern, s)
	return ok && err == nil
}

// freeText tells whether the value is a map of names of the user's own to texts in which "" is a text like any other.
func (r *rule) freeText() bool {
	return r != nil && r.free != nil && r.free.Type == text && !r.free.secret()
}

// fields are the names that may stand in the value.
func (r *rule) fields() []string {
	if r == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(r.Properties))
}

// check is everything that is wrong with a document whose absent fields have been dropped: what the schema says, and what it cannot say.
// Where both have a word about the same value ours is the clearer one.
func (r *rules) check(n *node) []fault.Problem {
	c := &checker{}
	c.document(n)
	ours := map[string]bool{}
	for _, p := range c.problems {
		ours[p.Pointer] = true
	}
	problems := c.problems
	for _, p := range r.validate(n) {
		if p.format && ours[p.Pointer] {
			continue
		}
		problems = append(problems, p.Problem)
	}
	slices.SortStableFunc(problems, func(a, b fault.Problem) int { return comparePointers(a.Pointer, b.Pointer) })
	return slices.CompactFunc(problems, func(a, b fault.Problem) bool { return a.Pointer == b.Pointer && a.Message == b.Message })
}

// comparePointers sorts as a reader goes through a document: by name, and by number in lists.
func comparePointers(a, b string) int {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	return slices.CompareFunc(as, bs, func(x, y string) int {
		if len(x) != len(y) && isIndex(x) && isIndex(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

func isIndex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
