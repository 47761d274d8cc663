package schemas_test

import (
	"encoding/json"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/schemas"
)

// schema is one level of a JSON Schema.
type schema map[string]any

func parse(t *testing.T, data []byte) schema {
	t.Helper()
	var s schema
	require.NoError(t, json.Unmarshal(data, &s))
	return s
}

// resolve follows a reference into the definitions of the whole.
func (s schema) resolve(t *testing.T, part any) schema {
	t.Helper()
	m, ok := part.(map[string]any)
	require.True(t, ok, "%v", part)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	require.Len(t, m, 1, "OpenAPI 3.0 and draft-07 ignore what stands beside a $ref")
	definitions, _ := s["definitions"].(map[string]any)
	definition, ok := definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
	require.True(t, ok, ref)
	return definition
}

// requireMatches holds a schema against the Go type that it describes: the same fields, the same types, and required what is
// never left out.
func (s schema) requireMatches(t *testing.T, part schema, typ reflect.Type, at string) {
	t.Helper()
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case part["type"] == "string" && typ.Kind() != reflect.String:
		// It writes itself as text, as a secret or a duration.
		_, own := reflect.New(typ).Interface().(json.Marshaler)
		require.True(t, own, "%s is a string, and in Go a %v", at, typ)
	case typ.Kind() == reflect.String:
		require.Equal(t, "string", part["type"], at)
	case typ.Kind() == reflect.Bool:
		require.Equal(t, "boolean", part["type"], at)
	case typ.Kind() == reflect.Int64 || typ.Kind() == reflect.Int:
		require.Equal(t, "integer", part["type"], at)
	case typ.Kind() == reflect.Float64:
		require.Equal(t, "number", part["type"], at)
	case typ.Kind() == reflect.Slice:
		require.Equal(t, "array", part["type"], at)
		s.requireMatches(t, s.resolve(t, part["items"]), typ.Elem(), at+"[]")
	case typ.Kind() == reflect.Map:
		require.Equal(t, "object", part["type"], at)
		s.requireMatches(t, s.resolve(t, part["additionalProperties"]), typ.Elem(), at+"{}")
	case typ.Kind() == reflect.Struct:
		s.requireFields(t, part, typ, at)
	default:
		require.Fail(t, "no schema for this type", "%s: %v", at, typ)
	}
}

func (s schema) requireFields(t *testing.T, part schema, typ reflect.Type, at string) {
	t.Helper()
	require.Equal(t, "object", part["type"], at)
	require.Equal(t, false, part["additionalProperties"], at)
	properties, _ := part["properties"].(map[string]any)
	var fields, always []string
	for i := range typ.NumField() {
		name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		require.NotEmpty(t, name, "%s.%s", at, typ.Field(i).Name)
		fields = append(fields, name)
		if !strings.Contains(options, "omit") {
			always = append(always, name)
		}
		require.Contains(t, properties, name, at)
		s.requireMatches(t, s.resolve(t, properties[name]), typ.Field(i).Type, at+"."+name)
	}
	require.Len(t, properties, len(fields), "%s has fields that Go does not know", at)
	var required []string
	if list, ok := part["required"].([]any); ok {
		for _, name := range list {
			required = append(required, name.(string))
		}
	}
	slices.Sort(required)
	slices.Sort(always)
	require.Equal(t, always, required, at)
}

func TestSchemasMatchTheirTypes(t *testing.T) {
	t.Parallel()
	whole := parse(t, schemas.BuildParams())
	whole.requireMatches(t, whole, reflect.TypeFor[buildparams.Document](), "build_params")
	whole = parse(t, schemas.Result())
	whole.requireMatches(t, whole, reflect.TypeFor[result.Result](), "result")
}

// TestResultsAreValid validates results as they are written, full and empty.
func TestResultsAreValid(t *testing.T) {
	t.Parallel()
	compiled, err := gojsonschema.NewSchema(gojsonschema.NewBytesLoader(schemas.Result()))
	require.NoError(t, err)
	var full result.Result
	fill(reflect.ValueOf(&full).Elem())
	kinds := []fault.Kind{fault.Invalid, fault.Denied, fault.NotFound, fault.BuildFailed, fault.Cancelled, fault.Unavailable, fault.Internal}
	results := []result.Result{{Images: []result.ImageResult{}}}
	for _, kind := range kinds {
		r := full
		r.Images = slices.Clone(full.Images)
		r.Images[0].Error = &result.ErrorResult{Kind: kind, Message: "x"}
		results = append(results, r)
	}
	for _, r := range results {
		text, err := json.Marshal(r)
		require.NoError(t, err)
		validation, err := compiled.Validate(gojsonschema.NewBytesLoader(text))
		require.NoError(t, err)
		require.Empty(t, validation.Errors(), "%s", text)
	}
	for _, wrong := range []string{`{}`, `{"images":[],"source":{},"engine":"x","times":{"build":0,"push":0,"total":0},"more":1}`} {
		validation, err := compiled.Validate(gojsonschema.NewStringLoader(wrong))
		require.NoError(t, err)
		require.NotEmpty(t, validation.Errors(), wrong)
	}
}

// fill puts something into every field.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("sha256:" + strings.Repeat("0", 64))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
	if v.Type() == reflect.TypeFor[fault.Kind]() {
		v.SetString(string(fault.Internal))
	}
}

// TestEveryFieldIsDescribed also validates each field's examples by the field's own schema.
func TestEveryFieldIsDescribed(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{"build_params": schemas.BuildParams(), "result": schemas.Result()} {
		whole := parse(t, data)
		definitions, _ := whole["definitions"].(map[string]any)
		parts := map[string]any{name: map[string]any(whole)}
		for definition, part := range definitions {
			parts[definition] = part
		}
		for at, part := range parts {
			object := whole.resolve(t, part)
			require.NotEmpty(t, object["description"], at)
			require.Equal(t, false, object["additionalProperties"], at)
			properties, _ := object["properties"].(map[string]any)
			for field, property := range properties {
				p := whole.resolve(t, property)
				require.NotEmpty(t, p["description"], "%s.%s", at, field)
				examples, _ := p["examples"].([]any)
				require.NotEmpty(t, examples, "%s.%s", at, field)
				requireValid(t, whole, p, examples, at+"."+field)
			}
		}
	}
}

func requireValid(t *testing.T, whole, part schema, values []any, at string) {
	t.Helper()
	own := schema{"definitions": whole["definitions"]}
	for key, value := range part {
		own[key] = value
	}
	compiled, err := gojsonschema.NewSchema(gojsonschema.NewGoLoader(own))
	require.NoError(t, err, at)
	for _, value := range values {
		validation, err := compiled.Validate(gojsonschema.NewGoLoader(value))
		require.NoError(t, err, at)
		require.Empty(t, validation.Errors(), at)
	}
}

func TestExamplesAreEmbedded(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"json/git.json", "yaml/git.yaml", "annotated/git.yaml", "sample-repo/Dockerfile", "sample-repo/.dockerignore", "sample-repo/page.sh"} {
		data, err := fs.ReadFile(schemas.Examples(), name)
		require.NoError(t, err)
		require.NotEmpty(t, data, name)
	}
}

func TestCallersShareNoBytes(t *testing.T) {
	t.Parallel()
	clear(schemas.BuildParams())
	clear(schemas.Result())
	require.NotZero(t, schemas.BuildParams()[0])
	require.NotZero(t, schemas.Result()[0])
}
