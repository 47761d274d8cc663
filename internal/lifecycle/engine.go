package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/util/appdefaults"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// Names of engines, as the user gives them.
const (
	engineAuto     = "auto"
	engineBuildKit = "buildkit"
	engineDocker   = "docker"
	engineManaged  = "managed"
)

// stopAtOnce is the shortest idle time: for package managed, zero means its default.
const stopAtOnce = time.Millisecond

// SupervisorCommand is the plugin's argument that makes it the managed engine's supervisor.
const SupervisorCommand = "engine-supervisor"

// openEngine opens the engine that the settings ask for. auto takes the first that answers: a BuildKit daemon at
// BUILDKIT_HOST or at its usual socket, then a Docker Engine where the docker command would find one, otherwise
// a daemon of our own.
func openEngine(ctx context.Context, s result.Settings, turns *engine.Turns, emit event.Sink) (engine.Engine, error) {
	switch s.Engine {
	case engineBuildKit:
		return openBuildKit(ctx, s)
	case engineDocker:
		return openDocker(ctx, s)
	case engineManaged:
		return openManaged(ctx, s, turns, emit)
	case engineAuto, "":
		if buildKitAddress(s) != "" {
			eng, err := openBuildKit(ctx, s)
			if err == nil || ctx.Err() != nil {
				return eng, err
			}
			emit.Note(event.Warning, fault.As(err).Message+"; trying another engine")
		}
		if engine.HasDocker(s.DockerHost) {
			eng, err := openDocker(ctx, s)
			if err == nil || ctx.Err() != nil {
				return eng, err
			}
			emit.Note(event.Warning, fault.As(err).Message+"; using the managed engine")
		}
		return openManaged(ctx, s, turns, emit)
	default:
		return nil, fault.New(fault.Invalid, "engine %q is not known", s.Engine).
			WithHint("choose %s, %s, %s or %s", engineAuto, engineBuildKit, engineDocker, engineManaged)
	}
}

// engineName is the engine that would be used, without starting one.
func engineName(s result.Settings) string {
	if s.Engine == engineAuto || s.Engine == "" {
		if buildKitAddress(s) != "" {
			return engineBuildKit
		}
		if engine.HasDocker(s.DockerHost) {
			return engineDocker
		}
		return engineManaged
	}
	return s.Engine
}

func openBuildKit(ctx context.Context, s result.Settings) (engine.Engine, error) {
	address := buildKitAddress(s)
	if address == "" {
		return nil, fault.New(fault.Invalid, "engine buildkit has no address").
			WithHint("give --buildkit-host or set BUILDKIT_HOST, as in unix:///run/buildkit/buildkitd.sock")
	}
	eng, err := engine.Dial(ctx, engineBuildKit, address, engine.TLS{CA: s.BuildKitCA, Cert: s.BuildKitCert, Key: s.BuildKitKey}, nil)
	if err != nil {
		return nil, err
	}
	return eng, nil
}

func openDocker(ctx context.Context, s result.Settings) (engine.Engine, error) {
	eng, err := engine.DialDocker(ctx, s.DockerHost)
	if err != nil {
		return nil, err // and no engine: a nil *Docker would be one
	}
	return eng, nil
}

// buildKitAddress is the configured address, or the usual one when there is a socket; "" when there is neither.
func buildKitAddress(s result.Settings) string {
	if s.BuildKitHost != "" {
		return s.BuildKitHost
	}
	for _, address := range []string{appdefaults.Address, userSocket()} {
		if path, ok := strings.CutPrefix(address, "unix://"); ok {
			if _, err := os.Stat(path); err == nil {
				return address
			}
		}
	}
	return ""
}

// userSocket is where a rootless buildkitd listens.
func userSocket() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return ""
	}
	return "unix://" + filepath.Join(dir, "buildkit", "buildkitd.sock")
}

func openManaged(ctx context.Context, s result.Settings, turns *engine.Turns, emit event.Sink) (engine.Engine, error) {
	cfg, err := managedConfig(s)
	if err != nil {
		return nil, err
	}
	lease, err := managed.Acquire(ctx, cfg, emit)
	if err != nil {
		return nil, err
	}
	eng, err := engine.Dial(ctx, engineManaged, lease.Address, engine.TLS{}, lease.Release)
	if err != nil {
		lease.Release()
		return nil, err
	}
	eng.NoHistory, eng.Turns = true, turns
	return eng, nil
}

func managedConfig(s result.Settings) (managed.Config, error) {
	self, err := os.Executable()
	if err != nil {
		return managed.Config{}, fault.New(fault.Internal, "find the own executable: %w", err)
	}
	return managed.Config{
		StateDir: s.StateDir, CacheCap: s.CacheCapBytes,
		Idle:       max(time.Duration(s.IdleSeconds*float64(time.Second)), stopAtOnce),
		Supervisor: []string{self, SupervisorCommand},
	}, nil
}
