package opera_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// puccini has Puccini, which takes TOSCA by its word, look at a template with inputs. Only with constraints does it look at
// those, and evaluates functions too; it does that wrong for a node that is built on another, as it looks for an attribute of
// a requirement's target in the relationship, and dies of its own error message.
func puccini(t *testing.T, constraints bool, inputs, template string) (said string, code int) {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	program := filepath.Join(root, ".work", "tools", "puccini-tosca")
	args := []string{"validate", "--colorize=false", "--inputs", inputs, template}
	if !constraints {
		args = append(args, "--coerce=false")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	out, err := cmd.CombinedOutput()
	require.NotNil(t, cmd.ProcessState, "%v; scripts/setup.sh puccini makes it", err)
	return string(out), cmd.ProcessState.ExitCode()
}

// TestPucciniAccepts: our templates are valid TOSCA, with the inputs that stand beside them, and with every document of
// build_params that comes with image-builder.
func TestPucciniAccepts(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	type pair struct {
		inputs, template string
		constraints      bool
	}
	folder := filepath.Join(root, "tosca")
	plain := filepath.Join(folder, single)
	pairs := []pair{
		{filepath.Join(folder, "inputs.yaml"), plain, true},
		{filepath.Join(folder, "inputs_graph.yaml"), filepath.Join(folder, "image_graph.yaml"), false},
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	require.NoError(t, err)
	for _, file := range files {
		require.True(t, slices.ContainsFunc(pairs, func(p pair) bool { return file == p.inputs || file == p.template }), "%s is not tested", file)
	}
	examples, err := filepath.Glob(filepath.Join(root, "schemas", "examples", "*", "*.[yj]*"))
	require.NoError(t, err)
	require.NotEmpty(t, examples)
	for _, example := range examples {
		pairs = append(pairs, pair{example, plain, true})
	}
	used := newFolder(t)
	original, err := os.ReadFile(filepath.Join("testdata", "original.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(used, "original.yaml"), original, 0o600))
	pairs = append(pairs, pair{pairs[0].inputs, filepath.Join(used, "original.yaml"), true})
	archive := filepath.Join(used, "image-builder.csar")
	require.NoError(t, os.WriteFile(archive, ours(t), 0o600))
	pairs = append(pairs, pair{pairs[0].inputs, archive, true})
	for _, p := range pairs {
		t.Run(filepath.Base(p.template)+" "+filepath.Base(p.inputs), func(t *testing.T) {
			t.Parallel()
			said, code := puccini(t, false, p.inputs, p.template)
			require.Zero(t, code, said)
			if p.constraints {
				said, code = puccini(t, true, p.inputs, p.template)
				require.Zero(t, code, said)
			}
			require.Equal(t, "valid", strings.TrimSpace(said))
		})
	}
}

// newFolder is a folder with the library in it.
func newFolder(t *testing.T) string {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(folder, "library")))
	return folder
}

// wrongInput is an input that is not as the types say.
type wrongInput struct {
	name    string
	at      []any  // where in the document: names and indices
	value   any    // what stands there; gone takes it away
	puccini string // what Puccini says; "" where TOSCA cannot say what is wrong, and for constraints in a list, where it does not look
	pointer string // what image-builder points to
}

type absent struct{}

func wrongInputs() []wrongInput {
	gone := absent{}
	return []wrongInput{
		{"a number for a URL", []any{"source", "git_repo", "url"}, 42, `["git_repo"]["url"]: "integer" instead of "string"`, "/source/git_repo/url"},
		{"a number for a tag", []any{"target", "images", 0, "tag"}, 3.1, `["tag"]: "float" instead of "string"`, "/target/images/0/tag"},
		{"a text for a boolean", []any{"target", "registry", "insecure"}, "yes", `["insecure"]: "string" instead of "boolean"`, "/target/registry/insecure"},
		{"a text for a number", []any{"options", "compression_level"}, "3", `"string" instead of "integer"`, "/options/compression_level"},
		{"a text for a list", []any{"target", "images", 0, "platforms"}, "linux/amd64", `["platforms"]: "string" instead of "list"`, "/target/images/0/platforms"},
		{"a map for a list", []any{"target", "images"}, map[string]any{"image": "a", "tag": "b"}, `["images"]: "map" instead of "list"`, "/target/images"},
		{"a list for a map", []any{"options", "build_args"}, []any{"A=1"}, `["build_args"]: "list" instead of "map"`, "/options/build_args"},
		{"a number in a map of texts", []any{"options", "labels"}, map[string]any{"a": 1}, `"integer" instead of "string"`, "/options/labels/a"},
		{"a text for an object", []any{"source", "git_repo"}, "https://git.example.com/a.git", `["git_repo"]: "string" instead of`, "/source/git_repo"},
		{"no registry", []any{"target", "registry"}, gone, `["registry"]: unassigned required property`, "/target/registry"},
		{"no URL", []any{"source", "git_repo", "url"}, gone, `["url"]: unassigned required property`, "/source/git_repo/url"},
		{"no tag", []any{"target", "images", 1, "tag"}, gone, `["images"][1]["tag"]: unassigned required property`, "/target/images/1/tag"},
		{"no target", []any{"target"}, gone, `["target"]`, "/target"},
		{"an unknown property", []any{"source", "git_repo", "branch"}, "main", `["branch"]: undeclared property`, "/source/git_repo/branch"},
		{"an unknown property of an image", []any{"target", "images", 0, "platform"}, "linux/amd64", `["platform"]: undeclared property`, "/target/images/0/platform"},
		{"an unknown compression", []any{"options", "compression"}, "brotli", `valid_values("brotli","gzip","zstd")`, "/options/compression"},
		{"an unknown mode", []any{"options", "cache"}, map[string]any{"mode": "always"}, `valid_values("always","registry","inline","off")`, "/options/cache/mode"},
		{"an empty URL", []any{"source", "git_repo", "url"}, "", `min_length("",1)`, "/source/git_repo/url"},
		{"no image", []any{"target", "images"}, []any{}, `min_length(`, "/target/images"},
		{"a tag with a space", []any{"target", "images", 0, "tag"}, "la test", "", "/target/images/0/tag"},
		{"a time without a unit", []any{"options", "timeout"}, "30", `pattern("30"`, "/options/timeout"},
		{"too high a level", []any{"options", "compression_level"}, 99, `less_or_equal(99,22)`, "/options/compression_level"},
		{"two sources", []any{"source", "dockerfile"}, map[string]any{"url": "https://example.com/Dockerfile"}, "", "/source"},
		{"a name in upper case", []any{"target", "images", 0, "image"}, "Team/App", "", "/target/images/0/image"},
		{"a branch with two dots", []any{"source", "git_repo", "version"}, "a..b", "", "/source/git_repo/version"},
	}
}

// document is a right document with the wrong input in it.
func (w wrongInput) document() map[string]any {
	document := map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": "https://git.example.com/a.git", "version": "main"}},
		"target": map[string]any{"registry": map[string]any{"url": "registry.example.com"}, "images": []any{
			map[string]any{"image": "a", "tag": "1"}, map[string]any{"image": "a", "tag": "2"},
		}},
		"options": map[string]any{"no_cache": true},
	}
	var place any = document
	for _, step := range w.at[:len(w.at)-1] {
		if i, ok := step.(int); ok {
			place = place.([]any)[i]
		} else {
			place = place.(map[string]any)[step.(string)]
		}
	}
	last, in := w.at[len(w.at)-1].(string), place.(map[string]any)
	if _, ok := w.value.(absent); ok {
		delete(in, last)
	} else {
		in[last] = w.value
	}
	return document
}

// TestWrongInputs: Puccini refuses what is wrong, as far as TOSCA can say it; image-builder refuses all of it, as the
// executable that the playbook calls and as the plugin.
func TestWrongInputs(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	client, err := plugin.Start(t.Context(), filepath.Join(bin, "image-builder-plugin"), plugin.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	for _, w := range wrongInputs() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			document, err := json.Marshal(w.document())
			require.NoError(t, err)

			inputs := filepath.Join(t.TempDir(), "inputs.yaml")
			require.NoError(t, os.WriteFile(inputs, document, 0o600))
			said, code := puccini(t, true, inputs, filepath.Join(root, "tosca", single))
			if w.puccini == "" {
				require.Zero(t, code, said)
			} else {
				require.NotZero(t, code)
				require.Contains(t, said, w.puccini)
			}

			said, code = lifecycle(t, "create", request{Node: "image-builder", Folder: t.TempDir(), Inputs: w.document()})
			require.Equal(t, fault.ExitInvalid, code, said)
			require.Contains(t, said, "\n  "+w.pointer+": ")

			_, err = client.Execute(t.Context(), plugin.Request{
				NodeType: "imagebuilder.nodes.Image", Operation: "create", WorkDir: t.TempDir(), Inputs: document,
			}, func(plugin.Event) {})
			var refused *fault.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, fault.Invalid, refused.Kind, err)
			require.True(t, slices.ContainsFunc(refused.Problems, func(p fault.Problem) bool { return p.Pointer == w.pointer }), "%v", refused.Problems)
		})
	}
}

// lifecycle runs the executable as the playbook does, and gives what it says on standard error.
func lifecycle(t *testing.T, operation string, r request) (said string, code int) {
	t.Helper()
	stdin, err := json.Marshal(map[string]any{"node": r.Node, "folder": r.Folder, "inputs": r.Inputs})
	require.NoError(t, err)
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "image-builder"), "lifecycle", operation)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &out
	err = cmd.Run()
	require.NotNil(t, cmd.ProcessState, err)
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestOperaLetsWrongInputsThrough, which is why there is all that: what it is given arrives; with image-builder behind it, the
// deployment fails, with what is wrong on the terminal, and nothing is built.
func TestOperaLetsWrongInputsThrough(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		wrong := slices.DeleteFunc(wrongInputs(), func(w wrongInput) bool { return w.name != "a number for a tag" && w.name != "an unknown property" })
		require.Len(t, wrong, 2)
		for _, w := range wrong {
			p.inputs(t, singleInput, w.document())
			said := p.operaFails(t, "deploy", "--clean-state", "--force", "-i", singleInput, single)
			require.Contains(t, said, w.pointer+": ")
		}
		r := p.record(t)
		p.opera(t, "deploy", "--clean-state", "--force", "-i", singleInput, single)
		requireSame(t, wrong[1].document()["source"].(map[string]any), r.requests(t, "create")["image-builder"].Inputs["source"].(map[string]any))
	})
}
