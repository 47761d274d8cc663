package opera_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestDocs types what docs/tosca.md tells to type, in its order, with the newest opera.
func TestDocs(t *testing.T) {
	t.Parallel()
	versions := testbed.Operas(t, false)
	p := newProject(t, versions[len(versions)-1])
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Join(root, "scripts"), filepath.Join(p.folder, "scripts")))
	p.single(t, "FROM busybox\nRUN echo docs >/docs\n", nil)
	inputs := p.chain(t)
	inputs["kubectl_worker_source"] = p.repository(t, "kubectl-worker-2", "FROM docker-worker\nRUN echo kubectl two >/kubectl\n")
	data, err := json.Marshal(inputs)
	require.NoError(t, err)
	p.write(t, "new-inputs.yaml", string(data))

	page, err := os.ReadFile(filepath.Join(root, "docs", "tosca.md"))
	require.NoError(t, err)
	ran := 0
	for _, m := range regexp.MustCompile(`(?m)^\$ ((?:opera|scripts/opera-private\.sh) .*)$`).FindAllStringSubmatch(string(page), -1) {
		command, _, _ := strings.Cut(m[1], " #")
		if strings.HasSuffix(command, ".csar") { // which TestArchive makes
			continue
		}
		words := strings.Fields(command)
		if words[0] == "opera" {
			words[0] = filepath.Join(p.version.Bin, words[0])
		} else {
			words[0] = filepath.Join(p.folder, words[0])
			require.NoError(t, os.RemoveAll(filepath.Join(p.folder, ".opera")))
		}
		c := p.startCommand(t, words[0], words[1:]...)
		require.Zero(t, c.wait(t), "%s\n%s", command, c.said())
		require.NotContains(t, c.said(), "already", "%s: it was of no effect", command)
		ran++
	}
	require.GreaterOrEqual(t, ran, 12)
}
