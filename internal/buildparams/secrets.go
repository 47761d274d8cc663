package buildparams

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

// Revealed are the secrets of a document themselves. However it is printed or encoded, it shows none of them.
type Revealed struct {
	GitPassword        string // of source.git_repo
	DockerfilePassword string // of source.dockerfile
	ContextPassword    string // of source.build_context
	RegistryPassword   string // of target.registry
	CACert             []byte // PEM; of target.registry
	Secrets            map[string][]byte
}

// Format writes the mask, whatever the verb is.
func (r Revealed) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, secret.Mask) }

// MarshalJSON writes the mask.
func (r Revealed) MarshalJSON() ([]byte, error) { return json.Marshal(secret.Mask) }

// secretField is one secret of a document and where it stands.
type secretField struct {
	at    path
	value secret.Value
}

// secretFields are all secrets that the document has.
func (d *Document) secretFields() []secretField {
	var fields []secretField
	add := func(v secret.Value, at ...string) {
		if !v.IsZero() {
			fields = append(fields, secretField{path(at), v})
		}
	}
	if g := d.Source.GitRepo; g != nil {
		add(g.Password, "source", "git_repo", "password")
	}
	if f := d.Source.Dockerfile; f != nil {
		add(f.Password, "source", "dockerfile", "password")
	}
	if c := d.Source.BuildContext; c != nil {
		add(c.Password, "source", "build_context", "password")
	}
	add(d.Target.Registry.Password, "target", "registry", "password")
	for _, id := range slices.Sorted(maps.Keys(d.Options.Secrets)) {
		add(d.Options.Secrets[id], "options", "secrets", id)
	}
	return fields
}

// Resolve looks up every secret of a document that is a reference, and the file of ca_cert. What cannot be looked up is told
// all at once, as a *fault.Error of kind Invalid with problems; no error shows a value.
func Resolve(doc *Document, r secret.Resolver) (*Revealed, error) {
	found := map[string]string{}
	var problems []fault.Problem
	for _, field := range doc.secretFields() {
		pointer := field.at.pointer()
		value, err := r.Reveal(field.value)
		switch {
		case err != nil:
			problems = append(problems, fault.Problem{Pointer: pointer, Message: err.Error()})
		case field.at[0] != "options":
			if message := passwordProblem(value); message != "" {
				problems = append(problems, fault.Problem{Pointer: pointer, Message: field.value.Reference() + " " + message})
			}
		}
		found[pointer] = value
	}
	cert, problem := resolveCert(doc.Target.Registry.CACert, r)
	if problem != nil {
		problems = append(problems, *problem)
	}
	if len(problems) > 0 {
		return nil, invalid("look up the secrets of", "", problems)
	}
	revealed := &Revealed{
		GitPassword:        found["/source/git_repo/password"],
		DockerfilePassword: found["/source/dockerfile/password"],
		ContextPassword:    found["/source/build_context/password"],
		RegistryPassword:   found["/target/registry/password"],
		CACert:             cert,
	}
	for id := range doc.Options.Secrets {
		if revealed.Secrets == nil {
			revealed.Secrets = make(map[string][]byte, len(doc.Options.Secrets))
		}
		revealed.Secrets[id] = []byte(found[path{"options", "secrets", id}.pointer()])
	}
	return revealed, nil
}

// passwordProblem says why a looked-up password cannot be one, or "".
func passwordProblem(value string) string {
	switch {
	case value == "":
		return "is empty"
	case strings.ContainsFunc(value, isControl):
		return "holds a line break or another control character"
	}
	return ""
}

func resolveCert(s string, r secret.Resolver) ([]byte, *fault.Problem) {
	if s == "" {
		return nil, nil
	}
	const pointer = "/target/registry/ca_cert"
	if !strings.HasPrefix(s, "file:") {
		return []byte(s), nil // Decode has looked at it
	}
	data, err := r.Reveal(secret.New(s))
	if err != nil {
		return nil, &fault.Problem{Pointer: pointer, Message: err.Error()}
	}
	if message := certificateProblem([]byte(data)); message != "" {
		return nil, &fault.Problem{Pointer: pointer, Message: strings.TrimPrefix(s, "file:") + " " + message, Hint: "it has to be a PEM file with the authority's certificate"}
	}
	return []byte(data + "\n"), nil
}

// MarshalWithSecrets writes a document as JSON with its secrets in clear: literals and references as the document has them. It is for the one
// reader that has to build with them, and for nothing that is kept or shown: everything else masks. Decode of it gives the same document.
func MarshalWithSecrets(doc *Document) ([]byte, error) {
	masked, err := json.Marshal(doc)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode a document: %w", err)
	}
	n, problems := parseJSON(masked)
	if problems != nil {
		return nil, invalid("encode", "", problems)
	}
	for _, field := range doc.secretFields() {
		value := field.value.Reference()
		if !field.value.IsReference() {
			if value, err = (secret.Resolver{}).Reveal(field.value); err != nil {
				return nil, fault.New(fault.Internal, "encode a document: %w", err)
			}
		}
		find(n, field.at[:len(field.at)-1]).put(field.at[len(field.at)-1], textNode(value))
	}
	return writeJSON(n), nil
}
