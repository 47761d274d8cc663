// Package queue works builds off: it claims an invocation, runs the plugin on its document, writes the log and says how it
// ended. It keeps a lease on what it builds, and whoever loses the lease stops the build and writes nothing more.
//
// It also does what is done for all builds by whoever is there: take work from workers that are gone, remove old records,
// deliver webhooks. What is a turn, a fence or a state, the package store decides.
package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"time"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/store"
)

// Opener opens what was sealed to the workers; *seal.Opener is one.
type Opener interface {
	Open(id string, sealed []byte) ([]byte, error)
}

// Config is what a Worker works with.
type Config struct {
	Store  *store.Store
	Opener Opener

	// PluginPath is the executable of the plugin that builds images.
	PluginPath string
	// PluginSettings are those of every request to it; the worker sets LeaseFile.
	PluginSettings result.Settings
	// Environment is this process's own, as os.Environ gives it. A plugin gets those few variables of it that it needs, and none
	// that may hold the service's secrets: see pluginNames.
	Environment []string
	// PluginEnvironment is added to that, as in "NAME=value", and wins over it.
	PluginEnvironment []string
	// TempDir is where the plugins' temporary folders are made. Default: os.TempDir().
	TempDir string

	// Concurrency is how many builds run at once. Default 2.
	Concurrency int
	// MaxRunningPerSubject is how many builds of one subject run at once, on all workers together. 0: no limit.
	MaxRunningPerSubject int
	// MaxAttempts is how often a build is begun when workers, plugins or what a build needs go away. Default 5.
	MaxAttempts int
	// Lease is how long a build stays a worker's without a word from it. Default 20 s, so that the builds of one that was killed run
	// again within 30 s.
	Lease time.Duration
	// Heartbeat is how often a lease is renewed. Default a quarter of Lease: three may be missed.
	Heartbeat time.Duration
	// LogLimit is the most output, in bytes, that is kept of one build. Default 64 MiB.
	LogLimit int64
	// DefaultTimeout is how long an attempt may take where the invocation does not say. Default 6 h.
	DefaultTimeout time.Duration
	// Grace is how long Run goes on after its context has ended: builds that do not end by then are handed back. Default 25 s, which
	// leaves room in the 30 s that Kubernetes gives.
	Grace time.Duration
	// Retention is how long ended builds are kept. Default: for ever.
	Retention store.Retention
	// OnlyProcess says that no other process works on this database, as on SQLite with the data folder locked: at the start, every
	// lease is a dead one's.
	OnlyProcess bool

	// Egress guards where webhooks go. Default: a guard that refuses everything special.
	Egress *egress.Guard
	// WebhookRetry is how long to wait after a number of tries, and whether to try again at all. Default: as retryDelivery has it.
	WebhookRetry func(tries int) (time.Duration, bool)

	Observer Observer     // default: nobody
	Logger   *slog.Logger // default: discards
	Owner    string       // of leases: different at each start of each worker. Default: the host's name and random text
}

const (
	defaultConcurrency = 2
	defaultMaxAttempts = 5
	defaultLease       = 20 * time.Second
	defaultLogLimit    = 64 << 20
	defaultTimeout     = 6 * time.Hour
	defaultGrace       = 25 * time.Second
)

func (c Config) withDefaults() Config {
	c.TempDir = cmp.Or(c.TempDir, os.TempDir())
	c.Concurrency = cmp.Or(c.Concurrency, defaultConcurrency)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, defaultMaxAttempts)
	c.Lease = cmp.Or(c.Lease, defaultLease)
	c.Heartbeat = cmp.Or(c.Heartbeat, c.Lease/4)
	c.LogLimit = cmp.Or(c.LogLimit, defaultLogLimit)
	c.DefaultTimeout = cmp.Or(c.DefaultTimeout, defaultTimeout)
	c.Grace = cmp.Or(c.Grace, defaultGrace)
	if c.Egress == nil {
		c.Egress = egress.New(true, nil)
	}
	if c.WebhookRetry == nil {
		c.WebhookRetry = retryDelivery
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Owner == "" {
		host, _ := os.Hostname()
		c.Owner = host + "-" + rand.Text()
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Store == nil, c.Opener == nil:
		return fault.New(fault.Internal, "make a worker: it needs a store and an opener")
	case c.PluginPath == "":
		return fault.New(fault.Invalid, "make a worker: the plugin's executable is not named")
	case c.Concurrency < 0, c.MaxRunningPerSubject < 0, c.MaxAttempts < 0, c.LogLimit < 0:
		return fault.New(fault.Invalid, "make a worker: a number of its configuration is negative")
	case c.Heartbeat < 0, c.DefaultTimeout < 0, c.Grace < 0, c.Lease < 0:
		return fault.New(fault.Invalid, "make a worker: a length of time of its configuration is negative")
	case c.Heartbeat > c.Lease/2:
		return fault.New(fault.Invalid, "make a worker: a heartbeat each %s cannot keep a lease of %s", c.Heartbeat, c.Lease).
			WithHint("it has to come at least twice in each lease")
	}
	return nil
}

// Worker builds. New makes one.
type Worker struct {
	config Config
	now    func() time.Time
	logger *slog.Logger
	builds *builds
}

// New makes a worker, which does nothing until Run. Errors are Invalid.
func New(config Config) (*Worker, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	return &Worker{
		config: config, now: time.Now, builds: newBuilds(),
		logger: config.Logger.With("worker", config.Owner),
	}, nil
}

// Owner is the name under which the worker holds leases.
func (w *Worker) Owner() string { return w.config.Owner }

// Running is how many builds run in this process.
func (w *Worker) Running() int { return w.builds.count() }

// Run works until ctx ends. Then it claims nothing more and gives the running builds Grace: those that have not ended shortly before
// its end are stopped and handed back, to be begun anew by somebody else. Errors are those of the start, and of an end that
// took longer than Grace.
func (w *Worker) Run(ctx context.Context) error { return w.run(ctx) }
