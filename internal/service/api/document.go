package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"imagebuilder/schemas"
)

// contract is schemas/openapi.yaml as it stands, in which documents are any objects.
func contract() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(schemas.OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("read openapi.yaml: %w", err)
	}
	return doc, nil
}

// servedDocument is the contract with the JSON Schemas of what goes in and what comes out put in, so that a reader needs one file.
func servedDocument(doc *openapi3.T, version string) ([]byte, error) {
	data, err := doc.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("write openapi.json: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("write openapi.json: %w", err)
	}
	components, _ := tree["components"].(map[string]any)
	all, _ := components["schemas"].(map[string]any)
	for name, schema := range map[string][]byte{"BuildParams": schemas.BuildParams(), "Result": schemas.Result()} {
		if err := put(all, name, schema); err != nil {
			return nil, err
		}
	}
	allowNull(all, "BuildParams")
	if info, ok := tree["info"].(map[string]any); ok && version != "" {
		info["x-service-version"] = version
	}
	return json.Marshal(tree)
}

// put adds a JSON Schema as the component of a name, and its definitions as NAME.DEFINITION.
func put(all map[string]any, name string, schema []byte) error {
	var root map[string]any
	if err := json.Unmarshal(schema, &root); err != nil {
		return fmt.Errorf("read the schema of %s: %w", name, err)
	}
	definitions, _ := root["definitions"].(map[string]any)
	delete(root, "definitions")
	delete(root, "$schema")
	delete(root, "title")
	all[name] = openAPI(root, name)
	for key, definition := range definitions {
		all[name+"."+key] = openAPI(definition, name)
	}
	return nil
}

// allowNull says of what goes in what JSON Schema leaves to a sentence: null stands for a field that is absent.
func allowNull(all map[string]any, name string) {
	for key, schema := range all {
		if key != name && !strings.HasPrefix(key, name+".") {
			continue
		}
		object, _ := schema.(map[string]any)
		required, _ := object["required"].([]any)
		properties, _ := object["properties"].(map[string]any)
		for field, value := range properties {
			property, _ := value.(map[string]any)
			switch {
			case slices.Contains(required, any(field)):
			case property["$ref"] != nil: // which has no neighbours in OpenAPI 3.0
				properties[field] = map[string]any{"allOf": []any{property}, "nullable": true}
			default:
				property["nullable"] = true
			}
		}
	}
}

// openAPI writes a part of a draft-07 schema as OpenAPI 3.0 has it, as far as our schemas go: references, and one example for several.
func openAPI(value any, name string) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = openAPI(v[i], name)
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			return map[string]any{"$ref": "#/components/schemas/" + name + "." + strings.TrimPrefix(ref, "#/definitions/")}
		}
		for key, below := range v {
			switch key {
			case "examples":
				if list, ok := below.([]any); ok && len(list) > 0 {
					v["example"] = list[0]
					delete(v, key)
				}
			case "example", "default", "enum":
			default:
				v[key] = openAPI(below, name)
			}
		}
	}
	return value
}
