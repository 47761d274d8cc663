// Package admission decides which documents a stranger may have built: those that are valid, not too large, and that name nothing
// of the machine that builds. docs/rest-security.md has the decision on every field.
//
// It looks at documents only. Who the stranger is, and how much is waiting already, is for package builds.
package admission

import (
	"encoding/json"
	"strconv"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
)

// Limits bound a document.
type Limits struct {
	Bytes  int // how long it may be
	Images int // what images × platforms may come to
}

// Document is a document that may be built, in the forms that are needed of it.
type Document struct {
	Parsed  *buildparams.Document
	Clear   []byte   // JSON with defaults filled in and secrets in clear
	Masked  []byte   // JSON as the stranger wrote it, without secrets
	Secrets []string // pointers to what Masked lacks
}

// Read reads a document and tells all that is wrong with it, by the schema and by the policy. Pointer stands before the problems'
// pointers. The error is for defects only.
func (p Policy) Read(data []byte, pointer string, limits Limits) (*Document, []fault.Problem, error) {
	if most := limits.Bytes; len(data) > most {
		return nil, []fault.Problem{{Pointer: pointer, Message: "the document is larger than " + strconv.Itoa(most) + " bytes"}}, nil
	}
	parsed, err := buildparams.Decode(data, "")
	if err != nil {
		f := fault.As(err)
		if f.Kind != fault.Invalid {
			return nil, nil, err
		}
		problems := f.Problems
		if tree, err := decoded(data); err == nil {
			problems = merge(problems, p.refuse(tree, limits, false))
		}
		return nil, under(pointer, problems), nil
	}
	doc := &Document{Parsed: parsed}
	if doc.Clear, err = buildparams.MarshalWithSecrets(parsed); err != nil {
		return nil, nil, err
	}
	// What is looked at is what is built.
	tree, err := decoded(doc.Clear)
	if err != nil {
		return nil, nil, err
	}
	if problems := p.refuse(tree, limits, true); len(problems) > 0 {
		return nil, under(pointer, problems), nil
	}
	doc.Masked, doc.Secrets, err = buildparams.MaskWithPointers(data)
	return doc, nil, err
}

// decoded is a document as encoding/json decodes it.
func decoded(data []byte) (any, error) {
	data, err := buildparams.Convert(data, "", buildparams.JSON)
	if err != nil {
		return nil, err
	}
	var tree any
	err = json.Unmarshal(data, &tree)
	return tree, err
}

// merge adds problems with values that nothing is said about yet.
func merge(problems, more []fault.Problem) []fault.Problem {
	known := map[string]bool{}
	for _, p := range problems {
		known[p.Pointer] = true
	}
	for _, p := range more {
		if !known[p.Pointer] {
			problems = append(problems, p)
		}
	}
	return problems
}

func under(pointer string, problems []fault.Problem) []fault.Problem {
	out := make([]fault.Problem, len(problems))
	for i, p := range problems {
		p.Pointer = pointer + p.Pointer
		out[i] = p
	}
	return out
}
