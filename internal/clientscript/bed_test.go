package clientscript_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

const (
	apiKey   = "key-of-the-tests-0123456789"
	patience = 2 * time.Minute // for what takes some seconds on a quiet machine
)

// What the tests share.
var (
	script  string   // scripts/client.py
	service *running // with an engine
)

// running is the service in a process of its own.
type running struct {
	url  string
	cmd  *exec.Cmd
	said *bytes.Buffer
	done chan struct{}
}

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(dir string) int { return run(m, dir) }, "image-builder-api", "image-builder-plugin"))
}

func run(m *testing.M, dir string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	root, err := testbed.RepoRoot()
	if err != nil {
		return fail(err)
	}
	script = filepath.Join(root, "scripts", "client.py")
	address, release, err := testbed.StartEngine(context.Background())
	if err != nil {
		return fail(err)
	}
	defer release()
	if service, err = start(dir, address); err != nil {
		return fail(err)
	}
	defer service.stop()
	return m.Run()
}

func start(dir, engine string) (*running, error) {
	r := &running{said: &bytes.Buffer{}, done: make(chan struct{})}
	r.cmd = exec.Command(filepath.Join(dir, "image-builder-api"), "serve", "--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0",
		"--plugin", filepath.Join(dir, "image-builder-plugin"), "--engine", "buildkit", "--buildkit-host", engine, "--cache-dir", filepath.Join(dir, "cache"),
		"--allow-egress", "127.0.0.1", "--plain-registry", "*", "--concurrency", "8")
	r.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "AUTH_API_KEY=" + apiKey}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	up := make(chan string, 1)
	go func() {
		defer close(r.done)
		in := bufio.NewScanner(stderr)
		for in.Scan() {
			var line struct{ Msg, Address string }
			_ = json.Unmarshal(in.Bytes(), &line)
			if line.Address != "" {
				up <- line.Address
			}
			fmt.Fprintln(r.said, in.Text())
		}
		_ = r.cmd.Wait()
	}()
	select {
	case address := <-up:
		r.url = "http://" + address
		return r, nil
	case <-r.done:
		return nil, fmt.Errorf("the service ended: %s", r.said)
	case <-time.After(patience):
		r.stop()
		return nil, errors.New("the service did not come up")
	}
}

func (r *running) stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
	case <-time.After(patience):
		_ = r.cmd.Process.Kill()
		<-r.done
	}
}

// site is what builds are made from and where they go.
type site struct{ *testbed.Site }

func newSite(t *testing.T) site {
	t.Helper()
	s := site{testbed.NewSite(t, testbed.RegistryOptions{})}
	_, err := testbed.PushBases(t.Context(), s.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	return s
}

// document builds one image, NAME:1, of a repository with this Dockerfile.
func (s site) document(t *testing.T, name, dockerfile string) map[string]any {
	t.Helper()
	url, _ := s.Repository(t, name+".git", fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}})
	return map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": url}},
		"target": map[string]any{
			"registry": map[string]any{"url": s.Registry.Host},
			"images":   []any{map[string]any{"image": name, "tag": "1", "base": s.Registry.Host + "/base/busybox:1"}},
		},
	}
}

// requireBuilt: these lines of standard output name what the registry has.
func (s site) requireBuilt(t *testing.T, stdout string, images ...string) {
	t.Helper()
	var want []string
	for _, image := range images {
		ref, err := name.ParseReference(s.Registry.Host + "/" + image)
		require.NoError(t, err)
		served, err := remote.Head(ref)
		require.NoError(t, err)
		want = append(want, ref.String()+" "+served.Digest.String())
	}
	require.Equal(t, want, strings.Split(strings.TrimSpace(stdout), "\n"))
}

func write(t *testing.T, file string, document any) string {
	t.Helper()
	data, err := json.Marshal(document)
	require.NoError(t, err)
	return writeText(t, file, string(data))
}

func writeText(t *testing.T, file, text string) string {
	t.Helper()
	if !filepath.IsAbs(file) {
		file = filepath.Join(t.TempDir(), file)
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// client is one run of the script.
type client struct {
	*exec.Cmd
	stdout bytes.Buffer
	mu     sync.Mutex
	stderr bytes.Buffer
	done   chan struct{}
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.Write(p)
}

func (c *client) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.String()
}

// startClient starts it against a service, with the tests' key.
func startClient(t *testing.T, url string, args ...string) *client {
	t.Helper()
	return startClientIn(t, []string{"IMAGE_BUILDER_URL=" + url, "IMAGE_BUILDER_API_KEY=" + apiKey}, args...)
}

func startClientIn(t *testing.T, env []string, args ...string) *client {
	t.Helper()
	python, err := exec.LookPath("python3")
	require.NoError(t, err, "scripts/client.py needs Python; Debian has it in the package python3")
	c := &client{Cmd: exec.Command(python, append([]string{"-B", script}, args...)...), done: make(chan struct{})}
	c.Env, c.Cmd.Stdout, c.Cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, env...), &c.stdout, c
	require.NoError(t, c.Start())
	go func() {
		_ = c.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-c.done
	})
	return c
}

// code waits for the exit code.
func (c *client) code(t *testing.T) int {
	t.Helper()
	select {
	case <-c.done:
		return c.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("the script does not end: %s", c.said())
		return 0
	}
}

func (c *client) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, "says "+text, func() bool { return strings.Contains(c.said(), text) })
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 20*time.Millisecond, what)
}

// ask asks the service itself.
func ask(t *testing.T, path string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, service.url+path, nil)
	require.NoError(t, err)
	request.Header.Set("X-API-Key", apiKey)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", data)
	require.NoError(t, json.Unmarshal(data, into), "%s", data)
}

// builds are the states of the builds of an image, by id.
func builds(t *testing.T, image string) map[string]string {
	t.Helper()
	var list struct {
		Invocations []struct{ ID, State string }
	}
	ask(t, "/v1/invocations?image="+url.QueryEscape(image), &list)
	states := map[string]string{}
	for _, i := range list.Invocations {
		states[i.ID] = i.State
	}
	return states
}

// front stands before the service. disturb answers a request in its place and gives true, or leaves it to the service.
func front(t *testing.T, disturb func(forward http.Handler, w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	behind, err := url.Parse(service.url)
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(behind)
	forward.FlushInterval = -1
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !disturb(forward, w, r) {
			forward.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}
