package opera_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// bin is the folder of the executables under test, and engine the address of the one daemon that all tests build with.
var bin, engine string

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		bin = folder
		return runTests(m)
	}, "image-builder", "image-builder-plugin"))
}

func runTests(m *testing.M) int {
	address, release, err := testbed.StartEngine(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer release()
	engine = address
	return m.Run()
}

// patience is how long a test waits for what takes seconds on a machine that has nothing else to do.
const patience = time.Minute

// onEach runs a test with each version of opera, side by side.
func onEach(t *testing.T, older bool, test func(*testing.T, *project)) {
	t.Parallel()
	for _, version := range testbed.Operas(t, older) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			test(t, newProject(t, version))
		})
	}
}

// project is a folder that someone deploys from, and what the images are made of and where they go.
type project struct {
	*testbed.Site
	version testbed.Opera
	folder  string
	env     []string
}

func newProject(t *testing.T, version testbed.Opera) *project {
	t.Helper()
	p := &project{Site: testbed.NewSite(t, testbed.RegistryOptions{}), version: version, folder: t.TempDir()}
	p.bases(t)
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	templates, err := filepath.Glob(filepath.Join(root, "tosca", "*.yaml"))
	require.NoError(t, err)
	for _, path := range templates {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		p.write(t, filepath.Base(path), string(data))
	}
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(p.folder, "library")))
	home := t.TempDir()
	p.env = append(os.Environ(), "PATH="+version.Bin+":"+bin+":"+os.Getenv("PATH"), "HOME="+home, "TMPDIR="+t.TempDir(),
		"DOCKER_CONFIG="+home, "XDG_CACHE_HOME="+home, "XDG_CONFIG_HOME="+home, "LC_ALL=C.UTF-8",
		"IMAGE_BUILDER=", "IMAGE_BUILDER_PROGRESS=", "IMAGE_BUILDER_ENGINE=buildkit", "BUILDKIT_HOST="+engine, "IMAGE_BUILDER_CACHE_DIR="+p.CacheDir)
	return p
}

// bases puts the base images into the registry.
func (p *project) bases(t *testing.T) {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), p.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
}

// write puts a file into the project's folder.
func (p *project) write(t *testing.T, file, content string) {
	t.Helper()
	path := filepath.Join(p.folder, file)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// inputs writes a file of inputs; JSON is YAML.
func (p *project) inputs(t *testing.T, file string, values map[string]any) {
	t.Helper()
	data, err := json.Marshal(values)
	require.NoError(t, err)
	p.write(t, file, string(data))
}

// repository makes a git repository with a Dockerfile and gives the source that names it.
func (p *project) repository(t *testing.T, name, dockerfile string) map[string]any {
	t.Helper()
	files := fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}
	url, _ := p.Repository(t, name+".git", files)
	return source(url)
}

func source(url string) map[string]any {
	return map[string]any{"git_repo": map[string]any{"url": url}}
}

// change commits another Dockerfile to a repository.
func (p *project) change(t *testing.T, name, dockerfile string) {
	t.Helper()
	_, err := testbed.CommitTo(filepath.Join(p.GitRoot, name+".git"), testbed.GitCommit{Files: fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}})
	require.NoError(t, err)
}

func (p *project) target(images ...map[string]any) map[string]any {
	return map[string]any{"registry": p.registry(), "images": images}
}

func (p *project) registry() map[string]any { return map[string]any{"url": p.Registry.Host} }

func image(repository, tag string) map[string]any {
	return map[string]any{"image": repository, "tag": tag}
}

// onBusybox is an image with the base that tests have.
func (p *project) onBusybox(repository, tag string) map[string]any {
	return map[string]any{"image": repository, "tag": tag, "base": p.Registry.Host + "/base/busybox:1"}
}

// single writes inputs.yaml for docker_image_definition.yaml: an image app:1 of this Dockerfile, on busybox.
func (p *project) single(t *testing.T, dockerfile string, more map[string]any) {
	t.Helper()
	values := map[string]any{"source": p.repository(t, "app", dockerfile), "target": p.target(p.onBusybox("app", "1"))}
	for k, v := range more {
		values[k] = v
	}
	p.inputs(t, "inputs.yaml", values)
}

// command is a run of opera. Its output and errors go to a pipe, as to a terminal.
type command struct {
	*exec.Cmd
	mu   sync.Mutex
	text bytes.Buffer
	done chan error
}

func (c *command) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// start starts opera in the project's folder.
func (p *project) start(t *testing.T, args ...string) *command {
	t.Helper()
	return p.startCommand(t, filepath.Join(p.version.Bin, "opera"), args...)
}

func (p *project) startCommand(t *testing.T, name string, args ...string) *command {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	c := &command{Cmd: exec.CommandContext(t.Context(), name, args...), done: make(chan error, 1)}
	c.Dir, c.Env, c.Stdout, c.Stderr = p.folder, p.env, write, write
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	require.NoError(t, c.Start())
	require.NoError(t, write.Close())
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := read.Read(buffer)
			c.mu.Lock()
			c.text.Write(buffer[:n])
			c.mu.Unlock()
			if err != nil {
				c.done <- errors.Join(c.Wait(), read.Close())
				return
			}
		}
	}()
	return c
}

// wait ends with the command and gives its exit code.
func (c *command) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("%s does not end:\n%s", c.Cmd, c.said())
	}
	return c.ProcessState.ExitCode()
}

// opera runs opera, which must succeed, and gives what it said.
func (p *project) opera(t *testing.T, args ...string) string {
	t.Helper()
	c := p.start(t, args...)
	require.Zero(t, c.wait(t), "opera %v:\n%s", args, c.said())
	return c.said()
}

// operaFails runs opera, which must not succeed, and gives what it said.
func (p *project) operaFails(t *testing.T, args ...string) string {
	t.Helper()
	c := p.start(t, args...)
	require.NotZero(t, c.wait(t), "opera %v:\n%s", args, c.said())
	return c.said()
}

// builtImage is an item of the output images.
type builtImage struct {
	Ref       string   `yaml:"ref"`
	Digest    string   `yaml:"digest"`
	PinnedRef string   `yaml:"pinned_ref"`
	Platforms []string `yaml:"platforms"`
	Size      int64    `yaml:"size"`
	Unchanged bool     `yaml:"unchanged"`
}

// outputs are the outputs of the deployment.
func (p *project) outputs(t *testing.T) map[string]any {
	t.Helper()
	return testbed.OperaOutputs[any](t, p.opera(t, "outputs"))
}

func (p *project) images(t *testing.T) []builtImage {
	t.Helper()
	return imagesOf(t, p.outputs(t))
}

func imagesOf(t *testing.T, outputs map[string]any) []builtImage {
	t.Helper()
	data, err := yaml.Marshal(outputs["images"])
	require.NoError(t, err)
	var images []builtImage
	require.NoError(t, yaml.Unmarshal(data, &images), string(data))
	return images
}

// served asks the registry for an image, as somebody who has nothing to do with the build.
func (p *project) served(t *testing.T, ref string) (v1.Image, string) {
	t.Helper()
	parsed, err := name.ParseReference(p.Registry.Host + "/" + ref)
	require.NoError(t, err)
	descriptor, err := remote.Get(parsed)
	require.NoError(t, err)
	img, err := descriptor.Image()
	require.NoError(t, err)
	return img, descriptor.Digest.String()
}

// layers are the digests of an image's layers.
func (p *project) layers(t *testing.T, ref string) []string {
	t.Helper()
	img, _ := p.served(t, ref)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	var all []string
	for _, l := range config.RootFS.DiffIDs {
		all = append(all, l.String())
	}
	return all
}

// gate holds requests to a registry back until it is opened.
type gate struct {
	holds   func(*http.Request) bool
	reached chan string // the path of each request that is held
	open    chan struct{}
}

func newGate(holds func(*http.Request) bool) *gate {
	return &gate{holds: holds, reached: make(chan string, 100), open: make(chan struct{})}
}

func (g *gate) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.holds(r) {
			g.reached <- r.URL.Path
			select {
			case <-g.open:
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(w, r)
	})
}

// wait ends when a request is held, and gives its path.
func (g *gate) wait(t *testing.T) string {
	t.Helper()
	select {
	case path := <-g.reached:
		return path
	case <-time.After(patience):
		t.Fatal("no request came to the gate")
		return ""
	}
}

// pushesImage tells whether a request comes after an image was built, and before the registry has it.
func pushesImage(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && !strings.Contains(r.URL.Path, "/base/")
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
