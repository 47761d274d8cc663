package schemas

import (
	"encoding/json"
	"strings"
)

// Places calls visit for every part of the schema of build_params, with its place in a document: a JSON pointer in which * is any
// index or any name of the user's own. leaf tells that nothing is below. A test uses it to hold code that decides about
// every value to the schema itself.
func Places(visit func(at string, part map[string]any, leaf bool)) error {
	var whole map[string]any
	if err := json.Unmarshal(buildParams, &whole); err != nil {
		return err
	}
	definitions, _ := whole["definitions"].(map[string]any)
	var walk func(part map[string]any, at string)
	walk = func(part map[string]any, at string) {
		if ref, ok := part["$ref"].(string); ok {
			part, _ = definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
		}
		leaf := true
		below := func(v any, at string) {
			if p, ok := v.(map[string]any); ok {
				leaf = false
				walk(p, at)
			}
		}
		properties, _ := part["properties"].(map[string]any)
		for name, property := range properties {
			below(property, at+"/"+name)
		}
		below(part["items"], at+"/*")
		below(part["additionalProperties"], at+"/*")
		visit(at, part, leaf)
	}
	walk(whole, "")
	return nil
}
