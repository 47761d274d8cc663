//go:build !linux

package managed

import (
	"context"
	"runtime"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

func unsupported() *fault.Error {
	return fault.New(fault.NotFound, "start the managed engine: it needs Linux, and this is %s", runtime.GOOS).
		WithHint("use engine docker (Docker Desktop), or point BUILDKIT_HOST at a BuildKit daemon on Linux")
}

// Acquire fails: BuildKit's daemon runs on Linux only.
func Acquire(context.Context, Config, event.Sink) (*Lease, error) { return nil, unsupported() }

// Supervise fails: BuildKit's daemon runs on Linux only.
func Supervise(context.Context, []string) int { return fault.ExitFailed }

// Status says that there is no managed engine here.
func Status(cfg Config) (Info, error) {
	f := unsupported()
	return Info{StateDir: cfg.StateDir, Problems: []Problem{{Message: f.Message, Hint: f.Hint}}}, nil
}

// Stop does nothing: no daemon can run.
func Stop(context.Context, Config) error { return nil }
