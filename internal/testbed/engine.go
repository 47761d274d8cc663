package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"imagebuilder/internal/engine/managed"
)

const (
	// stateVariable names the environment variable that puts the tests' engine elsewhere.
	stateVariable = "IMAGE_BUILDER_TEST_STATE"
	// engineIdle bridges the pause between two test packages, and is short enough that nothing is left for long.
	engineIdle = 20 * time.Second
	// engineCache is enough for all that the tests build, in bytes.
	engineCache = 4 << 30
)

// RepoRoot is the folder with this module's go.mod, at or above the working directory.
func RepoRoot() (string, error) { return repositoryRoot() }

// StartEngine gives the address of a real BuildKit daemon that all test packages share: the managed
// engine, with its state in .work of the repository. It is held until release is called, and ends by
// itself some seconds after the last one has let go. The programs come from scripts/setup.sh.
func StartEngine(ctx context.Context) (address string, release func(), err error) {
	cfg, err := EngineConfig(ctx)
	if err != nil {
		return "", nil, err
	}
	lease, err := managed.Acquire(ctx, cfg, nil)
	if err != nil {
		return "", nil, fmt.Errorf("start the tests' engine: %w; `make setup` gets what it needs", err)
	}
	return lease.Address, lease.Release, nil
}

// NewEngine is StartEngine for as long as a test runs.
func NewEngine(t T) string {
	t.Helper()
	address, release, err := StartEngine(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(release)
	return address
}

// EngineConfig is the configuration of the tests' engine.
func EngineConfig(ctx context.Context) (managed.Config, error) {
	root, err := RepoRoot()
	if err != nil {
		return managed.Config{}, err
	}
	supervisor, err := buildSupervisor(ctx, root)
	if err != nil {
		return managed.Config{}, err
	}
	state := os.Getenv(stateVariable)
	if state == "" {
		// One for each user: a daemon is its owner's alone.
		state = filepath.Join(root, ".work", "engine-test-"+strconv.Itoa(os.Geteuid()))
	}
	cfg := managed.Config{
		StateDir: state, Idle: engineIdle, CacheCap: engineCache, Supervisor: []string{supervisor},
		BuildkitdPath: filepath.Join(root, "bin", "buildkitd"),
	}
	if os.Geteuid() != 0 {
		cfg.RootlesskitPath = filepath.Join(root, "bin", "rootlesskit")
	}
	return cfg, nil
}

// buildSupervisor builds the process that keeps the daemon. The go command does nothing when it is fresh.
func buildSupervisor(ctx context.Context, root string) (string, error) {
	tools := filepath.Join(root, ".work", "tools")
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(tools, "engine-supervisor")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./internal/engine/managed/supervisor")
	cmd.Dir = root
	// A temporary folder on the same disk: the result is renamed, so that one that runs is not written to.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTMPDIR="+tools)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the engine's supervisor: %w\n%s", err, out)
	}
	return path, nil
}
