package dockerfile_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/dockerfile"
	"imagebuilder/internal/fault"
)

// example is a Dockerfile of docs/base-images.md, what the document says, and what comes of it.
var example = regexp.MustCompile("(?s)```dockerfile\n(.*?)```\n\n```yaml\n(.*?)```\n\n```text\n(.*?)```")

// Every example of the page about base images is true.
func TestBaseImagesPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/base-images.md")
	require.NoError(t, err)
	examples := example.FindAllStringSubmatch(string(page), -1)
	require.Len(t, examples, strings.Count(string(page), "```dockerfile"))
	for _, e := range examples {
		var image struct {
			Base  string
			Bases map[string]string
			Stage string
		}
		require.NoError(t, yaml.Unmarshal([]byte(e[2]), &image), e[2])
		q := query("linux/amd64")
		q.Stage = image.Stage
		overrides, err := parse(t, []byte(e[1])).Override(q, image.Base, image.Bases)
		require.Equal(t, strings.TrimSpace(e[3]), outcome(overrides, err), e[1])
	}
}

// outcome is what came of a wish, as the page writes it.
func outcome(overrides []dockerfile.Override, err error) string {
	var lines []string
	if f := fault.As(err); f != nil {
		for _, p := range f.Problems {
			lines = append(lines, p.String())
		}
		if len(lines) == 0 {
			lines = append(lines, refusal(err))
		}
		return strings.Join(lines, "\n")
	}
	for _, o := range overrides {
		word := "line"
		if len(slices.Compact(slices.Clone(o.Base.Lines))) > 1 {
			word = "lines"
		}
		at := strings.Trim(strings.ReplaceAll(fmt.Sprint(o.Base.Lines), " ", ", "), "[]")
		lines = append(lines, fmt.Sprintf("%s (%s %s) -> %s", o.Base.From, word, at, o.With))
	}
	return strings.Join(lines, "\n")
}
