package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/testbed"
)

const (
	// engineCache holds what one contender makes between two prunes, so that none is slowed down by the daemon's tidying.
	engineCache = 16 << 30
	// engineIdle bridges everything that runs without the daemon.
	engineIdle = 5 * time.Minute
)

// lab is what all contenders share.
type lab struct {
	root   string // of the repository
	dir    string // of this run; gone afterwards
	output string // what programs said
	keep   bool

	builder, plugin, buildctl, buildx string

	registry *testbed.Registry
	git      *testbed.GitServer
	engine   managed.Config
	lease    *managed.Lease
	force    bool // image-builder knows --force
	runs     int
	start    time.Time
	material material
}

// newLab starts registry, git server and daemon. close stops them.
func newLab(ctx context.Context, keep bool) (*lab, error) {
	root, err := testbed.RepoRoot()
	if err != nil {
		return nil, err
	}
	work := filepath.Join(root, ".work", "bench")
	l := &lab{
		root: root, dir: filepath.Join(work, "run"), keep: keep, start: time.Now(),
		builder: filepath.Join(root, "bin", "image-builder"), plugin: filepath.Join(root, "bin", "image-builder-plugin"),
		buildctl: filepath.Join(root, "bin", "buildctl"), buildx: filepath.Join(work, "buildx"),
	}
	l.output = filepath.Join(l.dir, "said")
	if err := os.RemoveAll(l.dir); err != nil {
		return nil, err
	}
	for _, dir := range []string{"said", "home", "docker", "registry", "git"} {
		if err := os.MkdirAll(filepath.Join(l.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := l.open(ctx, filepath.Join(work, "engine")); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) open(ctx context.Context, state string) (err error) {
	// buildah takes a DOCKER_CONFIG without this file for an error.
	if err := os.WriteFile(l.path("docker", "config.json"), []byte("{}\n"), 0o600); err != nil {
		return err
	}
	if l.material, err = readMaterial(ctx); err != nil {
		return err
	}
	if l.registry, err = testbed.StartRegistry(testbed.RegistryOptions{Dir: l.path("registry")}); err != nil {
		return err
	}
	bases := []testbed.BaseImage{{Name: "base/busybox:1"}, {Name: "base/tools:1", Files: map[string]string{"/tools": ""}}}
	for _, v := range variants() {
		bases = append(bases, testbed.BaseImage{Name: "base/" + v + ":1", Files: map[string]string{"/variant": v}})
	}
	if _, err := testbed.PushBases(ctx, l.registry.Host, testbed.BaseOptions{Images: bases, Platforms: matrixPlatforms()}); err != nil {
		return err
	}
	if l.git, err = testbed.StartGit(l.path("git"), testbed.GitOptions{}); err != nil {
		return err
	}
	if l.engine, err = testbed.EngineConfig(ctx); err != nil {
		return err
	}
	// As image-builder itself starts it.
	l.engine.StateDir, l.engine.Idle, l.engine.CacheCap = state, engineIdle, engineCache
	l.engine.Supervisor = []string{l.plugin, "engine-supervisor"}
	if l.lease, err = managed.Acquire(ctx, l.engine, nil); err != nil {
		return err
	}
	help, err := exec.CommandContext(ctx, l.builder, "build", "--help").Output()
	if err != nil {
		return fmt.Errorf("run %s: %w; make build makes it", l.builder, err)
	}
	l.force = strings.Contains(string(help), "--force")
	return l.addBuilder(ctx, "bench", l.lease.Address)
}

// addBuilder tells buildx of a daemon.
func (l *lab) addBuilder(ctx context.Context, name, address string) error {
	_, err := l.time(ctx, "", l.buildx, "create", "--name", name, "--driver", "remote", address)
	return err
}

// close stops what was started, and removes what this run made; the daemon keeps its programs' folder only.
func (l *lab) close() error {
	ctx := context.Background()
	var errs []error
	if l.lease != nil {
		errs = append(errs, l.prune(ctx))
		l.lease.Release()
		errs = append(errs, managed.Stop(ctx, l.engine))
	}
	if l.git != nil {
		l.git.Close()
	}
	if l.registry != nil {
		errs = append(errs, l.registry.Close())
	}
	if !l.keep {
		errs = append(errs, l.removeBuildah(), os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

func (l *lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.dir}, parts...)...)
}

func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// env keeps the user's own configuration and proxies out.
func (l *lab) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + l.path("home"), "USER=" + os.Getenv("USER"), "TMPDIR=" + os.TempDir(),
		"DOCKER_CONFIG=" + l.path("docker"), "BUILDX_CONFIG=" + l.path("docker", "buildx"), "BUILDX_BUILDER=bench",
		// buildx would add a provenance to each image, which nobody else here makes.
		"BUILDX_NO_DEFAULT_ATTESTATIONS=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR"),
	}
}

// time runs a program to its end and tells how many seconds it took. What it says goes into files; an error has its end.
func (l *lab) time(ctx context.Context, dir string, argv ...string) (float64, error) {
	_, took, err := l.run(ctx, dir, argv...)
	return took, err
}

// run is time, with what the program wrote on standard output.
func (l *lab) run(ctx context.Context, dir string, argv ...string) ([]byte, float64, error) {
	cmd, said, err := l.command(ctx, dir, argv...)
	if err != nil {
		return nil, 0, err
	}
	defer said.Close()
	began := time.Now()
	out, err := cmd.Output()
	took := time.Since(began).Seconds()
	if err != nil {
		return out, took, fmt.Errorf("%s: %w: %s", strings.Join(shorten(argv), " "), err, tail(said.Name()))
	}
	return out, took, nil
}

func (l *lab) command(ctx context.Context, dir string, argv ...string) (*exec.Cmd, *os.File, error) {
	said, err := os.CreateTemp(l.output, filepath.Base(argv[0])+"-*")
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, l.env(), said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd, said, nil
}

func shorten(argv []string) []string {
	short := append([]string{filepath.Base(argv[0])}, argv[1:]...)
	return short[:min(len(short), 3)]
}

// tail is the end of what a program said.
func tail(file string) string {
	const most = 600
	data, _ := os.ReadFile(file)
	return strings.TrimSpace(string(data[max(0, len(data)-most):]))
}

// prune empties the daemon's cache: images that were pulled, contexts that were sent, results.
func (l *lab) prune(ctx context.Context) error {
	_, err := l.time(ctx, "", l.buildctl, "--addr", l.lease.Address, "prune", "--all")
	return err
}

// repository is a name in the registry that nobody has pushed to, so that every blob has to be sent.
func (l *lab) repository(name string) string {
	l.runs++
	return fmt.Sprintf("%s/bench/%s-%d", l.registry.Host, name, l.runs)
}

func (l *lab) write(name string, value any) (string, error) {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return "", err
	}
	path := l.path(name)
	return path, os.WriteFile(path, data, 0o600)
}

// folderSize is the number of bytes in a folder's files.
func folderSize(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	return size, err
}
