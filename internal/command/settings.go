package command

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// Engines, as --engine names them.
const (
	engineAuto     = "auto"
	engineBuildKit = "buildkit"
	engineDocker   = "docker"
	engineManaged  = "managed"
)

// defaultIdle is how long a managed engine is kept: long enough for the next build of someone who edits a
// Dockerfile, short enough that a machine is its owner's again soon.
const defaultIdle = 5 * time.Minute

// defaultCacheCap is that of the managed engine itself, in bytes; the host does not link its package.
const defaultCacheCap Size = 10 << 30

// SettingsFlags are the flags that say how to build.
type SettingsFlags struct {
	Plugin string // the plugin's executable; "" looks for it
	Force  bool   // build also what has not changed

	engine       string
	buildkitHost string
	buildkitCA   string
	buildkitCert string
	buildkitKey  string
	dockerHost   string
	stateDir     string
	cacheDir     string
	idle         time.Duration
	cacheCap     Size
	parallel     int
	nodes        nodeFlags
	config       configFlag
}

// Add adds the flags to a command.
func (s *SettingsFlags) Add(cmd *cobra.Command) {
	s.engine, s.cacheCap = engineAuto, defaultCacheCap
	flags := cmd.Flags()
	ChoiceFlag(cmd, NewChoice(&s.engine, engineAuto, engineBuildKit, engineDocker, engineManaged), "engine", "",
		"what builds: a BuildKit daemon, a Docker Engine, a daemon that is started on demand, or the first of them that answers")
	flags.StringVar(&s.buildkitHost, "buildkit-host", "", "`ADDRESS` of a BuildKit daemon, as unix:///run/buildkit/buildkitd.sock or tcp://host:1234")
	flags.StringVar(&s.buildkitCA, "buildkit-ca", "", "PEM `FILE` with who vouches for a tcp:// daemon")
	flags.StringVar(&s.buildkitCert, "buildkit-cert", "", "PEM `FILE` with our certificate for it")
	flags.StringVar(&s.buildkitKey, "buildkit-key", "", "PEM `FILE` with the certificate's key")
	flags.StringVar(&s.dockerHost, "docker-host", "", "address of a Docker Engine; without it, DOCKER_HOST or the current context of the docker command")
	flags.StringVar(&s.stateDir, "state-dir", "", "`FOLDER` where the managed engine lives")
	flags.StringVar(&s.cacheDir, "cache-dir", "", "`FOLDER` where mirrors of git repositories live")
	flags.DurationVar(&s.idle, "engine-idle", defaultIdle, "how long the managed engine is kept after its last build; 0 stops it at once")
	flags.Var(&s.cacheCap, "engine-cache-cap", "most that the managed engine's build cache may take, as 20GB")
	flags.IntVar(&s.parallel, "parallel", 0, "variants built at once; 0 leaves it to the plugin")
	for flag, variable := range map[string]string{
		"engine":           "IMAGE_BUILDER_ENGINE",
		"buildkit-host":    "BUILDKIT_HOST",
		"buildkit-ca":      "IMAGE_BUILDER_BUILDKIT_CA",
		"buildkit-cert":    "IMAGE_BUILDER_BUILDKIT_CERT",
		"buildkit-key":     "IMAGE_BUILDER_BUILDKIT_KEY",
		"state-dir":        "IMAGE_BUILDER_STATE_DIR",
		"cache-dir":        "IMAGE_BUILDER_CACHE_DIR",
		"engine-idle":      "IMAGE_BUILDER_ENGINE_IDLE",
		"engine-cache-cap": "IMAGE_BUILDER_ENGINE_CACHE_CAP",
		"parallel":         "IMAGE_BUILDER_PARALLEL",
	} {
		Environment(flags, flag, variable)
	}
	s.nodes.add(flags)
	s.config.add(flags)
	PluginFlag(cmd, &s.Plugin)
}

// Settings are the settings for the plugin. Paths are made absolute: the plugin may run elsewhere.
func (s *SettingsFlags) Settings() (result.Settings, error) {
	switch {
	case s.idle < 0:
		return result.Settings{}, fault.New(fault.Invalid, "--engine-idle %s is negative", s.idle)
	case s.parallel < 0:
		return result.Settings{}, fault.New(fault.Invalid, "--parallel %d is negative", s.parallel)
	}
	nodes, err := s.nodes.settings()
	if err != nil {
		return result.Settings{}, err
	}
	out := result.Settings{
		Engine:        s.engine,
		BuildKitHost:  s.buildkitHost,
		BuildKitCA:    s.buildkitCA,
		BuildKitCert:  s.buildkitCert,
		BuildKitKey:   s.buildkitKey,
		DockerHost:    s.dockerHost,
		StateDir:      s.stateDir,
		CacheDir:      s.cacheDir,
		IdleSeconds:   s.idle.Seconds(),
		CacheCapBytes: int64(s.cacheCap),
		Parallel:      s.parallel,
		Force:         s.Force,
		Nodes:         nodes,
	}
	for _, path := range []*string{&out.BuildKitCA, &out.BuildKitCert, &out.BuildKitKey, &out.StateDir, &out.CacheDir} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return result.Settings{}, fault.New(fault.Invalid, "%s: %w", *path, err)
		}
		*path = absolute
	}
	return out, s.config.apply(&out)
}

// Marshal is the settings as the plugin takes them.
func (s *SettingsFlags) Marshal() (json.RawMessage, error) {
	settings, err := s.Settings()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode the settings: %w", err)
	}
	return raw, nil
}

// ConfigurationPath is what --config or its variable says; "" when neither does.
func (s *SettingsFlags) ConfigurationPath() string { return s.config.path }
