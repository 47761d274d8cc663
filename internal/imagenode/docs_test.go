package imagenode_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/imagenode"
)

// TestDocs: the request that the page shows is one, and the page names every input.
func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/lifecycle-command.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllSubmatch(page, -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		var request struct {
			Node, Folder string
			Inputs       json.RawMessage
		}
		require.NoError(t, json.Unmarshal(block[1], &request))
		for _, name := range []string{imagenode.Create, imagenode.Rebuild} {
			_, err := imagenode.Request(imagenode.Operation{Node: request.Node, Name: name, Folder: request.Folder, Inputs: request.Inputs})
			require.NoError(t, err)
		}
	}
	for _, input := range []string{"source", "target", "options", "custom_workdir", "owner", "base_target", "base_tag", "base_ref", "base_images", "removal"} {
		require.Contains(t, string(page), "`"+input+"`")
	}
}
