package imagenode_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/imagenode"
	"imagebuilder/internal/result"
	"imagebuilder/internal/secret"
)

const (
	source   = `"source":{"git_repo":{"url":"https://git.example.com/app.git"}}`
	registry = `"registry":{"url":"registry.example.com"}`
)

// target is a target of images.
func target(images string) string { return `{` + registry + `,"images":[` + images + `]}` }

func operation(name, inputs string) imagenode.Operation {
	return imagenode.Operation{Node: "app", Name: name, Folder: "/deployment", Host: "host", Inputs: json.RawMessage(inputs)}
}

// document is the build_params that a create becomes.
func document(t *testing.T, inputs string) (*buildparams.Document, result.Settings) {
	t.Helper()
	request, err := imagenode.Request(operation(imagenode.Create, inputs))
	require.NoError(t, err)
	require.Equal(t, imagenode.NodeType, request.NodeType)
	require.Equal(t, "create", request.Operation)
	require.Equal(t, "/deployment", request.WorkDir)
	doc, err := buildparams.Decode(request.Inputs, "build_params.json")
	require.NoError(t, err)
	var settings result.Settings
	require.NoError(t, json.Unmarshal(request.Settings, &settings))
	return doc, settings
}

func TestAbsent(t *testing.T) {
	t.Parallel()
	for _, nothing := range []string{`null`, `""`, `{}`, `[]`, ` [ ] `} {
		doc, settings := document(t, strings.ReplaceAll(`{`+source+`,"target":`+target(`{"image":"app","tag":"1","labels":@,"platforms":@,"base":@}`)+
			`,"options":{"cache":@,"build_args":{"EMPTY":""}},"custom_workdir":@,"owner":@,"base_target":@,"base_tag":@,"base_ref":@,"base_images":@}`, "@", nothing))
		require.Empty(t, doc.Target.Images[0].Base)
		require.Equal(t, []string{"linux/amd64"}, doc.Target.Images[0].Platforms)
		require.Equal(t, map[string]string{"EMPTY": ""}, doc.Options.BuildArgs, "an empty text that the user gave is a value")
		require.Empty(t, settings.WorkFolder)
		require.False(t, settings.Force)
	}
}

// TestBytes: what the user wrote arrives as it was written, whatever it looks like.
func TestBytes(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"{{ lookup('pipe', 'id') }}", "a\nb", `"'`, "naïve ☃ \U0001f600", "<&>\u2028", "{}", "null", "3.10", "env:X", " "} {
		quoted, err := json.Marshal(value)
		require.NoError(t, err)
		doc, _ := document(t, `{`+source+`,"target":`+target(`{"image":"app","tag":"1"}`)+`,"options":{"build_args":{"A":`+string(quoted)+`}}}`)
		require.Equal(t, value, doc.Options.BuildArgs["A"])
	}
	doc, _ := document(t, `{"source":{"git_repo":{"url":"https://git.example.com/app.git","username":"me","password":"literal"}},"target":`+
		`{"registry":{"url":"registry.example.com","username":"me","password":"env:PASSWORD"},"images":[{"image":"app","tag":"1"}]},"options":{"secrets":{"token":"file:t"}}}`)
	require.Equal(t, "env:PASSWORD", doc.Target.Registry.Password.Reference())
	require.Equal(t, "file:t", doc.Options.Secrets["token"].Reference())
	revealed, err := secret.Resolver{}.Reveal(doc.Source.GitRepo.Password)
	require.NoError(t, err)
	require.Equal(t, "literal", revealed)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	op := operation(imagenode.Rebuild, `{`+source+`,"target":`+target(`{"image":"app","tag":"1"}`)+`,"custom_workdir":"work"}`)
	op.Settings = json.RawMessage(`{"engine":"managed","idle_seconds":3,"registries":{"a":{"ca":"x"}}}`)
	request, err := imagenode.Request(op)
	require.NoError(t, err)
	require.Equal(t, "create", request.Operation)
	var settings result.Settings
	require.NoError(t, json.Unmarshal(request.Settings, &settings))
	require.Equal(t, result.Settings{
		Engine: "managed", IdleSeconds: 3, Registries: map[string]result.RegistrySettings{"a": {CA: "x"}},
		Force: true, WorkFolder: "/deployment/work", Owner: imagenode.Owner("app", "host", "/deployment"),
	}, settings)
}

// TestOwner: one for each node of each deployment, the same for all operations and by every way to the folder.
func TestOwner(t *testing.T) {
	t.Parallel()
	real := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(real, link))
	images := target(`{"image":"app","tag":"1"}`)
	owner := func(change func(*imagenode.Operation)) string {
		op := operation(imagenode.Delete, `{"target":`+images+`}`)
		op.Folder = real
		change(&op)
		request, err := imagenode.Request(op)
		require.NoError(t, err)
		var settings result.Settings
		require.NoError(t, json.Unmarshal(request.Settings, &settings))
		require.Regexp(t, `^[0-9a-f]{32}$`, settings.Owner)
		return settings.Owner
	}
	usual := owner(func(*imagenode.Operation) {})
	for name, change := range map[string]func(*imagenode.Operation){
		"by a link":         func(op *imagenode.Operation) { op.Folder = link },
		"not clean":         func(op *imagenode.Operation) { op.Folder = real + "/./" },
		"another operation": func(op *imagenode.Operation) { op.Name = imagenode.Verify },
		"create": func(op *imagenode.Operation) {
			op.Name, op.Inputs = imagenode.Create, json.RawMessage(`{`+source+`,"target":`+images+`}`)
		},
	} {
		require.Equal(t, usual, owner(change), name)
	}
	seen := map[string]string{usual: "usual"}
	for name, change := range map[string]func(*imagenode.Operation){
		"another node":   func(op *imagenode.Operation) { op.Node = "other" },
		"another folder": func(op *imagenode.Operation) { op.Folder = "/other" },
		"another host":   func(op *imagenode.Operation) { op.Host = "other" },
		"this host":      func(op *imagenode.Operation) { op.Host = "" },
		"a deployment": func(op *imagenode.Operation) {
			op.Inputs = json.RawMessage(`{"owner":"host","target":` + images + `}`)
		},
	} {
		other := owner(change)
		require.Empty(t, seen[other], name)
		seen[other] = name
	}
}

// TestBase: which image of the base node goes under which of ours.
func TestBase(t *testing.T) {
	t.Parallel()
	const two = `"base_target":{"registry":{"url":"http://bases.example.com:5000"},"images":[{"image":"base","tag":"a"},{"image":"base","tag":"b"}]}`
	const one = `"base_target":{"registry":{"url":"registry.example.com"},"images":[{"image":"base","tag":"a"}]}`
	const pinned = "registry.example.com/base@sha256:5ae9ba98cb7c00160813663a267eaf84b019543931f5cb3c2ff8b5a0ac82b679"
	ours := target(`{"image":"app","tag":"a"},{"image":"app","tag":"b"},{"image":"app","tag":"c","base":"mine:1"}`)
	for name, c := range map[string]struct {
		inputs string
		bases  []string
	}{
		"none":                {`"owner":""`, []string{"", "", "mine:1"}},
		"one":                 {one, []string{"registry.example.com/base:a", "registry.example.com/base:a", "mine:1"}},
		"by our tag":          {two, []string{"bases.example.com:5000/base:a", "bases.example.com:5000/base:b", "mine:1"}},
		"by base_tag":         {two + `,"base_tag":"b"`, []string{"bases.example.com:5000/base:b", "bases.example.com:5000/base:b", "mine:1"}},
		"pinned":              {`"base_ref":"` + pinned + `"`, []string{pinned, pinned, "mine:1"}},
		"pinned, and the tag": {two + `,"base_ref":"` + pinned + `"`, []string{pinned, pinned, "mine:1"}},
		"pinned one by one": {two + `,"base_images":[{"ref":"bases.example.com:5000/base:b","pinned_ref":"` + pinned + `","digest":""}]`,
			[]string{"bases.example.com:5000/base:a", pinned, "mine:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, settings := document(t, `{`+source+`,"target":`+ours+`,`+c.inputs+`}`)
			var bases []string
			for _, image := range doc.Target.Images {
				bases = append(bases, image.Base)
			}
			require.Equal(t, c.bases, bases)
			if strings.Contains(c.inputs, "http://") {
				require.True(t, settings.Registries["bases.example.com:5000"].PlainHTTP)
			} else {
				require.Empty(t, settings.Registries)
			}
		})
	}
	for inputs, want := range map[string]string{
		two: "/target/images/2: which image it stands on is not clear: none of the base's images have the tag c " +
			"(choose one with base_tag; the base has bases.example.com:5000/base:a, bases.example.com:5000/base:b)",
		two + `,"base_tag":"x"`: "/base_tag: none of the base's images have the tag x (the base has bases.example.com:5000/base:a, bases.example.com:5000/base:b)",
		one + `,"base_tag":"x"`: "/base_tag: none of the base's images have the tag x (the base has registry.example.com/base:a)",
		`"base_tag":"x"`:        "/base_tag: there is no base that it could be a tag of",
		`"base_ref":"??"`:       `/base_ref: "??" is not an image reference`,
		`"base_target":{"registry":{"url":"x y"},"images":[{"image":"base","tag":"a"}]}`: "/base_target/registry/url: ",
		`"base_images":7`: "/base_images: is not the attribute images of an image node",
		strings.ReplaceAll(two, `"tag":"b"`, `"tag":"c"},{"image":"other","tag":"c"`): "/target/images/2: which image it stands on is not clear: 2 of the base's images have the tag c",
	} {
		_, err := imagenode.Request(operation(imagenode.Create, `{`+source+`,"target":`+target(`{"image":"app","tag":"a"},{"image":"app","tag":"a2","base":"mine"},{"image":"app","tag":"c"}`)+`,`+inputs+`}`))
		require.Equal(t, fault.Invalid, fault.KindOf(err), inputs)
		require.ErrorContains(t, err, "\n  "+want)
	}
}

// TestProblems: everything that is wrong, at once, with pointers into the inputs.
func TestProblems(t *testing.T) {
	t.Parallel()
	for inputs, want := range map[string][]string{
		`[1]`: {"the inputs are not a JSON object"},
		``:    {"/source: is missing", "/target: is missing"},
		`{"target":` + target(`{"image":"app"}`) + `,"a/b":1,"owner":2,"custom_workdir":{"a":1}}`: {
			"/a~1b: there is no such input", "/custom_workdir: is not a string", "/owner: is not a string", "/source: is missing",
		},
		`{"source":{"git_repo":{"url":3}},"target":` + target(`{"image":"app"}`) + `,"options":{"no":1}}`: {
			"/options/no: there is no such field", "/source/git_repo/url: 3 is a number, not a string", "/target/images/0/tag: is missing",
		},
		`{"source":{"get_input":"source"},"target":{"registry":{"get_property":["SELF","r"]},"images":[{"image":{"concat":["a","b"]},"tag":"1"}]}}`: {
			"/source: get_input stands here unevaluated", "/target/images/0/image: concat stands here unevaluated", "/target/registry: get_property stands here unevaluated",
		},
		`{` + source + `,"target":` + target(`{"image":"app","tag":"1"}`) + `,"options":{"build_args":{"A":{"get_input":"x"}}}}`: {
			"/options/build_args/A: get_input stands here unevaluated",
		},
	} {
		_, err := imagenode.Request(operation(imagenode.Create, inputs))
		require.Equal(t, fault.Invalid, fault.KindOf(err), inputs)
		var got []string
		for _, p := range fault.As(err).Problems {
			got = append(got, p.String())
		}
		require.Len(t, got, len(want), "%s", got)
		for i := range want {
			require.True(t, strings.HasPrefix(got[i], want[i]), "%s\n%s", got[i], want[i])
		}
	}
	// A map of the user's own may have such names.
	document(t, `{`+source+`,"target":`+target(`{"image":"app","tag":"1"}`)+`,"options":{"build_args":{"token":"x"}}}`)

	for _, op := range []imagenode.Operation{
		operation("explode", `{}`), {Name: imagenode.Delete, Folder: "/a"}, {Name: imagenode.Delete, Node: "a", Folder: "a"},
		{Name: imagenode.Delete, Node: "a", Folder: "/a", NodeType: "tosca.nodes.Root"},
		operation(imagenode.Delete, `{"target":`+target(`{"image":"app","tag":"1"}`)+`,"removal":"maybe"}`),
		operation(imagenode.Delete, `{"target":`+target(`{"image":"app","tag":"1"}`)+`,"source":{"a":1}}`),
		operation(imagenode.Verify, `{"target":`+target(`{"image":"app","tag":"1"}`)+`,"removal":"keep"}`),
		operation(imagenode.Verify, `{"target":`+target(`{"image":"app","tag":""}`)+`}`),
	} {
		_, err := imagenode.Request(op)
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v: %v", op, err)
	}
}

func TestDeleteAndVerify(t *testing.T) {
	t.Parallel()
	images := target(`{"image":"app","tag":"1"}`)
	for name, want := range map[string]string{
		imagenode.Delete: `{"target":` + images + `,"removal":"delete"}`,
		imagenode.Verify: `{"target":` + images + `}`,
	} {
		request, err := imagenode.Request(operation(name, `{"target":`+images+`,"owner":null}`))
		require.NoError(t, err)
		require.Equal(t, name, request.Operation)
		require.JSONEq(t, want, string(request.Inputs))
	}
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	raw := json.RawMessage(`{"images":[
		{"ref":"r/a:1","digest":"sha256:1","pinned_ref":"r/a@sha256:1","platforms":[{"platform":"linux/amd64","digest":"sha256:2","size":3},{"platform":"linux/386","digest":"sha256:3","size":4}]},
		{"ref":"r/a:2","digest":"sha256:4","pinned_ref":"r/a@sha256:4","platforms":[],"unchanged":true}],"source":{"commit":"abc"}}`)
	op := operation(imagenode.Create, "")
	attributes, err := imagenode.Attributes(op, raw)
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"images": []any{
			map[string]any{"ref": "r/a:1", "digest": "sha256:1", "pinned_ref": "r/a@sha256:1", "platforms": []any{"linux/amd64", "linux/386"}, "size": int64(7), "unchanged": false},
			map[string]any{"ref": "r/a:2", "digest": "sha256:4", "pinned_ref": "r/a@sha256:4", "platforms": []any{}, "size": int64(0), "unchanged": true},
		},
		"image_refs": []any{"r/a:1", "r/a:2"}, "image_ref": "r/a@sha256:1", "image_digest": "sha256:1", "source_revision": "abc", "build_log": "",
	}, attributes)
	require.Equal(t, []string{"r/a:2: unchanged"}, imagenode.Notes(op, raw))
	_, err = imagenode.Attributes(op, json.RawMessage(`[]`))
	require.Equal(t, fault.Internal, fault.KindOf(err))

	op.Name = imagenode.Delete
	attributes, err = imagenode.Attributes(op, json.RawMessage(`{}`))
	require.NoError(t, err)
	require.Empty(t, attributes)
	require.Equal(t, []string{"r/a:1: removed", "r/a:2: was gone already"},
		imagenode.Notes(op, json.RawMessage(`{"tags":[{"ref":"r/a:1","removed":true},{"ref":"r/a:2","kept":"was gone already"},{"ref":"r/a:3"}]}`)))
}

// FuzzRequest: whatever the inputs are, they become a request that the plugin takes, or an error that blames them.
func FuzzRequest(f *testing.F) {
	f.Add(`{` + source + `,"target":` + target(`{"image":"app","tag":"1"}`) + `,"base_ref":"a@sha256:0","custom_workdir":"w","owner":"o"}`)
	f.Add(`{"source":{"get_input":"x"},"target":{"images":[{"concat":[]},{}]},"base_target":{"registry":{"url":"r:1"},"images":[{"image":"b","tag":"1"}]},"base_tag":"1"}`)
	f.Add(`{"target":` + target(`{"image":"app","tag":"1"}`) + `,"removal":"keep"}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, inputs string) {
		for _, name := range imagenode.Operations() {
			request, err := imagenode.Request(operation(name, inputs))
			if err != nil {
				require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
				continue
			}
			require.True(t, json.Valid(request.Inputs))
			if request.Operation == imagenode.Create {
				_, err := buildparams.Decode(request.Inputs, "build_params.json")
				require.NoError(t, err)
			}
		}
	})
}
