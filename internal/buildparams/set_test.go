package buildparams_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

func TestSet(t *testing.T) {
	t.Parallel()
	base := example(t, "json/git.json")
	decode := func(sets ...string) *buildparams.Document {
		t.Helper()
		doc, err := buildparams.DecodeWith(base, "git.json", sets)
		require.NoError(t, err, "%q", sets)
		return doc
	}

	require.Equal(t, "v2", decode("target.images[0].tag=v2").Target.Images[0].Tag)
	require.Equal(t, "3.10", decode("target.images[0].tag=3.10").Target.Images[0].Tag, "text stays text")
	require.Equal(t, "a=b", decode("options.build_args.X=a=b").Options.BuildArgs["X"])
	require.Equal(t, map[string]string{"X": ""}, decode("options.build_args.X=").Options.BuildArgs)
	require.Equal(t, "", decode("target.registry.username=", "target.registry.password=").Target.Registry.Username)
	require.Equal(t, "web", decode(`options.labels.org\.example\.team=web`).Options.Labels["org.example.team"])
	require.Equal(t, "y", decode(`options.labels.a\=b=y`).Options.Labels["a=b"])
	require.Equal(t, "y", decode(`options.labels.a\[0]=y`).Options.Labels["a[0]"])
	require.True(t, decode("options.no_cache=true").Options.NoCache)
	require.Equal(t, 7, decode("options.compression_level=7").Options.CompressionLevel)
	require.Equal(t, "30s", decode("options.timeout=30s").Options.Timeout.String())
	require.Equal(t, []string{"linux/arm64", "linux/arm/v7"}, decode(`target.images[0].platforms=["linux/arm64/v8","linux/arm"]`).Target.Images[0].Platforms)
	require.Equal(t, []string{"linux/s390x"}, decode("target.images[0].platforms[0]=linux/s390x").Target.Images[0].Platforms)
	require.Equal(t, map[string]string{"A": "1", "B": "2"}, decode(`options.build_args={"A":"1"}`, "options.build_args.B=2").Options.BuildArgs)
	require.Equal(t, secret.New("env:TOKEN"), decode("options.secrets.id=env:TOKEN").Options.Secrets["id"])

	doc := decode("target.images[1].image=shop/other", "target.images[1].tag=v1", "target.images[1].base=alpine")
	require.Len(t, doc.Target.Images, 2)
	require.Equal(t, "docker.io/shop/other:v1", doc.Ref(1))

	doc = decode("source.git_repo=", "source.dockerfile.url=file:///srv/Dockerfile", "source.build_context.path=.")
	require.Nil(t, doc.Source.GitRepo)
	require.Equal(t, "file:///srv/Dockerfile", doc.Source.Dockerfile.URL)

	yaml, err := buildparams.DecodeWith([]byte("source: {git_repo: {url: 'https://h.example.com/a'}}\ntarget:\n  registry: null\n  images:\n"), "", []string{
		"target.registry.url=localhost:5000", "target.images[0].image=a", "target.images[0].tag=b",
	})
	require.NoError(t, err)
	require.Equal(t, "localhost:5000/a:b", yaml.Ref(0))
}

func TestSetMistakes(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"target":                              "set: there is no = in it (for example target.images[0].tag=v2)",
		"=hunter2":                            "set : a name is missing in the path (for example target.images[0].tag=v2)",
		"a..b=hunter2":                        "set a..b: a name is missing in the path (for example target.images[0].tag=v2)",
		"[0]=hunter2":                         "set [0]: a name is missing in the path (for example target.images[0].tag=v2)",
		"target.images[x].tag=hunter2":        "set target.images[x].tag: [ is not followed by a number and ] (for example target.images[0].tag=v2)",
		"target.images[01].tag=hunter2":       "set target.images[01].tag: [ is not followed by a number and ] (for example target.images[0].tag=v2)",
		"target.images[0]tag=hunter2":         "set target.images[0]tag: ] is not followed by a point (for example target.images[0].tag=v2)",
		"target.images[2].tag=hunter2":        "/target/images: set target.images[2].tag: [2] is beyond the end of the list, which has 1",
		"target.images.tag=hunter2":           `/target/images: set target.images.tag: "tag" is a field, and there is a list`,
		"target.registry[0]=hunter2":          "/target/registry: set target.registry[0]: [0] is for a list, and there is a map",
		"target.registry.url.host=hunter2":    `/target/registry/url: set target.registry.url.host: "host" is a field, and there is a string`,
		"options.compression_level=hunter2":   "/options/compression_level: set options.compression_level: the value is not a whole number",
		"options.no_cache=hunter2":            "/options/no_cache: set options.no_cache: the value is not a boolean (write true or false)",
		"target.images[0].platforms=hunter2":  `/target/images/0/platforms: set target.images[0].platforms: the value is not a list (write JSON, as in '["linux/amd64","linux/arm64"]')`,
		`options.secrets=["hunter2"]`:         `/options/secrets: set options.secrets: the value is not a map (write JSON, as in '{"NAME":"value"}')`,
		"target.registry.passwort=hunter2":    `/target/registry/passwort: there is no such field (did you mean "password"?)`,
		"target.registry.password=hunter2\nx": "/target/registry/password: holds a line break or another control character (in YAML a block needs |- to have no line break at its end)",
	} {
		_, err := buildparams.DecodeWith(example(t, "json/git.json"), "git.json", []string{set})
		var f *fault.Error
		require.True(t, errors.As(err, &f), "%s: %v", set, err)
		require.Equal(t, fault.Invalid, f.Kind)
		require.Len(t, f.Problems, 1, "%s: %v", set, f)
		require.Equal(t, want, f.Problems[0].String(), set)
		require.NotContains(t, f.Error(), "hunter2")
	}
}
