package buildparams

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"imagebuilder/internal/fault"
)

// Decode reads a build_params document, JSON or YAML, checks everything about it that can be checked without
// touching anything else, and fills defaults in. The name is that of the file, for errors and for its extension;
// "" and "-" are a document without one.
//
// An error is a *fault.Error of kind Invalid whose Problems are all that is wrong with the document.
func Decode(data []byte, name string) (*Document, error) { return DecodeWith(data, name, nil) }

// DecodeWith is Decode of the document with values set in it: each of sets is PATH=VALUE as in
// "target.images[0].tag=v2". A backslash takes the meaning from a dot or bracket of a key, as in
// `options.labels.org\.example\.team=web`. Maps that are missing on the way are made, and the index after the last
// of a list adds to it. A value is text, or JSON where the document wants something else than text;
// an empty one takes the field away.
func DecodeWith(data []byte, name string, sets []string) (*Document, error) {
	n, problems := parse(data, name)
	if problems != nil {
		return nil, invalid("read", name, problems)
	}
	rules, err := loadRules()
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		if problem := rules.set(n, s); problem != nil {
			problems = append(problems, *problem)
		}
	}
	dropAbsent(n, rules, nil)
	problems = append(problems, rules.check(n)...)
	if len(problems) > 0 {
		return nil, invalid("check", name, problems)
	}
	doc := &Document{}
	if err := json.Unmarshal(writeJSON(n), doc); err != nil {
		return nil, fault.New(fault.Internal, "decode %s: the schema lets through what the document's type does not take", title(name))
	}
	doc.fillDefaults()
	return doc, nil
}

// dropAbsent takes away the fields that are null or "", which is how xOpera writes what was not given. An empty
// build argument or label stays: it is a value.
func dropAbsent(n *node, rules *rules, at path) {
	free := rules.at(at).freeText()
	n.members = slices.DeleteFunc(n.members, func(m member) bool {
		return m.value.kind == null || (m.value.kind == text && m.value.text == "" && !free)
	})
	for i := range n.members {
		dropAbsent(n.members[i].value, rules, at.with(n.members[i].key))
	}
	for i := range n.items {
		dropAbsent(n.items[i], rules, at.index(i))
	}
}

// The defaults that the schema promises.
const (
	defaultVersion    = "HEAD"
	defaultDockerfile = "Dockerfile"
	defaultFolder     = "."
	defaultPlatform   = "linux/amd64"
)

// fillDefaults fills in what is absent and writes platforms in their normal form.
func (d *Document) fillDefaults() {
	if g := d.Source.GitRepo; g != nil {
		setDefault(&g.Version, defaultVersion)
		setDefault(&g.Dockerfile, defaultDockerfile)
		setDefault(&g.Workdir, defaultFolder)
	}
	if c := d.Source.BuildContext; c != nil {
		if c.URL != "" {
			setDefault(&c.Version, defaultVersion)
		}
		setDefault(&c.Subdir, defaultFolder)
	}
	for i := range d.Target.Images {
		image := &d.Target.Images[i]
		if len(image.Platforms) == 0 {
			image.Platforms = []string{defaultPlatform}
		}
		for j, name := range image.Platforms {
			if normal, err := normalPlatform(name); err == nil {
				image.Platforms[j] = normal
			}
		}
		dropEmpty(&image.Bases)
		dropEmpty(&image.BuildArgs)
		dropEmpty(&image.Labels)
	}
	dropEmpty(&d.Options.BuildArgs)
	dropEmpty(&d.Options.Labels)
	dropEmpty(&d.Options.Secrets)
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// dropEmpty makes one form of "nothing" of two, so that a document equals itself read back.
func dropEmpty[V any](m *map[string]V) {
	if len(*m) == 0 {
		*m = nil
	}
}

// invalid is the error for a document with problems.
func invalid(action, name string, problems []fault.Problem) error {
	count := "1 problem"
	if len(problems) > 1 {
		count = fmt.Sprintf("%d problems", len(problems))
	}
	if more := len(problems) - maxProblems; more > 0 {
		problems = append(slices.Clip(problems[:maxProblems]), fault.Problem{Message: fmt.Sprintf("and %d more", more)})
	}
	return fault.InvalidInput(fmt.Sprintf("%s %s: %s", action, title(name), count), problems)
}

// title is what a document is called in errors.
func title(name string) string {
	if name == "" || name == "-" {
		return "build_params"
	}
	return name
}

func position(line, column int) string { return fmt.Sprintf("line %d, column %d", line, column) }

// enumerate lists names for people: "a, b and c".
func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
