package lifecycle_test

import (
	"os"
	"testing"
)

// TestMain keeps the tests away from the Docker configuration of whoever runs them.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lifecycle-test-*")
	if err != nil {
		panic(err)
	}
	if err := os.Setenv("DOCKER_CONFIG", dir); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
