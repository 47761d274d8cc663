//go:build linux

package managed_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/fault"
)

// TestMain lets the test binary be the other processes that take part: the supervisor, and users
// that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "engine-supervisor":
			os.Exit(managed.Supervise(context.Background(), os.Args[2:]))
		case "user":
			os.Exit(user(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// user does what its arguments say: STATEDIR BUILDKITD ROOTLESSKIT SUPERVISOR [FOLDER ARG…].
// It acquires the engine, runs the folder's program in a container if there is one, says so, and holds on until its stdin ends.
func user(args []string) int {
	cfg := managed.Config{
		StateDir: args[0], BuildkitdPath: args[1], RootlesskitPath: args[2], Idle: idle,
		Supervisor: []string{args[3], "engine-supervisor"},
	}
	lease, err := managed.Acquire(context.Background(), cfg, nil)
	if err != nil {
		fmt.Printf("%s\n%s: %s\n", err, fault.KindOf(err), fault.As(err).Hint)
		return 1
	}
	defer lease.Release()
	if len(args) > 4 {
		out, err := run(context.Background(), lease.Address, args[4], args[5:]...)
		fmt.Println(out)
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("ready", lease.Address)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}
