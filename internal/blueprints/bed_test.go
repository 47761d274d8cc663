//go:build blueprints

package blueprints_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// root is the working tree.
var root string

// ends are what the tests have started once for all of them.
var ends struct {
	sync.Mutex
	all []func() error
}

// atEnd has something done after all tests, the last one first.
func atEnd(end func() error) {
	ends.Lock()
	defer ends.Unlock()
	ends.all = append(ends.all, end)
}

func TestMain(m *testing.M) {
	code := 1
	var err error
	if root, err = testbed.RepoRoot(); err == nil {
		code = m.Run()
	}
	for _, end := range slices.Backward(ends.all) {
		err = errors.Join(err, end())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// imagesVersion is the tag of the images that archive has.
const imagesVersion = testbed.OwnImageVersion

// archives is a folder with archives of our images, made once for all tests, or before: IMAGE_BUILDER_TEST_IMAGES may name it.
var archives = sync.OnceValues(func() (string, error) {
	if folder := os.Getenv("IMAGE_BUILDER_TEST_IMAGES"); folder != "" {
		return folder, nil
	}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
	defer stop()
	return testbed.OwnImages(ctx, "image-builder-api", "image-builder-postgres", "image-builder-registry")
})

// archive is the archive of an image.
func archive(t *testing.T, image string) string {
	t.Helper()
	folder, err := archives()
	require.NoError(t, err)
	return testbed.OwnImageArchive(folder, image)
}

// newerImage makes an archive of an image with another version, and another digest, in the folder.
func newerImage(t *testing.T, image, version, folder string) string {
	t.Helper()
	tag, err := name.NewTag(image + ":test")
	require.NoError(t, err)
	was, err := tarball.ImageFromPath(archive(t, image), &tag)
	require.NoError(t, err)
	config, err := was.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Config.Labels["org.opencontainers.image.version"] = version
	is, err := mutate.ConfigFile(was, config)
	require.NoError(t, err)
	as, err := name.NewTag(image + ":" + version)
	require.NoError(t, err)
	path := filepath.Join(folder, image+"-"+version+".tar")
	require.NoError(t, tarball.WriteToFile(path, as, is))
	return path
}

// project is a folder that someone deploys from with a version of opera.
type project struct {
	version testbed.Opera
	folder  string
	env     []string

	mu   sync.Mutex
	said []string // all that opera has said
}

// newProject copies a blueprint's templates into a folder.
func newProject(t *testing.T, version testbed.Opera, blueprint string, env ...string) *project {
	t.Helper()
	p := &project{version: version, folder: t.TempDir()}
	templates, err := filepath.Glob(filepath.Join(root, "blueprints", blueprint, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, templates)
	for _, path := range templates {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(p.folder, filepath.Base(path)), data, 0o600))
	}
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(p.folder, "library")))
	p.env = append(os.Environ(), append([]string{"PATH=" + version.Bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir(), "LC_ALL=C.UTF-8"}, env...)...)
	return p
}

// setting is a variable of the environment that opera gets.
func (p *project) setting(name string) string { return testbed.Setting(p.env, name) }

// inputs writes a file of inputs.
func (p *project) inputs(t *testing.T, file string, values map[string]any) {
	t.Helper()
	data, err := yaml.Marshal(values)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.folder, file), data, 0o600))
}

// run is a command that runs in the project's folder. What it says goes to a pipe.
type run struct {
	*exec.Cmd
	words testbed.Words
	done  chan struct{} // closed when it has ended
}

// start starts opera.
func (p *project) start(t *testing.T, args ...string) *run {
	t.Helper()
	return p.startCommand(t, filepath.Join(root, "scripts", "opera-private.sh"), args...)
}

func (p *project) startCommand(t *testing.T, name string, args ...string) *run {
	t.Helper()
	r := &run{Cmd: exec.CommandContext(t.Context(), name, args...), done: make(chan struct{})}
	r.Dir, r.Env, r.Stdout, r.Stderr = p.folder, p.env, &r.words, &r.words
	r.WaitDelay = 10 * time.Second
	require.NoError(t, r.Start())
	go func() {
		_ = r.Wait() // the code says it
		close(r.done)
	}()
	return r
}

// wait ends with the command, and gives its exit code and what it said.
func (p *project) wait(t *testing.T, r *run) (code int, said string) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(10 * time.Minute):
		t.Fatalf("%s does not end:\n%s", r.Cmd, &r.words)
	}
	said = r.words.String()
	p.mu.Lock()
	p.said = append(p.said, said)
	p.mu.Unlock()
	return r.ProcessState.ExitCode(), said
}

// opera runs opera, which must succeed, and gives what it said.
func (p *project) opera(t *testing.T, args ...string) string {
	t.Helper()
	began := time.Now()
	code, said := p.wait(t, p.start(t, args...))
	require.Zero(t, code, "opera %v:\n%s", args, said)
	t.Logf("%s %s: %.1f s", p.version.Version, strings.Join(args, " "), time.Since(began).Seconds())
	return said
}

// operaFails runs opera, which must not succeed and must name the node and the causes, and gives what it said.
func (p *project) operaFails(t *testing.T, node string, causes []string, args ...string) string {
	t.Helper()
	code, said := p.wait(t, p.start(t, args...))
	require.NotZero(t, code, "opera %v:\n%s", args, said)
	found := false
	for line := range strings.Lines(said) {
		found = found || strings.Contains(line, node+": ")
	}
	require.True(t, found, "no line names %s:\n%s", node, said)
	for _, cause := range causes {
		require.Contains(t, said, cause)
	}
	return said
}

// outputs are the deployment's outputs.
func (p *project) outputs(t *testing.T) map[string]string {
	t.Helper()
	return testbed.OperaOutputs[string](t, p.opera(t, "outputs"))
}

// status is opera's word for how far it is.
func (p *project) status(t *testing.T) string {
	t.Helper()
	var info struct {
		Status string `yaml:"status"`
	}
	said := p.opera(t, "info")
	require.NoError(t, yaml.Unmarshal([]byte(said), &info), said)
	return info.Status
}

// inTurn goes through what happens to a service that is in use; in short mode through what is the turn of one of so many versions of opera.
func inTurn(t *testing.T, turn, versions int, flows ...func(*testing.T)) {
	t.Helper()
	for i, flow := range flows {
		if !testing.Short() || i%versions == turn {
			flow(t)
		}
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}
