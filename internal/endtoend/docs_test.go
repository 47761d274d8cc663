package endtoend_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// fence matches a fenced block of a page: its language and its text.
var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// blocks are the fenced blocks of one language in the README and in docs/, by page and position.
func blocks(t *testing.T, language string) map[string]string {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	found := map[string]string{}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		data, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range fence.FindAllStringSubmatch(string(data), -1) {
			if m[1] == language {
				found[filepath.Base(page)+": "+strings.SplitN(m[2], "\n", 2)[0]+" #"+string(rune('a'+len(found)))] = m[2]
			}
		}
	}
	return found
}

// TestDocumentsInDocs: every document that the docs show as a whole is valid.
func TestDocumentsInDocs(t *testing.T) {
	t.Parallel()
	documents := 0
	for name, text := range blocks(t, "yaml") {
		if !strings.Contains(text, "source:") || !strings.Contains(text, "target:") || strings.Contains(text, "node_templates:") {
			continue
		}
		documents++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "document.yaml")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			s := newStage(t)
			p := s.start(t, "validate", path)
			require.Equal(t, fault.ExitOK, p.wait(), p.said())
		})
	}
	require.GreaterOrEqual(t, documents, 2)
}

// TestCommandsInDocs runs what the docs tell to type, in the order of the page, against real servers: the
// document that the commands work on is pointed at them by --set, as a reader would edit it.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	w.input(t, "FROM busybox\nCOPY . /app\n")
	sets := []string{
		"--set", "source.git_repo.url=" + w.git.URL + "/app.git", "--set", "target.registry.url=" + w.registry.Host,
		"--set", "target.images[0].base=" + w.registry.Host + "/base/busybox:1", "--set", "target.images[0].platforms=[\"linux/amd64\"]",
	}
	ran := 0
	for name, text := range blocks(t, "sh") {
		s := newStage(t)
		work := w.templates(t)
		for line := range strings.Lines(text) {
			command, _, _ := strings.Cut(line, "#")
			words := strings.Fields(command)
			if len(words) == 0 || words[0] != "image-builder" {
				continue
			}
			args := words[1:]
			if args[0] == "build" || args[0] == "plan" {
				args = append(args, sets...)
				args = append(args, "--buildkit-host", w.engine)
			}
			if args[0] == "deploy" || args[0] == "undeploy" {
				args = append(args, "--buildkit-host", w.engine)
			}
			if args[0] == "doctor" {
				args = append(args, "--buildkit-host", w.engine, "--engine-idle", "0")
			}
			p := s.startIn(t, work, args...)
			require.Equal(t, fault.ExitOK, p.wait(), "%s: %s\n%s", name, line, p.said())
			ran++
		}
		s.requireNothingLeft(t)
	}
	require.GreaterOrEqual(t, ran, 6)
}

// TestLinksInDocs: what the pages point to is there.
func TestLinksInDocs(t *testing.T) {
	t.Parallel()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	decisions, err := filepath.Glob(filepath.Join(root, "docs", "decisions", "*.md"))
	require.NoError(t, err)
	for _, page := range append(append(pages, decisions...), filepath.Join(root, "README.md")) {
		data, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(page), m[1]))
			require.NoError(t, err, "%s links to %s", filepath.Base(page), m[1])
		}
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	require.LessOrEqual(t, strings.Count(string(readme), "\n"), 150)
}

// templates is a folder with our templates, and inputs.yaml for them that name the test's servers.
func (w *world) templates(t *testing.T) string {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(dir, "library")))
	for _, name := range []string{"docker_image_definition.yaml", "image_graph.yaml"} {
		data, err := os.ReadFile(filepath.Join(root, "tosca", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	data, err := os.ReadFile(w.document(t, w.git.URL+"/app.git"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inputs.yaml"), data, 0o600))
	return dir
}
