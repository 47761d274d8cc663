//go:build docker

package wrapper_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// What the tests share: an Engine with the images in it.
var (
	root      string // of the working tree
	engine    *testbed.Docker
	ownImages = []string{"image-builder", "image-builder-api", "image-builder-postgres", "image-builder-registry"}
)

func TestMain(m *testing.M) {
	code := 1
	if err := setUp(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	if engine != nil {
		err := command(context.Background(), dockerProgram(), "--host", engine.Host, "network", "rm", network)
		if err := errors.Join(err, engine.Close()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func setUp(ctx context.Context) (err error) {
	if root, err = testbed.RepoRoot(); err != nil {
		return err
	}
	archives, err := testbed.OwnImages(ctx, ownImages...)
	if err != nil {
		return err
	}
	if engine, err = testbed.StartDocker(ctx, testbed.DockerKinds()[0]); err != nil {
		return fmt.Errorf("%w; it takes root, and `scripts/engines.sh debian`", err)
	}
	// Members of the socket's group reach it.
	if err := os.Chmod(filepath.Dir(strings.TrimPrefix(engine.Host, "unix://")), 0o711); err != nil {
		return err
	}
	if err := command(ctx, dockerProgram(), "--host", engine.Host, "network", "create", "--subnet", subnet, network); err != nil {
		return err
	}
	for _, name := range ownImages {
		if err := command(ctx, dockerProgram(), "--host", engine.Host, "load", "--input", testbed.OwnImageArchive(archives, name)); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, args[0], err, out)
	}
	return nil
}

// dockerProgram is Debian's docker command, of the Engine's version.
func dockerProgram() string { return filepath.Join(root, ".work/engines/debian/usr/bin/docker") }

// The containers' network: one of this test's own, as the usual one is shared by all Engines of a machine.
const (
	network = "wrapper-test"
	subnet  = "10.213.77.0/24"
	gateway = "10.213.77.1" // this machine, as containers reach it
)

// Who may do what with the registry and the git server.
const (
	registryUser, registryPassword = "robot", "registry-hunter2"
	gitUser, gitPassword           = "reader", "git-hunter2"
)

// site is what the containers reach: a registry with a base image, and a git server.
type site struct {
	registry *testbed.Registry
	git      string // URL
	gitRoot  string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{gitRoot: t.TempDir()}
	s.registry = testbed.NewRegistry(t, testbed.RegistryOptions{Address: gateway + ":0", Basic: map[string]string{registryUser: registryPassword}})
	_, err := testbed.PushBases(t.Context(), s.registry.Host, testbed.BaseOptions{
		Platforms: []string{"linux/amd64", "linux/arm64"}, Options: []remote.Option{s.auth()},
	})
	require.NoError(t, err)
	git, err := testbed.StartGit(s.gitRoot, testbed.GitOptions{User: gitUser, Password: gitPassword})
	require.NoError(t, err)
	t.Cleanup(git.Close)
	behind, err := url.Parse(git.URL)
	require.NoError(t, err)
	front := httputil.NewSingleHostReverseProxy(behind)
	front.ErrorLog = log.New(io.Discard, "", 0) // that somebody hangs up is what some tests are about
	s.git = serve(t, front)
	return s
}

// serve serves containers.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", gateway+":0")
	require.NoError(t, err)
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

func (s *site) auth() remote.Option {
	return remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})
}

// requireServed asks the registry whether it serves what the result names.
func (s *site) requireServed(t *testing.T, stdout []byte) *result.Result {
	t.Helper()
	r := &result.Result{}
	require.NoError(t, json.Unmarshal(stdout, r), "%s", stdout)
	require.NotEmpty(t, r.Images)
	for _, image := range r.Images {
		ref, err := name.ParseReference(image.Ref, name.Insecure)
		require.NoError(t, err)
		served, err := remote.Head(ref, s.auth())
		require.NoError(t, err)
		require.Equal(t, image.Digest, served.Digest.String())
	}
	return r
}

// requireNoImage: there must be no such tag.
func (s *site) requireNoImage(t *testing.T, image string) {
	t.Helper()
	ref, err := name.ParseReference(s.registry.Host+"/"+image, name.Insecure)
	require.NoError(t, err)
	_, err = remote.Head(ref, s.auth(), remote.WithContext(t.Context()))
	require.ErrorContains(t, err, "404")
}

// target is where documents of the tests push to, as the image app:1.
func (s *site) target(password string) map[string]any {
	return map[string]any{
		"registry": map[string]any{"url": s.registry.Host, "insecure": true, "username": registryUser, "password": password},
		"images":   []any{map[string]any{"image": "app", "tag": "1", "base": s.registry.Host + "/base/busybox:1", "platforms": []any{"linux/" + runtime.GOARCH}}},
	}
}

// repository makes a git repository with this Dockerfile and gives the source for it.
func (s *site) repository(t *testing.T, dockerfile string) map[string]any {
	t.Helper()
	_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}, filepath.Join(s.gitRoot, "app.git"), testbed.RepoOptions{})
	require.NoError(t, err)
	return map[string]any{"git_repo": map[string]any{"url": s.git + "/app.git", "username": gitUser, "password": "env:GIT_PASSWORD"}}
}

// person is somebody who uses the script: a user of this machine with a folder of their own.
type person struct {
	id   int
	home string
	env  []string
}

// newPerson: 0 is root. Others may use the Engine's socket, and nothing else of this machine's that is private.
func newPerson(t *testing.T, id int) *person {
	t.Helper()
	home, err := os.MkdirTemp("", "wrapper-home-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	p := &person{id: id, home: home}
	p.env = []string{
		"PATH=" + filepath.Dir(dockerProgram()) + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "TMPDIR=" + p.folder(t, "tmp"),
		"DOCKER_HOST=" + engine.Host, "IMAGE_BUILDER_IMAGE=image-builder:test", "IMAGE_BUILDER_NETWORK=" + network,
	}
	p.own(t)
	return p
}

// own gives the person all that is in the folder.
func (p *person) own(t *testing.T) {
	t.Helper()
	require.NoError(t, filepath.Walk(p.home, func(path string, info os.FileInfo, err error) error {
		if err != nil || p.id != 0 {
			return errors.Join(err, os.Lchown(path, p.id, p.id))
		}
		return os.Chmod(path, info.Mode().Perm()|0o055&(info.Mode().Perm()>>3|info.Mode().Perm()>>6)) // the container's user is another then
	}))
}

func (p *person) folder(t *testing.T, path string) string {
	t.Helper()
	path = filepath.Join(p.home, path)
	require.NoError(t, os.MkdirAll(path, 0o700))
	p.own(t)
	return path
}

// file writes a file of the person's.
func (p *person) file(t *testing.T, path, content string) string {
	t.Helper()
	p.folder(t, filepath.Dir(path))
	path = filepath.Join(p.home, path)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	p.own(t)
	return path
}

func (p *person) document(t *testing.T, path string, source, target map[string]any) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"source": source, "target": target})
	require.NoError(t, err)
	return p.file(t, path, string(data))
}

// run is one run of the script.
type run struct {
	*exec.Cmd
	done           chan struct{} // closed when it has ended
	mu             sync.Mutex
	stdout, stderr bytes.Buffer
}

func (r *run) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.Write(b)
}

func (r *run) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.String()
}

// start starts the script in the person's home, in a process group of its own, as a shell does.
func (p *person) start(t *testing.T, stdin string, args ...string) *run {
	t.Helper()
	return p.startCommandOn(t, strings.NewReader(stdin), append([]string{filepath.Join(root, "scripts/image-builder-cli.sh")}, args...)...)
}

func (p *person) startCommandOn(t *testing.T, stdin io.Reader, argv ...string) *run {
	t.Helper()
	r := &run{Cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	r.Dir, r.Env, r.Stdin, r.Stdout, r.Stderr = p.home, p.env, stdin, &r.stdout, r
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(p.id), Gid: uint32(p.id), Groups: []uint32{socketGroup(t)}}}
	require.NoError(t, r.Start())
	go func() {
		_ = r.Wait()
		close(r.done)
	}()
	return r
}

// wait gives the exit code.
func (r *run) wait() int {
	<-r.done
	return r.ProcessState.ExitCode()
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func socketGroup(t *testing.T) uint32 {
	t.Helper()
	info, err := os.Stat(strings.TrimPrefix(engine.Host, "unix://"))
	require.NoError(t, err)
	return info.Sys().(*syscall.Stat_t).Gid
}

// docker asks the Engine.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(dockerProgram(), append([]string{"--host", engine.Host}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// requireNothingLeft: no container of the test's network, no volume, no temporary file.
func (p *person) requireNothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(p.home, "tmp"))
	require.NoError(t, err)
	require.Empty(t, entries)
	eventually(t, "no container is left", func() bool {
		for _, id := range strings.Fields(docker(t, "ps", "--all", "--quiet")) {
			out, err := exec.Command(dockerProgram(), "--host", engine.Host, "inspect", "--format", "{{.Config.WorkingDir}}", id).Output()
			if err == nil && strings.TrimSpace(string(out)) == p.home {
				return false
			}
		}
		return true
	})
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
