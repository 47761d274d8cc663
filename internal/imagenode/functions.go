package imagenode

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
)

// functions are TOSCA's, which a host evaluates before the plugin is asked.
var functions = []string{"get_input", "get_property", "get_attribute", "get_artifact", "get_operation_output", "concat", "join", "token"}

// explainFunctions finds problems that are nothing but a function that the host has left as it was.
func (r *reader) explainFunctions() {
	explained := map[string]fault.Problem{}
	for _, p := range r.problems {
		at, name := p.Pointer, ""
		if cut := strings.LastIndex(at, "/"); cut >= 0 && slices.Contains(functions, at[cut+1:]) {
			at, name = at[:cut], at[cut+1:]
		} else {
			name = functionAt(r.given, at)
		}
		if name != "" {
			explained[at] = fault.Problem{
				Pointer: at, Message: name + " stands here unevaluated",
				Hint: "functions are evaluated at the top of a property and little deeper: make the whole value an input",
			}
		}
	}
	if len(explained) == 0 {
		return
	}
	r.problems = slices.DeleteFunc(r.problems, func(p fault.Problem) bool {
		for at := range explained {
			if p.Pointer == at || strings.HasPrefix(p.Pointer, at+"/") {
				return true
			}
		}
		return false
	})
	r.problems = slices.AppendSeq(r.problems, maps.Values(explained))
}

// functionAt is the function that stands as the value at a pointer, or "".
func functionAt(given map[string]json.RawMessage, pointer string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	value := given[first]
	for rest != "" && value != nil {
		first, rest, _ = strings.Cut(rest, "/")
		value = memberOf(value, strings.NewReplacer("~1", "/", "~0", "~").Replace(first))
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) != nil || len(members) != 1 {
		return ""
	}
	for _, name := range functions {
		if members[name] != nil {
			return name
		}
	}
	return ""
}

// memberOf is the member of an object or the item of a list.
func memberOf(value json.RawMessage, name string) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) == nil {
		return members[name]
	}
	var items []json.RawMessage
	if i, err := strconv.Atoi(name); err == nil && json.Unmarshal(value, &items) == nil && i >= 0 && i < len(items) {
		return items[i]
	}
	return nil
}
