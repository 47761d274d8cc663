package tosca

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"imagebuilder/internal/fault"
)

// Template is a template that has been read with everything that it imports. What depends on inputs has not been
// looked at yet.
type Template struct {
	file        string // as it was given
	name        string
	description string
	types       *definitions
	inputs      []*property
	nodes       []*nodeTemplate
	policies    []*policy
	outputs     []*output
}

// nodeTemplate is a node as it stands in the template.
type nodeTemplate struct {
	name         string
	at           Position
	typ          *nodeType
	properties   []field
	attributes   []field
	requirements []*assignment
	interfaces   []*interfaceDefinition
}

// assignment is a requirement of a node template.
type assignment struct {
	name         string
	at           Position
	node         *Value // the name of a node template
	relationship *Value // of a type; nil when the definition's holds
	capability   *Value
}

// policy is a policy: what it is about is known, and nothing is done with it.
type policy struct {
	name    string
	at      Position
	typ     *simpleType
	targets []*Value
}

type output struct {
	name        string
	at          Position
	description string
	schema      *schema
	value       *Value
}

// Name is what the template's metadata call it, or the name of its file.
func (t *Template) Name() string {
	if t.name != "" {
		return t.name
	}
	return filepath.Base(t.file)
}

// File is the template's file, as it was given to Read.
func (t *Template) File() string { return t.file }

// IsTemplate tells whether a document is a TOSCA template: it says so by tosca_definitions_version.
func IsTemplate(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "tosca_definitions_version") {
			return true
		}
	}
	v := readYAML(data, "", yaml12, &problems{})
	return v.get("tosca_definitions_version") != nil
}

// Read reads a template and what it imports. All that is wrong with it, as far as that can be told without inputs, is
// the error, of kind Invalid.
func Read(file string) (*Template, error) {
	t, p, err := read(file, readReal)
	if err == nil {
		err = p.err("read", file)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// opener reads a file; id tells files from others by whatever way they are reached.
type opener func(file string) (data []byte, id string, err error)

func read(file string, open opener) (*Template, *problems, error) {
	p := &problems{}
	l := &loader{
		reader: reader{problems: p}, template: &Template{file: file, types: newDefinitions()},
		open: open, loaded: map[string]bool{},
	}
	root, err := l.load(file)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "read %s: %w", file, cause(err))
	}
	resolve(p, l.template.types, l.schemas)
	if topology := root.get("topology_template"); topology != nil {
		l.topology(topology)
	} else if len(p.list) == 0 {
		p.add(Position{file, 1, 1}, "there is no topology_template")
	}
	return l.template, p, nil
}

// cause is what went wrong with a path, without the path.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// loader reads the files of a template.
type loader struct {
	reader
	template *Template
	open     opener
	loaded   map[string]bool // by their ids
}

// load reads a file and everything that it imports. A file is read once, however many import it.
func (l *loader) load(file string) (*Value, error) {
	data, id, err := l.open(file)
	if err != nil {
		return nil, err
	}
	if l.loaded[id] {
		return nil, nil
	}
	first := len(l.loaded) == 0
	l.loaded[id] = true
	root := readYAML(data, file, yaml12, l.problems)
	if root == nil {
		return nil, nil
	}
	l.document(root, file, first)
	return root, nil
}

// readReal reads a file of this machine.
func readReal(file string) (data []byte, id string, err error) {
	if data, err = readFile(file); err != nil {
		return nil, "", err
	}
	if id, err = filepath.EvalSymlinks(file); err == nil {
		id, err = filepath.Abs(id)
	}
	return data, id, err
}

// readFile reads a file that is not larger than a template may be, give or take a byte.
func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// document reads what stands at the top of a file.
func (l *loader) document(root *Value, file string, first bool) {
	if !l.keys(root, "the template", []string{
		"tosca_definitions_version", "metadata", "description", "dsl_definitions", "imports", "topology_template",
		"data_types", "node_types", "capability_types", "relationship_types", "interface_types", "policy_types", "artifact_types",
	}, "repositories", "group_types", "namespace", "template_name", "template_author", "template_version") {
		return
	}
	l.description(root)
	metadata := l.metadata(root.get("metadata"))
	switch version := root.get("tosca_definitions_version"); {
	case version.absent():
		l.problems.hint(root.at, "begin with tosca_definitions_version: "+version13, "there is no tosca_definitions_version")
	case version.text != version13:
		l.problems.hint(version.at, "it is "+version13, "the version %s of TOSCA is not read here", shown(version))
	}
	if first {
		l.template.description = l.description(root)
		if name := metadata["template_name"]; name != nil {
			l.template.name = name.text
		}
	} else if topology := root.get("topology_template"); !topology.absent() {
		l.problems.hint(topology.at, notOurs, "a topology_template in an imported file is not in the subset of this host")
	}
	l.imports(root.get("imports"), file)
	l.types(root, file)
}

func (l *loader) imports(v *Value, file string) {
	if v.absent() {
		return
	}
	if v.kind != list {
		l.problems.add(v.at, "imports is %s, not a list", article(string(v.kind)))
		return
	}
	for _, item := range v.items {
		if item.kind == object && len(item.fields) == 1 && item.fields[0].value.kind == object {
			item = item.fields[0].value // a name of the import, as TOSCA 1.0 had it
		}
		name := item
		if item.kind == object {
			l.keys(item, "the import", []string{"file"}, "repository", "namespace_prefix", "namespace_uri")
			name = item.get("file")
		}
		if name.absent() || name.kind != text || name.text == "" {
			l.problems.add(item.at, "an import is a path, relative to the file that it stands in")
			continue
		}
		l.load1(name, file)
	}
}

func (l *loader) load1(name *Value, from string) {
	switch {
	case strings.Contains(name.text, "://"):
		l.problems.hint(name.at, "put the file beside the template", "%s: imports by URL are not in the subset of this host", name.text)
		return
	case filepath.IsAbs(name.text):
		l.problems.add(name.at, "%s is not relative to the file that it stands in", name.text)
		return
	}
	file := filepath.Join(filepath.Dir(from), filepath.FromSlash(name.text))
	if _, err := l.load(file); err != nil {
		l.problems.add(name.at, "import %s: %v", name.text, cause(err))
	}
}

// types reads the definitions of a file.
func (l *loader) types(root *Value, file string) {
	d := l.template.types
	define(l, root, "data_types", d.data, func(f field) *dataType { return l.dataType(f) },
		func(t *dataType) Position { return t.at })
	define(l, root, "node_types", d.nodes, func(f field) *nodeType { return l.nodeType(f, file) },
		func(t *nodeType) Position { return t.at })
	define(l, root, "interface_types", d.interfaces, func(f field) *interfaceType { return l.interfaceType(f, file) },
		func(t *interfaceType) Position { return t.at })
	simple := func(section string, into map[string]*simpleType, what, parent string, own ...string) {
		define(l, root, section, into, func(f field) *simpleType { return l.simpleType(f, what, parent, file, own...) },
			func(t *simpleType) Position { return t.at })
	}
	simple("capability_types", d.capabilities, "capability type", "tosca.capabilities.Root", "attributes", "valid_source_types")
	simple("relationship_types", d.relationships, "relationship type", "tosca.relationships.Root", "attributes", "interfaces", "valid_target_types")
	simple("policy_types", d.policies, "policy type", rootPolicy, "targets", "triggers")
	simple("artifact_types", d.artifacts, "artifact type", "tosca.artifacts.Root", "mime_type", "file_ext")
}

// define reads one section of types into the definitions of its kind. A name has one definition.
func define[T any](l *loader, root *Value, section string, into map[string]T, read func(field) T, at func(T) Position) {
	for _, f := range l.fields(root.get(section), section) {
		if before, ok := into[f.key]; ok {
			l.problems.add(f.at, "%s is defined already, in %s", f.key, at(before))
			continue
		}
		if f.value.kind == null { // a type that only has a name
			f.value = &Value{at: f.at, kind: object}
		}
		into[f.key] = read(f)
	}
}
