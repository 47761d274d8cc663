package datatypes_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/datatypes"
	"imagebuilder/internal/testbed"
	"imagebuilder/schemas"
)

// TestLibraryMirrorsSchema: the data types that templates use say what the schema says. When this fails, the difference
// shows which field drifted; scripts/generate.sh writes the file anew.
func TestLibraryMirrorsSchema(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	committed, err := os.ReadFile(filepath.Join(root, "library", "image", "data_types.yaml"))
	require.NoError(t, err)
	derived, err := datatypes.Derive(schemas.BuildParams())
	require.NoError(t, err)
	require.Equal(t, string(derived), string(committed), "library/image/data_types.yaml is not what schemas/build_params.schema.json says; run scripts/generate.sh")
}

// TestDerive: each keyword of the schema becomes its counterpart.
func TestDerive(t *testing.T) {
	t.Parallel()
	const head = "tosca_definitions_version: tosca_simple_yaml_1_3\n\ndata_types:\n\n  imagebuilder.datatypes.OneThing:\n" +
		"    derived_from: tosca.datatypes.Root\n    description: One thing.\n    properties:\n"
	for name, c := range map[string]struct{ properties, more, want string }{
		"required": {`"url": {"type": "string", "minLength": 1, "description": "A URL."}`, `, "required": ["url"]`, `
      url:
        type: string
        description: A URL.
        required: true
        constraints:
          - min_length: 1
`},
		"default": {`"port": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3, "description": "no"}`, ``, `
      port:
        type: integer
        description: "no Default: 3."
        required: false
        constraints:
          - greater_or_equal: 1
          - less_or_equal: 9
`},
		"what looks like a number": {`"a": {"type": "boolean", "description": "3.10"}`, ``, `
      a:
        type: boolean
        description: "3.10"
        required: false
`},
		"list": {`"a": {"type": "array", "minItems": 1, "items": {"$ref": "#/definitions/one_thing"}, "description": "Many: here."}`, ``, `
      a:
        type: list
        description: "Many: here."
        required: false
        constraints:
          - min_length: 1
        entry_schema:
          type: imagebuilder.datatypes.OneThing
`},
		"map": {`"a": {"type": "object", "additionalProperties": {"type": "string", "enum": ["on", "off"]}, "description": "By \"name\"\n#."}`, ``, `
      a:
        type: map
        description: "By \"name\"\n#."
        required: false
        entry_schema:
          type: string
          constraints:
            - valid_values: ["on", "off"]
`},
		"reference": {`"a": {"$ref": "#/definitions/one_thing"}`, ``, `
      a:
        type: imagebuilder.datatypes.OneThing
        required: false
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			derived, err := datatypes.Derive([]byte(`{"definitions": {"one_thing": {"description": "One thing.", "type": "object",
				"additionalProperties": false, "properties": {` + c.properties + `}` + c.more + `}}}`))
			require.NoError(t, err)
			require.Contains(t, string(derived), head+c.want[1:])
		})
	}
}

// TestDeriveRefuses: what would be lost is an error that names it.
func TestDeriveRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ definition, want string }{
		"an unknown keyword": {
			`{"type": "object", "additionalProperties": false, "properties": {"a": {"type": "string", "maxLength": 3}}}`, "derive x: a: keyword maxLength",
		},
		"an unknown keyword of an entry": {
			`{"type": "object", "additionalProperties": false, "properties": {"a": {"type": "array", "items": {"type": "string", "const": "b"}}}}`,
			"derive x: a: entries: keyword const",
		},
		"an unknown keyword of a definition": {
			`{"type": "object", "additionalProperties": false, "properties": {}, "minProperties": 1}`, "derive x: keyword minProperties",
		},
		"an open object": {`{"type": "object", "properties": {}}`, "without additional properties"},
		"two types":      {`{"type": "object", "additionalProperties": false, "properties": {"a": {"type": ["string", "null"]}}}`, "no counterpart"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := datatypes.Derive([]byte(`{"definitions": {"x": ` + c.definition + `}}`))
			require.ErrorContains(t, err, c.want)
		})
	}
}
