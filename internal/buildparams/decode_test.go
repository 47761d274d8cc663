package buildparams_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"

	"imagebuilder/internal/buildparams"
	"imagebuilder/schemas"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	doc, err := buildparams.Decode(example(t, "json/git.json"), "git.json")
	require.NoError(t, err)
	require.Equal(t, "HEAD", doc.Source.GitRepo.Version)
	require.Equal(t, "Dockerfile", doc.Source.GitRepo.Dockerfile)
	require.Equal(t, ".", doc.Source.GitRepo.Workdir)
	require.Equal(t, []string{"linux/amd64"}, doc.Target.Images[0].Platforms)

	doc, err = buildparams.Decode(example(t, "json/dockerfile_build_context.json"), "")
	require.NoError(t, err)
	require.Equal(t, "HEAD", doc.Source.BuildContext.Version)
	require.Equal(t, ".", doc.Source.BuildContext.Subdir)

	doc, err = buildparams.Decode(example(t, "annotated/local-context.yaml"), "")
	require.NoError(t, err)
	require.Equal(t, "", doc.Source.BuildContext.Version, "a folder has none")

	// The defaults that the schema tells its readers are those that are filled in.
	var schema struct {
		Definitions map[string]struct {
			Properties map[string]struct{ Default any }
		}
	}
	require.NoError(t, json.Unmarshal(schemas.BuildParams(), &schema))
	told := map[string]any{}
	for name, definition := range schema.Definitions {
		for field, property := range definition.Properties {
			if property.Default != nil {
				told[name+"."+field] = property.Default
			}
		}
	}
	require.Equal(t, map[string]any{
		"git_repo.version": "HEAD", "git_repo.dockerfile": "Dockerfile", "git_repo.workdir": ".", "build_context.version": "HEAD", "build_context.subdir": ".",
		"image.platforms": []any{"linux/amd64"}, "registry.insecure": false, "options.no_cache": false,
	}, told)
}

// TestGoodDocuments are documents at the edge of what is allowed.
func TestGoodDocuments(t *testing.T) {
	t.Parallel()
	document := func(source, registry, image, rest string) string {
		return "source: {" + source + "}\ntarget:\n  registry: {" + registry + "}\n  images: [{image: shop/web, tag: v1" + image + "}]\n" + rest
	}
	const git, registry = "git_repo: {url: 'https://git.example.com/a.git'}", "url: registry.example.com"
	for name, text := range map[string]string{
		"absent fields":       document("git_repo: {url: 'https://git.example.com/a.git', version: null, username: '', password: , dockerfile: ~}, dockerfile: null, build_context: ''", registry+", insecure: null, ca_cert: ''", ", base: '', bases: null, platforms: null, stage: ''", "options: null\n"),
		"absent options":      document(git, registry, "", "options: {build_args: null, secrets: {a: null, b: ''}, no_cache: null, timeout: ''}\n"),
		"no options":          document(git, registry, "", "options: {}\n"),
		"ssh":                 document("git_repo: {url: 'ssh://git@git.example.com:2222/a.git', password: 'file:key'}", registry, "", ""),
		"short ssh":           document("git_repo: {url: 'git@git.example.com:shop/web.git'}", registry, "", ""),
		"file":                document("git_repo: {url: 'file:///srv/git/a.git', workdir: ./a/../b/, dockerfile: ./D}", registry, "", ""),
		"credentials":         document("git_repo: {url: 'https://git.example.com/a.git', username: 'me@example.com', password: 'p@ss:w/rd {{x}}'}", registry+", username: 'a b', password: env:X", "", ""),
		"versions":            document("git_repo: {url: 'https://git.example.com/a.git', version: refs/heads/feature/a+b}", registry, "", ""),
		"Dockerfile query":    document("dockerfile: {url: 'https://files.example.com/raw/D?ref=main'}", registry, "", ""),
		"local Dockerfile":    document("dockerfile: {url: 'file:///srv/D'}, build_context: {path: ../site, subdir: a}", registry, "", ""),
		"bases":               document(git, registry, ", base: 'localhost:5000/alpine:3@sha256:"+strings.Repeat("a", 64)+"', bases: {alpine: my/alpine:1, 'golang:1.13': golang:1.22}", ""),
		"label like a base":   document(git, registry, "", "options:\n  labels:\n    golang:1.13: golang:1.22\n"),
		"platforms":           document(git, registry, ", platforms: [Linux/AMD64, linux/arm64, linux/armhf, linux/riscv64, windows/amd64, linux/amd64/v3]", ""),
		"arguments":           document(git, registry, ", build_args: {A: '', _b1: \"two\\nlines\"}, labels: {a.b/c: '', ü: é}, stage: '0'", ""),
		"secrets":             document(git, registry, "", "options: {secrets: {npm/rc: \"two\\nlines\", '.x': 'file:~/x'}, timeout: 1h30m0.5s}\n"),
		"same name, two tags": "source: {" + git + "}\ntarget: {registry: {" + registry + "}, images: [{image: a, tag: b}, {image: a, tag: B}]}\n",
		"anchors":             "source: {" + git + "}\ntarget:\n  registry: {" + registry + "}\n  images:\n  - &first {image: a, tag: b, platforms: [linux/arm64]}\n  - {<<: *first, tag: c}\n",
		"Windows text":        strings.ReplaceAll("\ufeff"+document(git, registry, "", ""), "\n", "\r\n"),
	} {
		doc, err := buildparams.Decode([]byte(text), name+".yaml")
		require.NoError(t, err, "%s\n%s", name, text)
		for format, file := range map[buildparams.Format]string{buildparams.JSON: "x.json", buildparams.YAML: "x.yaml"} {
			converted, err := buildparams.Convert([]byte(text), name+".yaml", format)
			require.NoError(t, err, name)
			again, err := buildparams.Decode(converted, file)
			require.NoError(t, err, "%s\n%s", name, converted)
			require.Equal(t, doc, again, name)
		}
	}
}

func TestPlatformsAreNormal(t *testing.T) {
	t.Parallel()
	doc, err := buildparams.DecodeWith(example(t, "json/git.json"), "", []string{
		`target.images[0].platforms=["Linux/x86_64","linux/aarch64","linux/armhf","linux/arm/6","linux/i386"]`,
	})
	require.NoError(t, err)
	require.Equal(t, []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/386"}, doc.Target.Images[0].Platforms)
}

// TestAnnotatedExamples makes sure that they begin with the line that lists them, are valid, use what they show, and that
// all that has to be changed to build them elsewhere is a URL, a registry or a base.
func TestAnnotatedExamples(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(schemas.Examples(), "annotated/*")
	require.NoError(t, err)
	var names []string
	documents := map[string]*buildparams.Document{}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".yaml")
		data := example(t, file)
		first, _, _ := strings.Cut(string(data), "\n")
		require.Regexp(t, `^# [A-Z][^\n]{20,100}[^.]$`, first, name)
		names = append(names, name)
		doc, err := buildparams.Decode(data, file)
		require.NoError(t, err, name)
		documents[name] = doc
		for i := range doc.Target.Images {
			require.NotContains(t, doc.Ref(i), "docker.io")
		}
	}
	require.Equal(t, []string{"build-context", "dockerfile", "git", "local-context", "platforms", "private-registry", "stages-and-args", "variants"}, names)
	require.Equal(t, "./site", documents["local-context"].Source.BuildContext.Path)
	require.Len(t, documents["platforms"].Target.Images[0].Platforms, 7)
	stages := documents["stages-and-args"]
	require.Equal(t, "env:API_TOKEN", stages.Options.Secrets["api_token"].Reference())
	require.Equal(t, buildparams.Duration(30*time.Minute), stages.Options.Timeout)
	require.Equal(t, "page", stages.Target.Images[1].Stage)
	private := documents["private-registry"].Target.Registry
	require.Equal(t, "env:REGISTRY_TOKEN", private.Password.Reference())
	require.True(t, strings.HasPrefix(private.CACert, "file:"))
}

// TestSchemaAloneRefuses holds for readers that have only the schema: what goes together and what does not is in it too.
func TestSchemaAloneRefuses(t *testing.T) {
	t.Parallel()
	schema, err := gojsonschema.NewSchema(gojsonschema.NewBytesLoader(schemas.BuildParams()))
	require.NoError(t, err)
	for source, valid := range map[string]bool{
		`{"git_repo":{"url":"a"}}`:                                true,
		`{"dockerfile":{"url":"a"}}`:                              true,
		`{"dockerfile":{"url":"a"},"build_context":{"url":"b"}}`:  true,
		`{"dockerfile":{"url":"a"},"build_context":{"path":"b"}}`: true,
		`{}`: false,
		`{"git_repo":{"url":"a"},"dockerfile":{"url":"a"}}`:                             false,
		`{"git_repo":{"url":"a"},"build_context":{"url":"b"}}`:                          false,
		`{"git_repo":{"url":"a"},"dockerfile":{"url":"a"},"build_context":{"url":"b"}}`: false,
		`{"build_context":{"url":"b"}}`:                                                 false,
		`{"dockerfile":{"url":"a"},"build_context":{}}`:                                 false,
		`{"dockerfile":{"url":"a"},"build_context":{"path":"b","url":"c"}}`:             false,
		`{"git_repo":{"url":"a"},"tar":{}}`:                                             false,
	} {
		text := fmt.Sprintf(`{"source":%s,"target":{"registry":{"url":"a.b"},"images":[{"image":"a","tag":"b"}]}}`, source)
		result, err := schema.Validate(gojsonschema.NewStringLoader(text))
		require.NoError(t, err)
		require.Equal(t, valid, result.Valid(), source)
	}
}
