package buildparams

import (
	"encoding/json"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
)

// anySource stands where a document has its source while only its target is looked at.
const anySource = "https://example.com/any.git"

// DecodeTarget reads the target of a build_params document alone, for those who only look at images, or remove them. It
// checks and fills in what Decode does; the name is what errors call it.
//
// An error is a *fault.Error of kind Invalid; the pointers of its problems begin at the target.
func DecodeTarget(data []byte, name string) (*Target, error) {
	target, problems := parse(data, name)
	if problems != nil {
		return nil, invalid("read", name, problems)
	}
	rules, err := loadRules()
	if err != nil {
		return nil, err
	}
	repository := &node{kind: object, members: []member{{"url", textNode(anySource)}}}
	n := &node{kind: object, members: []member{
		{"source", &node{kind: object, members: []member{{"git_repo", repository}}}},
		{"target", target},
	}}
	dropAbsent(n, rules, nil)
	problems = rules.check(n)
	for i := range problems {
		problems[i].Pointer = strings.TrimPrefix(problems[i].Pointer, "/target")
	}
	if len(problems) > 0 {
		return nil, invalid("check", name, slices.Clip(problems))
	}
	doc := &Document{}
	if err := json.Unmarshal(writeJSON(n), doc); err != nil {
		return nil, fault.New(fault.Internal, "decode %s: the schema lets through what the document's type does not take", title(name))
	}
	doc.fillDefaults()
	return &doc.Target, nil
}
