package buildparams_test

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/schemas"
)

// update rewrites the files that tests compare with: go test ./internal/buildparams -update.
var update = flag.Bool("update", false, "rewrite golden files")

// seedNames are the documents that the original image builder shows.
func seedNames() []string {
	return []string{
		"git", "git_additional_options", "dockerfile", "dockerfile_build_context", "dockerfile_additional_options",
		"image_variants", "platforms", "image_variants_platforms",
	}
}

func example(t *testing.T, name string) []byte {
	t.Helper()
	data, err := fs.ReadFile(schemas.Examples(), name)
	require.NoError(t, err)
	return data
}

func TestSeedDocumentsAreAccepted(t *testing.T) {
	t.Parallel()
	for _, name := range seedNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fromJSON, err := buildparams.Decode(example(t, "json/"+name+".json"), name+".json")
			require.NoError(t, err)
			fromYAML, err := buildparams.Decode(example(t, "yaml/"+name+".yaml"), name+".yaml")
			require.NoError(t, err)
			require.Equal(t, fromJSON, fromYAML)
			require.Equal(t, "docker.io", fromJSON.Target.Registry.Host())
			require.True(t, strings.HasPrefix(fromJSON.Ref(0), "docker.io/repository/"), fromJSON.Ref(0))
		})
	}
}

func TestYAMLExamplesAreTheJSONOnesConverted(t *testing.T) {
	t.Parallel()
	for _, name := range seedNames() {
		source := example(t, "json/"+name+".json")
		want, err := buildparams.Convert(source, name+".json", buildparams.YAML)
		require.NoError(t, err)
		if *update {
			require.NoError(t, os.WriteFile(filepath.Join("../../schemas/examples/yaml", name+".yaml"), want, 0o644))
			continue
		}
		twin := example(t, "yaml/"+name+".yaml")
		require.Equal(t, string(want), string(twin), name)
		back, err := buildparams.Convert(twin, name+".yaml", buildparams.JSON)
		require.NoError(t, err)
		require.Equal(t, string(source), string(back), name)
	}
}

// TestSeedDocumentWithoutItsComma is the one that was published with a comma missing.
func TestSeedDocumentWithoutItsComma(t *testing.T) {
	t.Parallel()
	good := string(example(t, "json/dockerfile_additional_options.json"))
	broken := strings.Replace(good, "Dockerfile\",\n", "Dockerfile\"\n", 1)
	require.NotEqual(t, good, broken)
	for _, file := range []string{"x.json", "x.yaml", "", "-"} {
		_, err := buildparams.Decode([]byte(broken), file)
		require.ErrorContains(t, err, "line 5, column 7: not valid JSON: a comma is missing before this", file)
	}
}
