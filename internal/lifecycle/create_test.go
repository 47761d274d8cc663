package lifecycle_test

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

const twoStages = `FROM busybox:1.36 AS build
RUN echo built >/made
FROM busybox:1.36
COPY --from=build /made /made
COPY greeting /greeting
CMD ["cat", "/greeting"]
`

func TestCreateVariantsAndPlatforms(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, commit := b.repository(t, "app.git", map[string]string{"Dockerfile": twoStages, "greeting": "hello"})

	out, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"app","tag":"plain","base":"@REG/base/busybox:1","platforms":["linux/amd64","linux/386"],"labels":{"tier":"one"}},
		{"image":"app","tag":"other","bases":{"busybox:1.36":"@REG/base/other:1"}}]},
		"options":{"labels":{"tier":"all","team":"a"}}}`, url))
	require.NoError(t, err)

	require.Equal(t, commit, out.Source.Commit)
	require.Equal(t, url, out.Source.URL)
	require.Equal(t, "buildkit", out.Engine)
	require.Len(t, out.Images, 2)
	require.Len(t, out.Images[0].Platforms, 2)
	require.Len(t, out.Images[1].Platforms, 1)
	require.Equal(t, b.registry.Host+"/app@"+out.Images[0].Digest, out.Images[0].PinnedRef)
	require.Equal(t, b.registry.Host+"/base/other:1", out.Images[1].Bases[0].Ref)
	require.ElementsMatch(t, []string{"plain", "other"}, b.tags(t, "app"))

	for _, arch := range []string{"amd64", "386"} {
		image := b.pull(t, "@REG/app:plain", "linux", arch)
		files := contents(t, image)
		require.Equal(t, "built\n", files["made"])
		require.Equal(t, "hello", files["greeting"])
		config, err := image.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, arch, config.Architecture)
		require.Equal(t, commit, config.Config.Labels["org.opencontainers.image.revision"])
		require.Equal(t, url, config.Config.Labels["org.opencontainers.image.source"])
		require.Equal(t, "one", config.Config.Labels["tier"], "a variant's own label wins")
		require.Equal(t, "a", config.Config.Labels["team"])
	}
	require.Equal(t, "other", contents(t, b.pull(t, "@REG/app:other", "linux", "amd64"))["other"])
}

func TestOneFailingVariantDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nARG RESULT\nRUN echo result $RESULT; exit $RESULT\n"})
	out, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"mixed","tag":"good","base":"@REG/base/busybox:1","build_args":{"RESULT":"0"}},
		{"image":"mixed","tag":"bad","base":"@REG/base/busybox:1","build_args":{"RESULT":"7"}}]}}`, url))
	require.Equal(t, fault.BuildFailed, fault.KindOf(err))
	require.ErrorContains(t, err, "1 of 2 images failed")
	require.NotEmpty(t, out.Images[0].Digest)
	require.Nil(t, out.Images[0].Error)
	require.Equal(t, fault.BuildFailed, out.Images[1].Error.Kind)
	require.Contains(t, out.Images[1].Error.Message, "exit code: 7")
	require.Contains(t, out.Images[1].Error.Message, "result 7")
	require.Equal(t, []string{"good"}, b.tags(t, "mixed"))
}

func TestFailedRunEndsWithItsLastLines(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	// All of it on one stream: two may be read in any order.
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN (seq 1 100; echo broken) >&2; exit 3\n"})
	_, seen, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"f","tag":"1","base":"@REG/base/busybox:1"}]}}`, url))
	require.Equal(t, fault.BuildFailed, fault.KindOf(err))
	lines := strings.Split(err.Error(), "\n")
	require.Contains(t, lines[0], "exit code: 3")
	require.Contains(t, err.Error(), "RUN (seq 1 100; echo broken) >&2; exit 3")
	require.Len(t, lines, 3+20)
	require.Equal(t, "broken", strings.TrimSpace(lines[len(lines)-1]))
	require.Equal(t, "82", strings.TrimSpace(lines[3]))
	require.Contains(t, seen.text(t), "broken")
	require.Empty(t, b.tags(t, "f"))
}

func TestBuildSecretsStayOut(t *testing.T) {
	t.Parallel()
	const canary = "canary-build-secret"
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=token wc -c </run/secrets/token >/length\n",
	})
	out, seen, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"secret","tag":"1","base":"@REG/base/busybox:1"}]},"options":{"secrets":{"token":%q}}}`, url, canary))
	require.NoError(t, err)
	require.NotNil(t, out)
	image := b.pull(t, "@REG/secret:1", "linux", "amd64")
	require.Equal(t, fmt.Sprint(len(canary)), strings.TrimSpace(contents(t, image)["length"]))
	raw, err := image.RawConfigFile()
	require.NoError(t, err)
	require.NotContains(t, string(raw), canary)
	require.NotContains(t, seen.text(t), canary)
	for path, text := range contents(t, image) {
		require.NotContains(t, text, canary, path)
	}
}

func TestDockerfileWithLocalContext(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	dir := t.TempDir()
	write := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	write("context/Dockerfile", "FROM nothing-like-this\n")
	write("context/.dockerignore", "ignored\n")
	write("context/kept", "kept")
	write("context/ignored", "ignored")
	write("Dockerfile", "FROM busybox\nCOPY . /all/\n")
	_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"dockerfile":{"url":"file://%s/Dockerfile"},"build_context":{"path":%q}},
		"target":{"registry":{"url":"@REG"},"images":[{"image":"local","tag":"1","base":"@REG/base/busybox:1"}]}}`, dir, filepath.Join(dir, "context")))
	require.NoError(t, err)
	files := contents(t, b.pull(t, "@REG/local:1", "linux", "amd64"))
	require.Equal(t, "kept", files["all/kept"])
	require.NotContains(t, files, "all/ignored")
	require.Equal(t, "FROM busybox\nCOPY . /all/\n", files["all/Dockerfile"], "the Dockerfile takes the place of the context's")
	kept, err := os.ReadFile(filepath.Join(dir, "context/Dockerfile"))
	require.NoError(t, err)
	require.Equal(t, "FROM nothing-like-this\n", string(kept), "the user's folder is left alone")
}

// TestIgnoreFiles: a Dockerfile's own ignore file goes before the context's, wherever the Dockerfile is.
func TestIgnoreFiles(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	dockerfile := "FROM busybox\nCOPY . /all/\n"
	tests := []struct {
		name, dockerfile string
		ignores          map[string]string
		gone             string
	}{
		{"contexts", "Dockerfile", map[string]string{".dockerignore": "a\n"}, "a"},
		{"own", "Dockerfile", map[string]string{".dockerignore": "a\n", "Dockerfile.dockerignore": "b\n"}, "b"},
		{"elsewhere", "docker/web.Dockerfile", map[string]string{".dockerignore": "a\n", "docker/web.Dockerfile.dockerignore": "c\n"}, "c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{tt.dockerfile: dockerfile, "a": "a", "b": "b", "c": "c"}
			maps.Copy(files, tt.ignores)
			url, _ := b.repository(t, "ignore-"+tt.name+".git", files)
			_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q,"dockerfile":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"ignore","tag":%q,"base":"@REG/base/busybox:1"}]}}`, url, tt.dockerfile, tt.name))
			require.NoError(t, err)
			built := contents(t, b.pull(t, "@REG/ignore:"+tt.name, "linux", "amd64"))
			for _, name := range []string{"a", "b", "c"} {
				if name == tt.gone {
					require.NotContains(t, built, "all/"+name)
				} else {
					require.Contains(t, built, "all/"+name)
				}
			}
		})
	}
}

// TestEqualSizeAndTimeAreNotEqualBytes is for the trap of BuildKit's shared keys: two sources, one after the other,
// whose files have the same names, sizes and times.
func TestEqualSizeAndTimeAreNotEqualBytes(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	for _, text := range []string{"aaaa", "bbbb", "cccc"} {
		url, _ := b.repository(t, text+".git", map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": text})
		_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"eq","tag":%q,"base":"@REG/base/busybox:1"}]}}`, url, text))
		require.NoError(t, err)
		require.Equal(t, text, contents(t, b.pull(t, "@REG/eq:"+text, "linux", "amd64"))["f"])
	}
	// The same for Dockerfiles of equal length, and for a branch that moves.
	url, _ := b.repository(t, "moving.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo 1 >/n\n"})
	for _, n := range []string{"1", "2", "3"} {
		_, err := testbed.CommitTo(filepath.Join(b.gitRoot, "moving.git"), testbed.GitCommit{Files: mapFS(map[string]string{
			"Dockerfile": "FROM busybox\nRUN echo " + n + " >/n\n"})})
		require.NoError(t, err)
		_, _, err = b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"moving","tag":%q,"base":"@REG/base/busybox:1"}]}}`, url, n))
		require.NoError(t, err)
		require.Equal(t, n+"\n", contents(t, b.pull(t, "@REG/moving:"+n, "linux", "amd64"))["n"])
	}
}

// contents are the regular files of an image.
func contents(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	layers := mutate.Extract(image)
	defer layers.Close()
	files := map[string]string{}
	for r := tar.NewReader(layers); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		if header.Typeflag == tar.TypeReg && header.Size < 1<<20 && !strings.HasPrefix(header.Name, "bin/") {
			data, err := io.ReadAll(r)
			require.NoError(t, err)
			files[header.Name] = string(data)
		}
	}
}
