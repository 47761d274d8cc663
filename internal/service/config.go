// Package service puts the parts of the REST service together: the database, whoever is let in, the API, the web page and the
// worker, in one process or spread over many. It decides nothing about builds.
package service

import (
	"cmp"
	"crypto/tls"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

// Role is which part of the service a process is.
type Role string

// The roles.
const (
	RoleAll    Role = "all"    // API, web page and worker
	RoleAPI    Role = "api"    // API and web page
	RoleWorker Role = "worker" // builds
)

func (r Role) serves() bool { return r != RoleWorker }
func (r Role) builds() bool { return r != RoleAPI }

// Config is what a process of the service works with. The zero value of a field is its default.
type Config struct {
	Role          Role   // default all
	Listen        string // address; default 127.0.0.1:8080
	MetricsListen string // address of /metrics; default: Listen's own
	TLSCert       string // PEM file; with TLSKey the service speaks https
	TLSKey        string // PEM file
	PublicURL     string // how people reach the service, as https://builds.example.com; default: http(s)://Listen
	DataDir       string // keys and, without Postgres, the database; made with mode 0700

	Postgres *store.Postgres // nil: SQLite in DataDir, for one process
	Migrate  bool            // bring PostgreSQL's schema up to date at the start; SQLite's always is

	Auth auth.Config // who is let in; nobody configured and SQLite: a key is generated and printed
	// SignIn is how people sign in on the web page beside API keys.
	SignIn *auth.SignIn
	// ProviderName is what the web page calls the provider of SignIn.
	ProviderName string

	SealTo     []string // age recipients of the workers; default: those of Identities
	Identities string   // file with the workers' age identities; default: one made in DataDir, with SQLite

	Plugins  []string        // paths of plugins, the best first
	Settings result.Settings // how to build
	// Egress are prefixes of addresses that are not public and that builds may reach all the same.
	Egress          []netip.Prefix
	PlainRegistries []string // hosts that may be pushed to by plain http; "*" is every host

	Concurrency int           // builds at once; default 2
	MaxRunning  int           // builds of one subject at once, over all workers; 0: no limit
	MaxQueued   int           // builds of one subject that wait; default 100, less than 0: no limit
	MaxAttempts int           // how often a build may be begun; default 5
	LogLimit    int64         // bytes of output kept of one build; default 64 MiB
	Timeout     time.Duration // longest that a build may run; default 6 h
	QueueTTL    time.Duration // longest that a build may wait; default 24 h
	Grace       time.Duration // how long builds may go on when the process is asked to end; default 20 s
	Retention   store.Retention
	RateLimit   float64        // requests a second of one caller; default 200, less than 0: no limit
	Proxies     []netip.Prefix // whose X-Forwarded-For is believed

	Version   string
	LookupEnv func(string) (string, bool)
	Environ   []string // of this process; plugins get it without our own secrets
	Now       func() time.Time
	Out       io.Writer // what is printed once for people, as a generated key
	Logger    *slog.Logger
	// Ready, if not nil, is called with the address once requests are answered.
	Ready func(address string)
}

// Defaults of Config that the command line shows.
const (
	DefaultListen      = "127.0.0.1:8080"
	DefaultConcurrency = 2
	DefaultMaxQueued   = 100
	DefaultMaxAttempts = 5
	DefaultLogLimit    = 64 << 20
	DefaultTimeout     = 6 * time.Hour
	DefaultQueueTTL    = 24 * time.Hour
	// DefaultGrace is less than the 30 s that Kubernetes leaves between SIGTERM and SIGKILL.
	DefaultGrace = 20 * time.Second
	// DefaultRateLimit leaves room for a client that looks at the status of a hundred builds each second.
	DefaultRateLimit = 200
)

func (c Config) withDefaults() Config {
	c.Role = cmp.Or(c.Role, RoleAll)
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.MaxQueued = cmp.Or(c.MaxQueued, DefaultMaxQueued)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, DefaultMaxAttempts)
	c.LogLimit = cmp.Or(c.LogLimit, DefaultLogLimit)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.QueueTTL = cmp.Or(c.QueueTTL, DefaultQueueTTL)
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// validate names what does not fit together before anything is touched.
func (c Config) validate() error {
	switch {
	case c.Role != RoleAll && c.Role != RoleAPI && c.Role != RoleWorker:
		return fault.New(fault.Invalid, "role %q is none of all, api and worker", c.Role)
	case c.Role != RoleAll && c.Postgres == nil:
		return fault.New(fault.Invalid, "role %s needs PostgreSQL: SQLite serves one process that does everything", c.Role).
			WithHint("set IMAGEBUILDER_DATABASE_IP and the other variables of docs/service.md, or leave --role out")
	case c.DataDir == "" && c.Postgres == nil:
		return fault.New(fault.Invalid, "without PostgreSQL, a data folder is needed")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return fault.New(fault.Invalid, "--tls-cert and --tls-key go together")
	case c.Postgres != nil && c.Role.builds() && c.Identities == "":
		return fault.New(fault.Invalid, "a worker needs the identity that documents are sealed to").
			WithHint("make one with 'image-builder-api keygen', give it to all workers by --identities, and its recipient to the others by --seal-to")
	case c.Postgres != nil && c.Role.serves() && c.Identities == "" && len(c.SealTo) == 0:
		return fault.New(fault.Invalid, "documents hold secrets and are sealed to the workers, but nobody says to whom").
			WithHint("give --seal-to the recipient that 'image-builder-api keygen' printed for the workers' identity")
	case c.Role.builds() && len(c.Plugins) == 0:
		return fault.New(fault.NotFound, "there is no plugin to build with")
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
			return fault.New(fault.Invalid, "--public-url is no http or https address of a host, as https://builds.example.com")
		}
	}
	return nil
}

// tls is how the service speaks https, and nil where it does not.
func (c Config) tls() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fault.New(fault.Invalid, "certificate of the service: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}
