package tosca

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
	"imagebuilder/schemas"
)

// masker hides what is secret, or may be, before anything is shown or kept: the fields to which the JSON Schema of
// build_params gives the format password, others whose name sounds like one, passwords in URLs, and private keys.
// References (env:NAME, file:PATH) stay, for they are no secret.
type masker struct{ names map[string]bool }

func newMasker() (masker, error) {
	var schema any
	if err := json.Unmarshal(schemas.BuildParams(), &schema); err != nil {
		return masker{}, fault.New(fault.Internal, "read the schema of build_params: %w", err)
	}
	m := masker{names: map[string]bool{}}
	m.collect(schema)
	return m, nil
}

// collect finds the names of properties with the format password, or whose members have it.
func (m masker) collect(schema any) {
	switch schema := schema.(type) {
	case []any:
		for _, item := range schema {
			m.collect(item)
		}
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		for name, property := range properties {
			definition, _ := property.(map[string]any)
			members, _ := definition["additionalProperties"].(map[string]any)
			if definition["format"] == "password" || members["format"] == "password" {
				m.names[name] = true
			}
		}
		for _, inner := range schema {
			m.collect(inner)
		}
	}
}

// soundsSecret matches the names of fields that may hold a secret.
var soundsSecret = regexp.MustCompile(`(?i)pass(word|wd|phrase)|pwd|secret|token|credential|api_?key|private_?key|auth(orization)?$`)

// mask gives data with the mask in the place of what is secret, and JSON pointers to the places.
func (m masker) mask(data any) (masked any, places []string) {
	masked = m.value(data, "", false, &places)
	slices.Sort(places)
	return masked, places
}

func (m masker) value(data any, at string, all bool, places *[]string) any {
	switch data := data.(type) {
	case map[string]any:
		out := maps.Clone(data)
		for key, inner := range data {
			out[key] = m.value(inner, at+"/"+fault.EscapePointer(key), all || m.names[key] || soundsSecret.MatchString(key), places)
		}
		return out
	case []any:
		out := slices.Clone(data)
		for i, item := range data {
			out[i] = m.value(item, at+"/"+strconv.Itoa(i), all, places)
		}
		return out
	case string:
		hidden := buildparams.MaskURL(data)
		if strings.Contains(data, "PRIVATE KEY-----") || all && data != "" && !secret.New(data).IsReference() {
			hidden = secret.Mask
		}
		if hidden != data {
			*places = append(*places, at)
		}
		return hidden
	case nil:
		return nil
	default:
		if !all {
			return data
		}
		*places = append(*places, at)
		return secret.Mask
	}
}

// literals are the secrets of data themselves.
func (m masker) literals(data any) []string {
	_, places := m.mask(data)
	var found []string
	for _, place := range places {
		if s, ok := valueAt(data, place).(string); ok {
			found = append(found, s)
		}
	}
	return found
}

// shortestSecret is the length from which on a secret is looked for inside of other texts. Shorter ones would be found there by
// chance, and the name of an image spoiled.
const shortestSecret = 8

// scrub hides secrets wherever they stand in data.
func scrub(data any, secrets []string) any {
	switch data := data.(type) {
	case map[string]any:
		out := make(map[string]any, len(data))
		for key, inner := range data {
			out[key] = scrub(inner, secrets)
		}
		return out
	case []any:
		out := make([]any, len(data))
		for i, item := range data {
			out[i] = scrub(item, secrets)
		}
		return out
	case string:
		for _, s := range secrets {
			switch {
			case data == s:
				return secret.Mask
			case len(s) >= shortestSecret:
				data = strings.ReplaceAll(data, s, secret.Mask)
			}
		}
		return data
	}
	return data
}

// valueAt is what a JSON pointer points to, nil for nothing.
func valueAt(data any, pointer string) any {
	if pointer == "" {
		return data
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch inner := data.(type) {
		case map[string]any:
			data = inner[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(inner) {
				return nil
			}
			data = inner[i]
		default:
			return nil
		}
	}
	return data
}

// put replaces what a JSON pointer points to, if it is there.
func put(data any, pointer string, value any) {
	cut := strings.LastIndexByte(pointer, '/')
	last := strings.NewReplacer("~1", "/", "~0", "~").Replace(pointer[cut+1:])
	switch parent := valueAt(data, pointer[:cut]).(type) {
	case map[string]any:
		parent[last] = value
	case []any:
		if i, err := strconv.Atoi(last); err == nil && i >= 0 && i < len(parent) {
			parent[i] = value
		}
	}
}
