package imagenode

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// Values of removal.
const (
	RemovalDelete = "delete"
	RemovalKeep   = "keep"
)

// names are the inputs that each operation takes.
var names = map[string][]string{
	Create:  buildNames,
	Rebuild: buildNames,
	Delete:  {"target", "removal", "owner"},
	Verify:  {"target", "owner"},
}

var buildNames = []string{"source", "target", "options", "custom_workdir", "owner", "base_target", "base_tag", "base_ref", "base_images"}

// inputs are an operation's, checked.
type inputs struct {
	document   *buildparams.Document // of create and rebuild
	target     json.RawMessage       // as given, of delete and verify
	baseTarget *buildparams.Document // the base node's, with nothing but a target; nil when there is none
	baseTag    string
	baseRef    string
	basePins   map[string]string // what base_images pins, by registry/repository:tag
	workdir    string
	removal    string
	deployment string // the owner input
}

// readInputs checks everything about an operation's inputs.
func readInputs(op Operation) (*inputs, error) {
	what := fmt.Sprintf("inputs of %s of %s", op.Name, op.Node)
	given, problem := present(op.Inputs)
	if problem != nil {
		return nil, fault.InvalidInput(what, []fault.Problem{*problem})
	}
	r := &reader{given: given, in: &inputs{}}
	r.refuseUnknown(names[op.Name])
	r.need("target")
	r.text("owner", &r.in.deployment)
	if op.Name == Create || op.Name == Rebuild {
		r.build()
	} else {
		r.lookAt(op.Name)
	}
	r.explainFunctions()
	slices.SortStableFunc(r.problems, func(a, b fault.Problem) int { return strings.Compare(a.Pointer, b.Pointer) })
	if len(r.problems) > 0 {
		return nil, fault.InvalidInput(what, r.problems)
	}
	return r.in, r.err
}

// reader reads inputs and collects what is wrong with them.
type reader struct {
	given    map[string]json.RawMessage
	in       *inputs
	problems []fault.Problem
	err      error // that is nobody's fault
}

func (r *reader) wrong(pointer, message, hint string) {
	r.problems = append(r.problems, fault.Problem{Pointer: pointer, Message: message, Hint: hint})
}

func (r *reader) refuseUnknown(known []string) {
	for _, name := range slices.Sorted(maps.Keys(r.given)) {
		if !slices.Contains(known, name) {
			r.wrong("/"+fault.EscapePointer(name), "there is no such input", "there are "+strings.Join(known, ", "))
		}
	}
}

func (r *reader) need(name string) {
	if r.given[name] == nil {
		r.wrong("/"+name, "is missing", "")
	}
}

// text reads an input that is a string.
func (r *reader) text(name string, into *string) {
	if value := r.given[name]; value != nil && json.Unmarshal(value, into) != nil {
		r.wrong("/"+name, "is not a string", "")
	}
}

// build reads what create and rebuild take.
func (r *reader) build() {
	r.need("source")
	r.text("custom_workdir", &r.in.workdir)
	r.text("base_tag", &r.in.baseTag)
	r.text("base_ref", &r.in.baseRef)
	if target := r.given["base_target"]; target != nil {
		t, err := buildparams.DecodeTarget(target, "base_target")
		r.take(err, "/base_target")
		if err == nil {
			r.in.baseTarget = &buildparams.Document{Target: *t}
		}
	}
	r.pins()
	if r.given["source"] == nil || r.given["target"] == nil {
		return // what is missing has been said
	}
	parts := map[string]json.RawMessage{}
	for _, name := range []string{"source", "target", "options"} {
		if r.given[name] != nil {
			parts[name] = r.given[name]
		}
	}
	document, err := json.Marshal(parts)
	if err == nil {
		r.in.document, err = buildparams.Decode(document, "build_params.json")
	}
	r.take(err, "")
	if err == nil {
		r.base()
	}
}

// lookAt reads what delete and verify take.
func (r *reader) lookAt(operation string) {
	r.in.removal = RemovalDelete
	r.text("removal", &r.in.removal)
	if r.in.removal != RemovalDelete && r.in.removal != RemovalKeep {
		r.wrong("/removal", fmt.Sprintf("is %q", r.in.removal), "it is "+RemovalDelete+" or "+RemovalKeep)
	}
	if r.in.target = r.given["target"]; r.in.target != nil {
		_, err := buildparams.DecodeTarget(r.in.target, "target")
		r.take(err, "/target")
	}
}

// take adds the problems of a part, which stands at a pointer.
func (r *reader) take(err error, at string) {
	if err == nil {
		return
	}
	f := fault.As(err)
	if f.Kind != fault.Invalid {
		r.err = err
		return
	}
	for _, p := range f.Problems {
		p.Pointer = at + p.Pointer
		r.problems = append(r.problems, p)
	}
	if len(f.Problems) == 0 {
		r.wrong(at, f.Message, f.Hint)
	}
}

// settings are the settings that were given, with what the inputs say about how to build.
func (in *inputs) settings(op Operation) (json.RawMessage, error) {
	var s result.Settings
	if len(op.Settings) > 0 {
		if err := json.Unmarshal(op.Settings, &s); err != nil {
			return nil, fault.New(fault.Invalid, "settings: %w", err)
		}
	}
	owner, err := in.owner(op)
	if err != nil {
		return nil, err
	}
	s.Owner, s.Force = owner, s.Force || op.Name == Rebuild
	if in.workdir != "" {
		s.WorkFolder = in.workdir
		if !filepath.IsAbs(s.WorkFolder) {
			s.WorkFolder = filepath.Join(op.Folder, s.WorkFolder)
		}
	}
	in.reachBase(&s)
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the settings: %w", err)
	}
	return data, nil
}

// forPlugin are the inputs as the plugin's operation takes them.
func (in *inputs) forPlugin(op Operation) (json.RawMessage, error) {
	if in.document != nil {
		return buildparams.MarshalWithSecrets(in.document)
	}
	out := map[string]any{"target": in.target}
	if op.Name == Delete {
		out["removal"] = in.removal
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the inputs: %w", err)
	}
	return data, nil
}

// present are the inputs that are there: hosts write null, "", {} or [] for what was not given.
func present(data json.RawMessage) (map[string]json.RawMessage, *fault.Problem) {
	if isAbsent(data) {
		return nil, nil
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(data, &given); err != nil {
		return nil, &fault.Problem{Message: "the inputs are not a JSON object"}
	}
	for name, value := range given {
		if value = withoutAbsent(value, name); isAbsent(value) {
			delete(given, name)
		} else {
			given[name] = value
		}
	}
	return given, nil
}

// free are the maps whose values are the user's own texts: an empty one is a value.
var free = []string{"build_args", "labels", "bases", "secrets"}

// withoutAbsent takes absent members out of objects; what stays is kept byte for byte.
func withoutAbsent(value json.RawMessage, name string) json.RawMessage {
	if slices.Contains(free, name) {
		return value
	}
	var items []json.RawMessage
	if json.Unmarshal(value, &items) == nil && len(items) > 0 {
		for i := range items {
			items[i] = withoutAbsent(items[i], "")
		}
		return encoded(items, value)
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) != nil || len(members) == 0 {
		return value
	}
	for key, member := range members {
		if member = withoutAbsent(member, key); isAbsent(member) {
			delete(members, key)
		} else {
			members[key] = member
		}
	}
	return encoded(members, value)
}

func encoded(v any, otherwise json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(v) != nil {
		return otherwise
	}
	return bytes.TrimSpace(b.Bytes())
}

func isAbsent(value json.RawMessage) bool {
	var compact bytes.Buffer
	if json.Compact(&compact, value) != nil {
		return len(bytes.TrimSpace(value)) == 0
	}
	switch compact.String() {
	case "null", `""`, "{}", "[]":
		return true
	}
	return false
}
