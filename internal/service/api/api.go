// Package api serves the REST API of schemas/openapi.yaml: the original's two routes, /v1, the document itself with Swagger UI, and
// health. It turns requests into calls of package builds and answers into JSON, problem details, event streams and text; what callers may
// do is decided there, and who they are in package auth.
package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
)

// Authenticator tells who calls; *auth.Authenticator is one.
type Authenticator interface {
	Authenticate(r *http.Request) (auth.Principal, error)
	Challenge(err error) []string
}

// Check is one thing that the service needs to do its work.
type Check struct {
	Name string // database, queue, engine
	// Ready is nil when it is there. The error is shown to anybody, so it names no secret and no address. A call ends within a few
	// seconds: its context does.
	Ready func(ctx context.Context) error
}

// Config is what a handler works with.
type Config struct {
	Builds *builds.Service
	Auth   Authenticator
	Ready  []Check // what /readyz looks at, side by side
	Limits Limits
	// Observe, if not nil, hears of each request once it is answered: the method, the route's pattern as /v1/invocations/{invocation_id}
	// ("" where no route was found), the status, and how long it took. A followed log counts until it ends.
	Observe func(method, route string, status int, took time.Duration)
	Logger  *slog.Logger // of defects and of requests that the service could not serve; default: discards
	Version string       // shown by /healthz and in the document
	Rest    http.Handler // answers what is not of this package, as the web page; nil: problem details with 404

	Now          func() time.Time // default time.Now
	NewRequestID func() string    // default: 26 random characters
}

// Limits bound what callers may ask for. Zero values are the defaults; less than 0 is no limit, where that can be.
type Limits struct {
	BodyBytes int64         // largest body of a request; default 1 MiB, the largest document
	PerCaller float64       // requests a second of one caller, who may save up twice as many; default 200
	PerHost   float64       // requests a second of one address whose credentials are missing or wrong; default 10
	Stream    time.Duration // how long a log is followed by one request, so that credentials are looked at again; default 1 h
	KeepAlive time.Duration // how often a silent stream says that it is there; default 15 s: proxies close what is silent for half a minute
	// Proxies are the addresses whose X-Forwarded-For is believed. Without them the address is that of the connection.
	Proxies []netip.Prefix
}

func (l Limits) withDefaults() Limits {
	if l.BodyBytes == 0 {
		l.BodyBytes = 1 << 20
	}
	if l.PerCaller == 0 {
		l.PerCaller = 200
	}
	if l.PerHost == 0 {
		l.PerHost = 10
	}
	if l.Stream == 0 {
		l.Stream = time.Hour
	}
	if l.KeepAlive <= 0 {
		l.KeepAlive = 15 * time.Second
	}
	return l
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewRequestID == nil {
		c.NewRequestID = rand.Text
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

// server answers requests. It is made by New.
type server struct {
	Config
	limits    *limiters
	validator *validator
	document  []byte // served at /openapi.json
	readiness readiness
}

// New makes the handler of the API. Followed logs end when the context of their requests does: a server that is to shut down
// in order cancels its base context.
func New(config Config) (http.Handler, error) {
	config = config.withDefaults()
	s := &server{Config: config}
	doc, err := contract()
	if err != nil {
		return nil, err
	}
	s.validator = newValidator(doc)
	if s.document, err = servedDocument(doc, config.Version); err != nil {
		return nil, err
	}
	if s.limits, err = newLimiters(config.Limits, config.Now); err != nil {
		return nil, err
	}
	return s.enclose(s.routes()), nil
}
