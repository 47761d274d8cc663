package testbed

import (
	"context"
	"fmt"

	"imagebuilder/internal/engine/managed"
)

// StartNode is StartEngine for a second daemon, which has nothing in common with the first.
func StartNode(ctx context.Context) (address string, release func(), err error) {
	cfg, err := EngineConfig(ctx)
	if err != nil {
		return "", nil, err
	}
	cfg.StateDir += "-node"
	lease, err := managed.Acquire(ctx, cfg, nil)
	if err != nil {
		return "", nil, fmt.Errorf("start the tests' second engine: %w; `make setup` gets what it needs", err)
	}
	return lease.Address, lease.Release, nil
}

// NewNode is StartNode for as long as a test runs.
func NewNode(t T) string {
	t.Helper()
	address, release, err := StartNode(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(release)
	return address
}
