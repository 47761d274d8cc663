package opera_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
	"imagebuilder/schemas"
)

// templates are values that Ansible would evaluate if it came to see them as templates; each leaves a file when it does.
func templates(file string) []string {
	run := "lookup('ansible.builtin.pipe', 'touch " + file + "')"
	return []string{
		"{{ " + run + " }}",
		"p{{ 1 + 1 }}{% set x = " + run + " %}{# no #} \"double\" 'single' \\ back\\slash",
		"#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n[% " + run + " %]{{ " + run + " }}",
		"!unsafe {{ " + run + " }}\n--- \n- !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n",
	}
}

// texts are values that some program on the way may take for something else.
func texts() []string {
	return []string{
		"{{", "}}", "{%", "{{ query }}", "{{ omit }}", "{{ vars }}", "{{ ansible_version }}", "%(x)s", "${HOME}", "$(id)", "`id`", "~", "*", "&a", "*a", "|", ">",
		"'", `"`, `\`, `\n`, "''", `""`, " leading", "trailing ", "\ttab\t", "a\nb", "a\r\nb", "\n", "\n\n a\n", "a: b", "a #b", "- a", "? a", "@a", "%a", "`a", "[a", "{a", "a,b",
		"true", "True", "yes", "no", "on", "off", "null", "Null", "None", "NaN", ".inf", "-", "=", "<<", "y", "n",
		"1", "007", "0x1f", "0o17", "1_000", "1.10", "1e3", "-0", "12:30:45", "2026-01-31", "2026-01-31T12:00:00Z", "2001:db8::1", "9007199254740993",
		"ä€😀", "\u2028\u2029\u0085\ufeff", "\u0000\u0001\u001b[31m\u007f", strings.Repeat("long ", 60),
		"__omit_place_holder__", "<class 'type'>", "get_input", "[1, 2]", `{"a": 1}`, "!!python/object/apply:os.system ['id']", "!unsafe x", "AnsibleUnsafeText",
	}
}

// names are keys that mean something to Ansible, Jinja, YAML or TOSCA.
func names() []string {
	return []string{
		"query", "lookup", "q", "inventory_file", "env", "name", "environment", "vars", "omit", "item", "hostvars", "groups", "inventory_hostname", "ansible_host",
		"ansible_connection", "ansible_python_interpreter", "ansible_become", "play_hosts", "hosts", "tasks", "no_log", "register", "when", "playbook_dir", "ib_operation",
		"ib_node", "notification", "self", "range", "dict", "loop", "_", "__ansible_unsafe", "__ansible_vault", "<<", "=", "get_input", "get_attribute", "concat", "1", "true",
		"null", "2026-01-31", "a b", "a.b", "a-b", "{{ a }}", "{{ lookup('env', 'HOME') }}", "ä", "a\nb", "",
	}
}

// hard makes a document with a value in every property that the schema knows: the one that next gives in each that is text. Names
// and texts are all there once in a map and once in a list: reading them is what takes the time.
func hard(t *testing.T, next func() string) map[string]any {
	t.Helper()
	var schema struct {
		Definitions map[string]any `json:"definitions"`
	}
	require.NoError(t, json.Unmarshal(schemas.BuildParams(), &schema))
	odd := []any{nil, true, false, "yes", json.Number("0"), json.Number("-7"), json.Number("3.5"), json.Number("9007199254740993"), "", []any{}, map[string]any{}}
	taken, listed, mapped := 0, false, false
	var fill func(node map[string]any) any
	fill = func(node map[string]any) any {
		if ref, ok := node["$ref"].(string); ok {
			return fill(schema.Definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any))
		}
		switch node["type"] {
		case "string":
			return next()
		case "array":
			list := []any{fill(node["items"].(map[string]any)), fill(node["items"].(map[string]any))}
			if items := node["items"].(map[string]any); items["type"] == "string" && !listed {
				listed = true
				for _, text := range texts() {
					list = append(list, text)
				}
				list = append(list, odd...)
			}
			return list
		case "object":
			filled := map[string]any{}
			properties, _ := node["properties"].(map[string]any)
			for _, name := range slices.Sorted(maps.Keys(properties)) {
				filled[name] = fill(properties[name].(map[string]any))
			}
			if properties == nil {
				filled["template"] = next()
				filled[next()] = "a key"
			}
			if properties == nil && !mapped {
				mapped = true
				for i, name := range names() {
					filled[name] = texts()[i%len(texts())]
				}
				for i, text := range texts() {
					filled[fmt.Sprint("text ", i)] = text
				}
				for i, value := range odd {
					filled[fmt.Sprint("odd ", i)] = value
				}
			}
			return filled
		default: // booleans and numbers, of any kind
			taken++
			return odd[taken%len(odd)]
		}
	}
	document := map[string]any{}
	for _, part := range []string{"source", "target", "options"} {
		document[part] = fill(schema.Definitions[part].(map[string]any))
	}
	for _, input := range []string{"custom_workdir", "owner", "removal", "base_tag"} {
		document[input] = next()
	}
	return document
}

// hardTemplate has a node for each document, with inputs of its own, and one that is built on the last.
func hardTemplate(documents []map[string]any) (template string, inputs map[string]any) {
	var declared, nodes strings.Builder
	inputs = map[string]any{}
	for i, document := range documents {
		kind, base, properties := "imagebuilder.nodes.Image", "", []string{"source", "target", "options", "custom_workdir", "owner", "removal"}
		if i == len(documents)-1 {
			kind, base = "imagebuilder.nodes.DerivedImage", fmt.Sprintf("        - base: node-%d\n", i-1)
			properties = append(properties, "base_tag")
		}
		fmt.Fprintf(&nodes, "    node-%d:\n      type: %s\n      requirements:\n        - host: here\n%s      properties:\n", i, kind, base)
		for _, property := range properties {
			input := fmt.Sprintf("%s_%d", property, i)
			fmt.Fprintf(&declared, "    %s: { type: string }\n", input) // opera does not look at it
			fmt.Fprintf(&nodes, "        %s: { get_input: %s }\n", property, input)
			inputs[input] = document[property]
		}
	}
	return `tosca_definitions_version: tosca_simple_yaml_1_3
imports: [library/image/types.yaml]
topology_template:
  inputs:
` + declared.String() + `  node_templates:
    here:
      type: tosca.nodes.Compute
      attributes: { private_address: localhost, public_address: localhost }
` + nodes.String(), inputs
}

// TestNothingInAnInputIsATemplate: whatever an input holds arrives as it is, in every property, and is never evaluated.
func TestNothingInAnInputIsATemplate(t *testing.T) {
	onEach(t, true, func(t *testing.T, p *project) {
		r := p.record(t)
		ran := filepath.Join(t.TempDir(), "ran")
		values := templates(ran)
		// In the n-th document a property has the value that the property before it had in the last.
		var documents []map[string]any
		for i := range values {
			at := i
			documents = append(documents, hard(t, func() string { at++; return values[at%len(values)] }))
		}
		template, inputs := hardTemplate(documents)
		p.write(t, "hard.yaml", template)
		p.escapedInputs(t, singleInput, inputs)
		p.opera(t, "deploy", "-w", "2", "-i", singleInput, "hard.yaml")
		created := r.requests(t, "create")
		require.Len(t, created, len(documents))
		for i, document := range documents {
			want := pick(document, "source", "target", "options", "custom_workdir", "owner")
			if i == len(documents)-1 {
				want["base_tag"], want["base_target"] = document["base_tag"], documents[i-1]["target"]
			}
			requireSame(t, want, created[fmt.Sprint("node-", i)].Inputs)
			require.Equal(t, p.folder, created[fmt.Sprint("node-", i)].Folder)
		}
		p.opera(t, "undeploy", "-w", "2", "--force")
		deleted := r.requests(t, "delete")
		require.Len(t, deleted, len(documents))
		for i, document := range documents {
			requireSame(t, pick(document, "target", "removal", "owner"), deleted[fmt.Sprint("node-", i)].Inputs)
		}
		_, err := os.Stat(ran)
		require.ErrorIs(t, err, os.ErrNotExist, "a template in an input was evaluated")
	})
}

// TestTheTemplatesWouldRun: those values are dangerous where Ansible evaluates what it is given.
func TestTheTemplatesWouldRun(t *testing.T) {
	t.Parallel()
	p := newProject(t, testbed.Operas(t, false)[0])
	p.write(t, "play.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug: { msg: '{{ value }}' }\n")
	for i := range templates("") {
		ran := filepath.Join(t.TempDir(), "ran")
		p.escapedInputs(t, singleInput, map[string]any{"value": templates(ran)[i]})
		c := p.startCommand(t, filepath.Join(p.version.Bin, "ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", "@"+singleInput, "play.yml")
		require.Zero(t, c.wait(t), c.said())
		require.FileExists(t, ran, c.said())
	}
}

// TestHardValuesInImages: they are in the image that is built.
func TestHardValuesInImages(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		want := map[string]any{}
		for i, text := range append(texts(), templates("/ran")...) {
			if !strings.Contains(text, "\x00") { // which no environment variable and no label can hold
				want[fmt.Sprint("text-", i)] = text
			}
		}
		for _, name := range names() {
			if name != "" && !strings.ContainsAny(name, " \n") { // which we refuse in the name of a label
				want[name] = name
			}
		}
		// An argument that is the empty text would be absent; so the label is what stands around it.
		values := map[string]any{
			"source":  p.repository(t, "app", "FROM busybox\nARG text\nLABEL argument=\"<$text>\"\n"),
			"target":  p.target(p.onBusybox("app", "1")),
			"options": map[string]any{"labels": want, "build_args": map[string]any{"text": templates("/ran")[1]}},
		}
		p.escapedInputs(t, singleInput, values)
		p.opera(t, "deploy", "-i", singleInput, single)
		img, _ := p.served(t, "app:1")
		config, err := img.ConfigFile()
		require.NoError(t, err)
		for name, text := range want {
			require.Equal(t, text, config.Config.Labels[name], name)
		}
		require.Equal(t, "<"+templates("/ran")[1]+">", config.Config.Labels["argument"])
	})
}

// TestFunctionsOfTOSCA: a map with nothing but the name of a TOSCA function in it is a call of that function to opera, in inputs
// too, down to the second level. No library can help that; what must not happen is that something else is built than was meant.
func TestFunctionsOfTOSCA(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		r := p.record(t)
		p.inputs(t, singleInput, map[string]any{
			"source": map[string]any{}, "target": map[string]any{},
			"options": map[string]any{"secrets": map[string]any{"token": "env:API_TOKEN"}},
		})
		require.Contains(t, p.operaFails(t, "deploy", "-i", singleInput, single), "oken", "the function's name")
		require.Empty(t, r.requests(t, "create"))
	})
}

func pick(document map[string]any, names ...string) map[string]any {
	picked := map[string]any{}
	for _, name := range names {
		picked[name] = document[name]
	}
	return picked
}

// requireSame compares as JSON does, with numbers as they are written.
func requireSame(t *testing.T, want, got map[string]any) {
	t.Helper()
	data, err := json.Marshal(want)
	require.NoError(t, err)
	var same map[string]any
	require.NoError(t, decode(data, &same))
	require.Equal(t, same, got)
}
