package opera_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// What opera calls the files of the templates and of their inputs.
const (
	single      = "docker_image_definition.yaml"
	singleInput = "inputs.yaml"
)

// TestDeploy is the life of a deployment: built, pushed, told of, built again, taken back.
func TestDeploy(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		url, commit := p.Repository(t, "app.git", fstest.MapFS{"Dockerfile": {Data: []byte("FROM busybox\nRUN echo one >/one\n")}})
		p.inputs(t, singleInput, map[string]any{"source": source(url), "target": p.target(
			p.onBusybox("app", "1.10"),
			map[string]any{"image": "app", "tag": "other", "base": p.Registry.Host + "/base/other:1", "labels": map[string]any{"a": "b"}},
		), "options": map[string]any{"labels": map[string]any{"org.example.team": "{{ 1+1 }}"}}})

		p.opera(t, "deploy", "-i", singleInput, single)
		outputs := p.outputs(t)
		first := imagesOf(t, outputs)
		require.Len(t, first, 2)
		for i, tag := range []string{"app:1.10", "app:other"} {
			img, digest := p.served(t, tag)
			require.Equal(t, p.Registry.Host+"/"+tag, first[i].Ref)
			require.Equal(t, digest, first[i].Digest)
			require.Equal(t, p.Registry.Host+"/app@"+digest, first[i].PinnedRef)
			require.Equal(t, []string{"linux/amd64"}, first[i].Platforms)
			require.Positive(t, first[i].Size)
			require.False(t, first[i].Unchanged)
			config, err := img.ConfigFile()
			require.NoError(t, err)
			require.Equal(t, "{{ 1+1 }}", config.Config.Labels["org.example.team"])
		}
		require.Equal(t, []any{first[0].Ref, first[1].Ref}, outputs["image_refs"])
		require.Equal(t, first[0].PinnedRef, outputs["image_ref"])
		require.Equal(t, commit, outputs["source_revision"])
		require.FileExists(t, outputs["build_log"].(string))

		require.Contains(t, p.opera(t, "deploy", "-i", singleInput, single), "already been deployed")

		// Deployed anew, with nothing changed: nothing is built, and the images stay this node's.
		p.opera(t, "deploy", "--clean-state", "--force", "-i", singleInput, single)
		for i, image := range p.images(t) {
			require.True(t, image.Unchanged)
			require.Equal(t, first[i].Digest, image.Digest)
		}

		p.notify(t)

		// A tag that somebody else has pushed in the meantime is theirs.
		repository, err := name.NewRepository(p.Registry.Host + "/app")
		require.NoError(t, err)
		base, _ := p.served(t, "base/other:1")
		require.NoError(t, remote.Write(repository.Tag("other"), base))
		require.NoError(t, remote.Tag(repository.Tag("mine"), base))

		undeploy := []string{"undeploy", "--force"}
		if p.version.Version == "0.6.9" {
			undeploy = append(undeploy, "--resume") // the notify that did not work has left its mark
		}
		said := p.opera(t, undeploy...)
		require.Equal(t, []string{"mine", "other"}, p.Tags(t, "app"), "the node's own tag is gone, and no other")
		require.Contains(t, said, "app:other", "that it is kept is said")
		require.Contains(t, p.opera(t, "undeploy", "--force"), "already been undeployed")
	})
}

// notify rebuilds and verifies by opera's triggers, which work from 0.7.0 on, and says what does in the versions before.
func (p *project) notify(t *testing.T) {
	t.Helper()
	if p.version.Version != "0.7.0" {
		require.Contains(t, p.operaFails(t, "notify", "--force", "--trigger", "rebuild"), "before 0.7.0 it drops them on notify")
		return
	}
	p.opera(t, "notify", "--force", "--trigger", "rebuild")
	for _, image := range p.images(t) {
		require.False(t, image.Unchanged, "it was built again")
	}
	p.write(t, "notification.json", `{"a": "{{ 1 }}"}`)
	p.opera(t, "notify", "--force", "--trigger", "verify", "--notification", "notification.json")
}

// TestRemovalKeep: what the template says stays, stays. And what opera stores is for nobody else to read, by our script.
func TestRemovalKeep(t *testing.T) {
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	onEach(t, false, func(t *testing.T, p *project) {
		p.single(t, "FROM busybox\nRUN echo three >/three\n", map[string]any{"removal": "keep"})
		c := p.startCommand(t, filepath.Join(root, "scripts", "opera-private.sh"), "deploy", "-i", singleInput, single)
		require.Zero(t, c.wait(t), c.said())
		info, err := os.Stat(filepath.Join(p.folder, ".opera"))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
		p.opera(t, "undeploy", "--force")
		require.Equal(t, []string{"1"}, p.Tags(t, "app"))
	})
}

// TestFailure: the one who deploys reads the build's own error, and can go on from there.
func TestFailure(t *testing.T) {
	onEach(t, true, func(t *testing.T, p *project) {
		p.single(t, "FROM busybox\nRUN echo 'no {{ 6*7 }} here' >&2; exit 3\n", nil)
		said := p.operaFails(t, "deploy", "-i", singleInput, single)
		require.Contains(t, said, "\nimage-builder: ")
		require.Contains(t, said, "no {{ 6*7 }} here", "the last lines of the step")
		require.Contains(t, said, "exit code: 3")
		require.Empty(t, p.Tags(t, "app"))

		p.change(t, "app", "FROM busybox\nRUN echo four >/four\n")
		p.opera(t, "deploy", "--resume", "--force", "-i", singleInput, single)
		require.Equal(t, []string{"1"}, p.Tags(t, "app"))

		p.env = append(p.env, "IMAGE_BUILDER=/nonexistent/image-builder")
		said = p.operaFails(t, "undeploy", "--force")
		require.Contains(t, said, "/nonexistent/image-builder: No such file or directory", "what is missing is named")
	})
}

// TestInvalid: opera checks no types, and the error says what is wrong and where.
func TestInvalid(t *testing.T) {
	onEach(t, false, func(t *testing.T, p *project) {
		p.write(t, singleInput, "source: {git_repo: {url: '', colour: red}}\ntarget: {registry: {url: localhost:1}, images: [{image: app, tag: 3.10}]}\n")
		said := p.operaFails(t, "deploy", "-i", singleInput, single)
		require.Contains(t, said, "/target/images/0/tag")
		require.Contains(t, said, "/source/git_repo/colour")
		require.Contains(t, said, "/source/git_repo/url")
	})
}

// TestProgress: the one who deploys sees what is done while it is done, on what opera writes to.
func TestProgress(t *testing.T) {
	onEach(t, true, func(t *testing.T, p *project) {
		g := newGate(pushesImage)
		p.Registry = testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: g.middleware})
		p.bases(t)
		// No version of opera may find the step in the cache.
		p.single(t, "FROM busybox\nRUN echo this is seen $((6*7)) by "+p.folder+"; echo six >/six\n", nil)
		c := p.start(t, "deploy", "-i", singleInput, single)
		g.wait(t)
		eventually(t, "the step's output is seen", func() bool { return strings.Contains(c.said(), "this is seen 42") })
		for line := range strings.Lines(c.said()) {
			require.True(t, strings.HasPrefix(line, "[Worker_0]") || strings.HasPrefix(line, "image-builder | "), line)
		}
		close(g.open)
		require.Zero(t, c.wait(t), c.said())
		log, err := os.ReadFile(filepath.Join(p.folder, ".image-builder", "logs", "image-builder.create.log"))
		require.NoError(t, err)
		require.Contains(t, string(log), "this is seen 42")
	})
}

// TestInterrupt: Ctrl-C ends the build, too.
func TestInterrupt(t *testing.T) {
	onEach(t, true, func(t *testing.T, p *project) {
		n := strconv.FormatInt(time.Now().UnixNano(), 10) // seconds that nobody else sleeps
		p.single(t, "FROM busybox\nRUN exec sleep "+n+"\n", nil)
		c := p.start(t, "deploy", "-i", singleInput, single)
		eventually(t, "the step runs", func() bool { return testbed.ProcessRuns(n) })
		require.NoError(t, syscall.Kill(-c.Process.Pid, syscall.SIGINT)) // what a terminal does
		require.NotZero(t, c.wait(t), c.said())
		eventually(t, "the step ends", func() bool { return !testbed.ProcessRuns(n) })
		require.Empty(t, p.Tags(t, "app"))
	})
}

// TestOriginalTemplate deploys what was written for the SODALITE image-builder. And a tag that is gone when it is taken back is
// no error, and is told of.
func TestOriginalTemplate(t *testing.T) {
	original, err := os.ReadFile(filepath.Join("testdata", "original.yaml"))
	require.NoError(t, err)
	onEach(t, false, func(t *testing.T, p *project) {
		p.write(t, "service.yaml", string(original))
		p.single(t, "FROM busybox\nRUN echo five >/five\n", nil)
		p.opera(t, "deploy", "-i", singleInput, "service.yaml")
		tag, err := name.NewTag(p.Registry.Host + "/app:1")
		require.NoError(t, err)
		require.NoError(t, remote.Delete(tag))
		require.Contains(t, p.opera(t, "undeploy", "--force"), "gone")
	})
}
