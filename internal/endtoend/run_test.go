package endtoend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

var bin string // folder of the executables under test

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		bin = folder
		code := m.Run()
		for _, state := range testbed.ManagedEngines(bin) {
			fmt.Fprintf(os.Stderr, "a test has left a managed engine running, with its state in %s\n", state)
			code = 1
		}
		return code
	}, "image-builder", "image-builder-plugin"))
}

// marker is the environment variable by which a test knows the processes that it started, and theirs.
const marker = "IMAGE_BUILDER_ENDTOEND"

// stage is where one test's processes run: folders of their own, and a name to find the processes by.
type stage struct {
	id   string
	tmp  string // TMPDIR
	home string
	env  []string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	// Short: sockets live below it.
	tmp, err := os.MkdirTemp("", "e2e-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	s := &stage{id: strconv.FormatInt(time.Now().UnixNano(), 36) + filepath.Base(tmp), tmp: tmp, home: t.TempDir()}
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	s.env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), // buildkitd is there
		marker+"="+s.id, "TMPDIR="+s.tmp, "HOME="+s.home, "DOCKER_CONFIG="+s.home, "XDG_CACHE_HOME="+s.home,
		"BUILDKIT_HOST=", "IMAGE_BUILDER_PROGRESS=plain", "IMAGE_BUILDER_STATE_DIR="+s.state())
	t.Cleanup(func() {
		for _, pid := range s.processes(t) {
			t.Errorf("process %d is left: %s", pid, commandLine(pid))
		}
		if s.engineRuns() {
			t.Errorf("the managed engine in %s is left", s.state())
		}
	})
	return s
}

// process is one run of image-builder.
type process struct {
	*exec.Cmd
	mu     sync.Mutex
	stdout bytes.Buffer
	stderr bytes.Buffer
}

// Write collects standard error, which is read while the process runs.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func (s *stage) start(t *testing.T, args ...string) *process {
	t.Helper()
	return s.startIn(t, "", args...)
}

// startIn starts image-builder with a working folder.
func (s *stage) startIn(t *testing.T, folder string, args ...string) *process {
	t.Helper()
	return s.startCommand(t, folder, filepath.Join(bin, "image-builder"), args...)
}

func (s *stage) startCommand(t *testing.T, folder, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.CommandContext(t.Context(), name, args...)}
	p.Dir = folder
	p.Env, p.Stdout, p.Stderr = s.env, &p.stdout, p
	require.NoError(t, p.Start())
	return p
}

// wait ends with the process; it gives its exit code, -1 when a signal ended it.
func (p *process) wait() int {
	_ = p.Wait()
	return p.ProcessState.ExitCode()
}

// processes are those that carry the stage's mark in their environment.
func (s *stage) processes(t *testing.T) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	var pids []int
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(marker+"="+s.id)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

func commandLine(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(data), "\x00", " ")
}

// state is the state folder of the stage's managed engine, if one is started.
func (s *stage) state() string { return filepath.Join(s.home, "engine") }

func (s *stage) engineRuns() bool { return slices.Contains(testbed.ManagedEngines(bin), s.state()) }

// requireNothingLeft waits until no process of the stage is there, and no engine, and its temporary folder is empty.
func (s *stage) requireNothingLeft(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.processes(t)) == 0 && !s.engineRuns() }, 20*time.Second, 50*time.Millisecond, "processes are left")
	entries, err := os.ReadDir(s.tmp)
	require.NoError(t, err)
	for _, e := range entries {
		t.Errorf("left in the temporary folder: %s", e.Name())
	}
}

// world is what the processes talk to.
type world struct {
	registry *testbed.Registry
	git      *testbed.GitServer
	gitRoot  string
	engine   string
}

func newWorld(t *testing.T, options testbed.RegistryOptions) *world {
	t.Helper()
	site := testbed.NewSite(t, options)
	_, err := testbed.PushBases(t.Context(), site.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	return &world{registry: site.Registry, git: site.Git, gitRoot: site.GitRoot, engine: testbed.NewEngine(t)}
}

// input writes a document that builds one image of a repository with this Dockerfile, and gives its path.
func (w *world) input(t *testing.T, dockerfile string) string {
	t.Helper()
	_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}, filepath.Join(w.gitRoot, "app.git"), testbed.RepoOptions{})
	require.NoError(t, err)
	return w.document(t, w.git.URL+"/app.git")
}

func (w *world) document(t *testing.T, url string) string {
	t.Helper()
	return writeJSON(t, map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": url}},
		"target": map[string]any{
			"registry": map[string]any{"url": w.registry.Host},
			"images":   []any{map[string]any{"image": "app", "tag": "1", "base": w.registry.Host + "/base/busybox:1"}},
		},
	})
}

func writeJSON(t *testing.T, document any) string {
	t.Helper()
	data, err := json.Marshal(document)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "input.json")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 60*time.Second) // a cleanup's has ended
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
