// Package datatypes derives the TOSCA data types of build_params from its JSON Schema, so that there is one place
// where a field is described. What it writes is library/image/data_types.yaml; scripts/generate.sh calls it.
//
// It does not decide what a valid document is: orchestrators check little or nothing of these types, and
// internal/buildparams checks everything again.
package datatypes

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// prefix stands before the name of each type.
const prefix = "imagebuilder.datatypes."

const header = `# Derived from schemas/build_params.schema.json by scripts/generate.sh: edit the schema, not this file.
# Opera reads these types and enforces none of them, so that the plugin checks every document again.
`

// Derive turns a JSON Schema (draft-07, of the kind that build_params is: named objects under definitions) into a
// TOSCA 1.3 service template that holds a data type for each definition, in the schema's order.
//
// A keyword that it does not know is an error, so that nothing which the schema says is lost unnoticed.
func Derive(schema []byte) ([]byte, error) {
	var root yaml.MapSlice // JSON is YAML; a MapSlice keeps the schema's order
	if err := yaml.UnmarshalWithOptions(schema, &root, yaml.UseOrderedMap()); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	definitions, ok := lookup(root, "definitions").(yaml.MapSlice)
	if !ok {
		return nil, fmt.Errorf("read the schema: it has no definitions")
	}
	w := &writer{}
	w.text(header)
	w.text("tosca_definitions_version: tosca_simple_yaml_1_3\n\ndata_types:\n")
	for _, d := range definitions {
		name := fmt.Sprint(d.Key)
		object, ok := d.Value.(yaml.MapSlice)
		if !ok {
			return nil, fmt.Errorf("derive %s: not an object", name)
		}
		if err := dataType(w, name, object); err != nil {
			return nil, fmt.Errorf("derive %s: %w", name, err)
		}
	}
	return w.bytes(), nil
}

// objectKeywords are those of a definition. TOSCA has no way to say that properties exclude each other (oneOf): the
// description says it, and the plugin checks it.
func objectKeywords() []string {
	return []string{"description", "type", "additionalProperties", "required", "properties", "oneOf", "examples"}
}

func dataType(w *writer, name string, object yaml.MapSlice) error {
	if err := known(object, objectKeywords()); err != nil {
		return err
	}
	if lookup(object, "type") != "object" || lookup(object, "additionalProperties") != false {
		return fmt.Errorf("only an object without additional properties has a data type")
	}
	properties, ok := lookup(object, "properties").(yaml.MapSlice)
	if !ok {
		return fmt.Errorf("it has no properties")
	}
	required, _ := lookup(object, "required").([]any)

	w.text("\n")
	w.line(1, "%s:", typeName(name))
	w.line(2, "derived_from: tosca.datatypes.Root")
	w.line(2, "description: %s", scalar(lookup(object, "description")))
	w.line(2, "properties:")
	for _, p := range properties {
		field, ok := p.Value.(yaml.MapSlice)
		if !ok {
			return fmt.Errorf("%v: not an object", p.Key)
		}
		w.line(3, "%s:", p.Key)
		if err := property(w, field, slices.Contains(required, p.Key)); err != nil {
			return fmt.Errorf("%v: %w", p.Key, err)
		}
	}
	return nil
}

// property writes what stands below a property's name.
func property(w *writer, field yaml.MapSlice, required bool) error {
	const depth = 4
	if ref, ok := lookup(field, "$ref").(string); ok {
		if len(field) != 1 {
			return fmt.Errorf("$ref does not stand alone")
		}
		w.line(depth, "type: %s", referred(ref))
		w.line(depth, "required: %t", required)
		return nil
	}
	if err := known(field, fieldKeywords()); err != nil {
		return err
	}
	kind, err := typeOf(field)
	if err != nil {
		return err
	}
	w.line(depth, "type: %s", kind)
	w.line(depth, "description: %s", scalar(described(field)))
	w.line(depth, "required: %t", required)
	constraints(w, depth, field)
	return entrySchema(w, depth, field)
}

// described is the description, and what holds when the property is absent. That is not said by TOSCA's "default", for a
// host fills that in: a context by path would get the version that goes only with a URL, and Puccini would take
// {get_input: registry} for a registry of which the fields that have no default are missing.
func described(field yaml.MapSlice) string {
	text, _ := lookup(field, "description").(string)
	if value := lookup(field, "default"); value != nil {
		text += " Default: " + flow(value) + "."
	}
	return text
}

// fieldKeywords are those of a property. "format: password" has no counterpart: the description says it.
func fieldKeywords() []string {
	return []string{
		"description", "type", "format", "examples", "default", "enum", "pattern", "minLength",
		"minimum", "maximum", "minItems", "items", "additionalProperties",
	}
}

// typeOf is the TOSCA type of a property or of an entry.
func typeOf(field yaml.MapSlice) (string, error) {
	if ref, ok := lookup(field, "$ref").(string); ok {
		return referred(ref), nil
	}
	switch kind := lookup(field, "type"); kind {
	case "string", "boolean", "integer":
		return kind.(string), nil
	case "number":
		return "float", nil
	case "array":
		return "list", nil
	case "object":
		return "map", nil
	default:
		return "", fmt.Errorf("type %v has no counterpart in TOSCA", kind)
	}
}

// constraints writes the constraint clauses of a property or of an entry, if it has any.
func constraints(w *writer, depth int, field yaml.MapSlice) {
	var clauses []string
	add := func(clause, keyword string) {
		if value := lookup(field, keyword); value != nil {
			clauses = append(clauses, clause+": "+flow(value))
		}
	}
	add("valid_values", "enum")
	add("pattern", "pattern")
	add("min_length", "minLength")
	add("min_length", "minItems")
	add("greater_or_equal", "minimum")
	add("less_or_equal", "maximum")
	if len(clauses) == 0 {
		return
	}
	w.line(depth, "constraints:")
	for _, clause := range clauses {
		w.line(depth+1, "- %s", clause)
	}
}

// entrySchema writes what the entries of a list or map are.
func entrySchema(w *writer, depth int, field yaml.MapSlice) error {
	var entry yaml.MapSlice
	switch lookup(field, "type") {
	case "array":
		entry, _ = lookup(field, "items").(yaml.MapSlice)
	case "object":
		entry, _ = lookup(field, "additionalProperties").(yaml.MapSlice)
	default:
		return nil
	}
	if entry == nil {
		return fmt.Errorf("it does not say what its entries are")
	}
	if err := known(entry, append(fieldKeywords(), "$ref")); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	kind, err := typeOf(entry)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	if kind == "list" || kind == "map" {
		return fmt.Errorf("entries: a %s in a %s has to be a definition of its own", kind, lookup(field, "type"))
	}
	w.line(depth, "entry_schema:")
	w.line(depth+1, "type: %s", kind)
	constraints(w, depth+1, entry)
	return nil
}

// referred is the type that "#/definitions/git_repo" means.
func referred(ref string) string { return typeName(strings.TrimPrefix(ref, "#/definitions/")) }

// typeName turns git_repo into imagebuilder.datatypes.GitRepo.
func typeName(definition string) string {
	var name strings.Builder
	name.WriteString(prefix)
	for word := range strings.SplitSeq(definition, "_") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return name.String()
}

// known refuses keywords that would be lost.
func known(m yaml.MapSlice, keywords []string) error {
	for _, item := range m {
		if !slices.Contains(keywords, fmt.Sprint(item.Key)) {
			return fmt.Errorf("keyword %v: say in internal/datatypes what it becomes in TOSCA", item.Key)
		}
	}
	return nil
}

func lookup(m yaml.MapSlice, key string) any {
	for _, item := range m {
		if item.Key == key {
			return item.Value
		}
	}
	return nil
}
