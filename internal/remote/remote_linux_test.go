package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/remote"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// bin is the folder of the executables under test, and common a server of all tests that change nothing there: bringing the
// executables over takes seconds.
var (
	bin    string
	common *testbed.SSH
)

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		bin = folder
		var err error
		if common, err = testbed.StartSSH(testbed.SSHOptions{Env: []string{"REMOTE_PASSWORD=of-the-server"}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer common.Close()
		return m.Run()
	}, "image-builder", "image-builder-plugin"))
}

// version is that of executables which no linker has given another.
const version = "dev"

// patience bounds every wait here; it is met only when something hangs.
const patience = time.Minute

// bed is a server and what is needed to reach it.
type bed struct {
	*testbed.SSH
	known string // file with the server's key
}

func newBed(t *testing.T, options testbed.SSHOptions) *bed {
	t.Helper()
	server, err := testbed.StartSSH(options)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return to(t, server)
}

// to is the way to a server.
func to(t *testing.T, server *testbed.SSH) *bed {
	t.Helper()
	b := &bed{SSH: server, known: filepath.Join(t.TempDir(), "known_hosts")}
	require.NoError(t, os.WriteFile(b.known, []byte(server.KnownHost()), 0o600))
	return b
}

// server is the machine as remote takes it.
func (b *bed) server() *remote.Server {
	return &remote.Server{
		SSH: []string{"ssh", "-F", "none", "-i", b.Key, "-p", b.Port(), "-o", "UserKnownHostsFile=" + b.known, "-o", "GlobalKnownHostsFile=/dev/null",
			"-o", "StrictHostKeyChecking=yes", b.User + "@127.0.0.1"},
		Programs: remote.Programs{Own: filepath.Join(bin, "image-builder"), Plugin: filepath.Join(bin, plugin.MainName)},
		Version:  version,
	}
}

// programs are the sets of executables that the server has.
func (b *bed) programs(t *testing.T) []string {
	t.Helper()
	sets, err := filepath.Glob(filepath.Join(b.Home, ".cache", "image-builder", "programs", "*"))
	require.NoError(t, err)
	return sets
}

// verify is a request that needs nothing but a registry: are the tags of this target as they were pushed?
func verify(t *testing.T, registry map[string]any) plugin.Request {
	t.Helper()
	inputs, err := json.Marshal(map[string]any{"target": map[string]any{"registry": registry, "images": []any{map[string]any{"image": "app", "tag": "1"}}}})
	require.NoError(t, err)
	return plugin.Request{NodeType: "imagebuilder.nodes.Image", Operation: "verify", Inputs: inputs, Settings: json.RawMessage(`{"owner": "me"}`), WorkDir: t.TempDir()}
}

// create is one that builds this Dockerfile of a repository.
func create(t *testing.T, source map[string]any) plugin.Request {
	t.Helper()
	inputs, err := json.Marshal(map[string]any{"source": source, "target": map[string]any{
		"registry": map[string]any{"url": "127.0.0.1:1"}, "images": []any{map[string]any{"image": "app", "tag": "1"}},
	}})
	require.NoError(t, err)
	return plugin.Request{NodeType: "imagebuilder.nodes.Image", Operation: "create", Inputs: inputs, WorkDir: t.TempDir()}
}

// steps are the names of those that were told of.
type steps struct {
	mu    sync.Mutex
	names []string
}

func (s *steps) emit(e plugin.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Step != nil {
		s.names = append(s.names, e.Step.Name)
	}
}

func (s *steps) said(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.names, "\n"), text)
}

// TestPrograms: they are brought once, by however many at a time; what somebody has changed is not run, but replaced.
func TestPrograms(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.SSHOptions{})
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{})
	request := verify(t, map[string]any{"url": registry.Host})
	ask := func() bool {
		var s steps
		_, err := b.server().Execute(t.Context(), request, s.emit)
		require.ErrorContains(t, err, "the tag is gone", "the server's plugin has looked")
		require.Equal(t, fault.NotFound, fault.KindOf(err))
		return s.said("bring image-builder")
	}
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() { ask() })
	}
	group.Wait()
	sets := b.programs(t)
	require.Len(t, sets, 1, "and nothing half done")
	require.False(t, ask())

	main := filepath.Join(sets[0], "image-builder")
	require.NoError(t, os.WriteFile(main, []byte("#!/bin/sh\ntouch "+b.Home+"/run-by-mistake\n"), 0o700))
	require.True(t, ask())
	require.NoFileExists(t, filepath.Join(b.Home, "run-by-mistake"))
	require.Equal(t, sets, b.programs(t))
	original, err := os.ReadFile(filepath.Join(bin, "image-builder"))
	require.NoError(t, err)
	now, err := os.ReadFile(main)
	require.NoError(t, err)
	require.True(t, bytes.Equal(original, now))
	info, err := os.Stat(sets[0])
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

// TestReferences: what they stand for is looked up here and not on the server, and a value that looks like a reference is none.
func TestReferences(t *testing.T) {
	b := to(t, common)
	for _, password := range []string{"of-the-orchestrator", "env:REMOTE_PASSWORD", "file:/etc/hostname"} {
		t.Setenv("REMOTE_PASSWORD", password)
		registry := testbed.NewRegistry(t, testbed.RegistryOptions{Basic: map[string]string{"me": password}})
		_, err := b.server().Execute(t.Context(), verify(t, map[string]any{"url": registry.Host, "username": "me", "password": "env:REMOTE_PASSWORD"}), (&steps{}).emit)
		require.ErrorContains(t, err, "the tag is gone", "which only who may look can say")
	}
	request := verify(t, map[string]any{"url": "127.0.0.1:1", "username": "me", "password": "file:secret"})
	require.NoError(t, os.WriteFile(filepath.Join(request.WorkDir, "secret"), []byte("s"), 0o600))
	_, err := b.server().Execute(t.Context(), request, (&steps{}).emit)
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "the reference is found: %v", err)
}

// TestRefused: what the server could never do is refused before it is asked.
func TestRefused(t *testing.T) {
	t.Parallel()
	nobody := &remote.Server{SSH: []string{"/nonexistent/ssh", "server"}}
	for pointer, request := range map[string]plugin.Request{
		"/source/git_repo/url":       create(t, map[string]any{"git_repo": map[string]any{"url": "file:///srv/app.git"}}),
		"/source/dockerfile/url":     create(t, map[string]any{"dockerfile": map[string]any{"url": "FILE:///srv/Dockerfile"}}),
		"/source/build_context/path": create(t, map[string]any{"dockerfile": map[string]any{"url": "https://example.com/Dockerfile"}, "build_context": map[string]any{"path": "here"}}),
		"/target/registry/password":  verify(t, map[string]any{"url": "127.0.0.1:1", "username": "me", "password": "env:THERE_IS_NO_SUCH_VARIABLE"}),
		"/target/registry/ca_cert":   verify(t, map[string]any{"url": "127.0.0.1:1", "ca_cert": "file:no-such-file"}),
	} {
		_, err := nobody.Execute(t.Context(), request, (&steps{}).emit)
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
		require.ErrorContains(t, err, pointer)
	}
}

// TestNoWay: what stands between us and the server is told as what it is.
func TestNoWay(t *testing.T) {
	t.Parallel()
	request := verify(t, map[string]any{"url": "127.0.0.1:1"})
	fails := func(s *remote.Server, kind fault.Kind, text string) {
		t.Helper()
		_, err := s.Execute(t.Context(), request, (&steps{}).emit)
		require.ErrorContains(t, err, text)
		require.Equal(t, kind, fault.KindOf(err), "%v", err)
	}
	b := to(t, common)
	s := b.server()
	s.Flags = []string{"--engine=steam"}
	fails(s, fault.Invalid, "it is one of auto")
	s = b.server()
	s.Version = "v9"
	fails(s, fault.Invalid, "is image-builder dev, and this one is v9")
	s = b.server()
	s.Programs.Own = "/bin/true"
	s.Programs.Plugin = "/etc/passwd"
	fails(s, fault.Invalid, "there is no image-builder for linux/"+runtime.GOARCH)

	other := newBed(t, testbed.SSHOptions{})
	s = b.server()
	s.SSH[6] = other.Port() // another server with the same name: its key is another
	require.NoError(t, os.WriteFile(b.known, []byte(strings.Replace(b.KnownHost(), b.Port(), other.Port(), 1)), 0o600))
	fails(s, fault.Denied, "its host key is not the one that is known")
	require.NoError(t, os.WriteFile(b.known, []byte(b.KnownHost()), 0o600))

	s = b.server()
	s.SSH[4] = other.Key
	fails(s, fault.Denied, "Permission denied")
	other.Close()
	fails(other.server(), fault.Unavailable, "Connection refused")
}

// hung is a request that the server never ends by itself: the registry does not answer.
func hung(t *testing.T) (request plugin.Request, reached <-chan struct{}, left <-chan struct{}) {
	t.Helper()
	asked, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{Middleware: holding(asked, gone)})
	return verify(t, map[string]any{"url": registry.Host}), asked, gone
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("did not happen: %s", what)
	}
}

// TestCancel: the server ends what it does when it is told to, and when nobody is there any more.
func TestCancel(t *testing.T) {
	t.Parallel()
	b := to(t, common)
	for name, end := range map[string]func(cancel func(), ssh int){
		"cancelled":  func(cancel func(), _ int) { cancel() },
		"ssh killed": func(_ func(), ssh int) { _ = syscall.Kill(ssh, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request, asked, left := hung(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := b.server()
			pid := filepath.Join(t.TempDir(), "pid")
			wrapper := filepath.Join(t.TempDir(), "ssh")
			require.NoError(t, os.WriteFile(wrapper, []byte("#!/bin/sh\necho $$ >"+pid+"\nexec ssh \"$@\"\n"), 0o700))
			s.SSH[0] = wrapper
			ended := make(chan error, 1)
			go func() {
				_, err := s.Execute(ctx, request, (&steps{}).emit)
				ended <- err
			}()
			await(t, "the server asks the registry", asked)
			end(cancel, number(t, pid))
			await(t, "the server leaves the registry alone", left)
			err := <-ended
			if name == "cancelled" {
				require.Equal(t, fault.Cancelled, fault.KindOf(err), "%v", err)
			} else {
				require.ErrorContains(t, err, "the connection to "+b.User+"@127.0.0.1 was lost")
			}
		})
	}
}

// TestSudo: as root where the user asks for it, which must need no password.
func TestSudo(t *testing.T) {
	t.Parallel()
	require.NoError(t, exec.CommandContext(t.Context(), "sudo", "-n", "true").Run(), "this needs sudo without a password: apt-get install sudo")
	b := to(t, common)
	s := b.server()
	s.Sudo = true
	_, err := s.Execute(t.Context(), verify(t, map[string]any{"url": testbed.NewRegistry(t, testbed.RegistryOptions{}).Host}), (&steps{}).emit)
	require.ErrorContains(t, err, "the tag is gone")
}

// TestSudoWithAPassword: it is said that it is sudo which does not let us.
func TestSudoWithAPassword(t *testing.T) {
	t.Parallel()
	tools := t.TempDir() // whom sudo lets is this machine's affair, so here is what it says
	require.NoError(t, os.WriteFile(filepath.Join(tools, "sudo"), []byte("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n"), 0o700))
	b := newBed(t, testbed.SSHOptions{Path: tools})
	s := b.server()
	s.Sudo = true
	_, err := s.Execute(t.Context(), verify(t, map[string]any{"url": "127.0.0.1:1"}), (&steps{}).emit)
	require.Equal(t, fault.Denied, fault.KindOf(err))
	require.ErrorContains(t, err, "as root: sudo: a password is required")
}
