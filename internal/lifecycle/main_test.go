package lifecycle_test

import (
	"context"
	"os"
	"testing"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/testbed"
)

// TestMain keeps the tests away from the configuration of whoever runs them, and lets the test binary be the supervisor of the
// managed engine, as the plugin is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lifecycle.SupervisorCommand {
		os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "lifecycle-test-*")
	if err != nil {
		panic(err)
	}
	root, err := testbed.RepoRoot()
	if err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"DOCKER_CONFIG": dir,
		"PATH":          root + "/bin:" + os.Getenv("PATH"), // buildkitd is there
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
