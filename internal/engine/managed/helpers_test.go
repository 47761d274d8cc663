//go:build linux

package managed_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/engine/managed"
)

const (
	idle     = 2 * time.Second
	patience = 60 * time.Second // for things that take well under a second on a quiet machine
)

// bin gives one of the programs that scripts/setup.sh builds.
func bin(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "bin", name))
	require.NoError(t, err)
	require.FileExists(t, path, "run `make setup` first")
	return path
}

// newConfig is an engine in a folder of its own, of which nothing is left after the test.
func newConfig(t *testing.T) managed.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "managed-test-")
	require.NoError(t, err)
	t.Cleanup(func() { removeState(t, dir) })
	return configIn(t, dir)
}

func configIn(t *testing.T, dir string) managed.Config {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cfg := managed.Config{
		StateDir: dir, Idle: idle, BuildkitdPath: bin(t, "buildkitd"), RootlesskitPath: bin(t, "rootlesskit"),
		Supervisor: []string{exe, "engine-supervisor"},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, managed.Stop(ctx, cfg))
		requireGone(t, dir)
	})
	return cfg
}

// removeState removes a state folder: in a rootless one, files belong to our subordinate ids.
func removeState(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		out, err := exec.Command(bin(t, "rootlesskit"), "rm", "-rf", dir).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	require.NoError(t, os.RemoveAll(dir))
}

// requireGone requires that no process, socket or cgroup of an engine is left.
func requireGone(t *testing.T, stateDir string) {
	t.Helper()
	eventually(t, "the engine is gone", func() bool {
		_, err := os.Stat(filepath.Join(stateDir, "daemon.json"))
		return os.IsNotExist(err) && len(processes(stateDir)) == 0
	})
	sum := sha256.Sum256([]byte(stateDir))
	hash := hex.EncodeToString(sum[:6])
	for _, pattern := range []string{
		filepath.Join(stateDir, "run-*"), "/tmp/image-builder-*-" + hash + "-*", // sockets
		"/sys/fs/cgroup/image-builder-" + hash, "/sys/fs/cgroup/*/image-builder-" + hash, // version 2, hierarchies of version 1
	} {
		left, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// processes are the ids of processes whose argv contains a text.
func processes(text string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []int
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && bytes.Contains(data, []byte(text)) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && pid != os.Getpid() {
				out = append(out, pid)
			}
		}
	}
	return out
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, patience, 20*time.Millisecond, what)
}

func acquire(t *testing.T, cfg managed.Config) *managed.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lease, err := managed.Acquire(ctx, cfg, nil)
	require.NoError(t, err)
	t.Cleanup(lease.Release)
	return lease
}

func status(t *testing.T, cfg managed.Config) managed.Info {
	t.Helper()
	info, err := managed.Status(cfg)
	require.NoError(t, err)
	return info
}

// program builds what runs in the containers: static, so that it is an image by itself.
func program(t *testing.T) string {
	t.Helper()
	return programFor(t, runtime.GOARCH)
}

func programFor(t *testing.T, architecture string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "program"), "./testdata/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+architecture)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return dir
}

// runs makes each run differ from those before, so that none is cached.
var runs atomic.Int64

// run runs the program in a container and gives its output.
func run(ctx context.Context, address, dir string, args ...string) (string, error) {
	c, err := bkclient.New(ctx, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		return "", err
	}
	image := llb.Scratch().File(llb.Copy(llb.Local("program", llb.SharedKeyHint(dir)), "/program", "/program"))
	state := image.Run(llb.Args(append([]string{"/program"}, args...)),
		llb.AddEnv("RUN", fmt.Sprint(os.Getpid(), "-", runs.Add(1)))).Root()
	def, err := state.Marshal(ctx)
	if err != nil {
		return "", err
	}
	statuses := make(chan *bkclient.SolveStatus)
	var out strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := range statuses {
			for _, l := range s.Logs {
				out.Write(l.Data)
			}
		}
	}()
	_, err = c.Solve(ctx, def, bkclient.SolveOpt{LocalMounts: map[string]fsutil.FS{"program": fs}, SharedKey: dir}, statuses)
	<-read
	return strings.TrimSpace(out.String()), err
}

// process is another process that uses the engine.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

// startUser starts a command line that ends in the words for TestMain's user.
func startUser(t *testing.T, env []string, argv ...string) *process {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = env
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &process{cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
}

// until reads what the process says up to a line that begins with a word.
func (p *process) until(t *testing.T, word string) string {
	t.Helper()
	var said []string
	for p.lines.Scan() {
		said = append(said, p.lines.Text())
		if strings.HasPrefix(p.lines.Text(), word) {
			return strings.Join(said, "\n")
		}
	}
	require.Failf(t, "the process has ended", "it said:\n%s", strings.Join(said, "\n"))
	return ""
}

// finish ends the process's stdin and waits for it.
func (p *process) finish(t *testing.T) {
	t.Helper()
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.cmd.Wait())
}
