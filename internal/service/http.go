package service

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/follow"
	"imagebuilder/internal/service/web"
)

const (
	// headerWithin bounds how long a request's header may take: what is slower is no client of ours.
	headerWithin = 10 * time.Second
	// bodyWithin is what the largest document takes on a slow line.
	bodyWithin = 30 * time.Second
	// idleFor is how long a connection is kept for the next request.
	idleFor = 2 * time.Minute
	// answersWithin is what requests that run at the end get; logs that are followed end after streamsWithin.
	answersWithin = 5 * time.Second
	streamsWithin = time.Second
	// maxHeader is more than any token takes.
	maxHeader = 64 << 10
)

// handler makes what answers requests. A worker has only its health and its metrics.
// What follows logs for it has to run, where there is one.
func (p *process) handler(ctx context.Context, checks []api.Check) (http.Handler, *follow.Hub, error) {
	mux := http.NewServeMux()
	if p.MetricsListen == "" {
		mux.Handle("GET /metrics", p.metrics.Handler())
	}
	if !p.Role.serves() {
		mux.Handle("/", api.NewHealth(api.Config{Ready: checks, Logger: p.Logger, Version: p.Version}))
		return mux, nil, nil
	}
	p.Auth.Now, p.Auth.Logger = p.Now, p.Logger
	who, err := auth.New(ctx, p.Auth)
	if err != nil {
		return nil, nil, err
	}
	sealer, err := p.sealer()
	if err != nil {
		return nil, nil, err
	}
	hub := follow.New(p.store)
	config := builds.Config{
		Store: p.store, Hub: hub, Sealer: sealer,
		Limits: builds.Limits{Timeout: p.Timeout, QueueTTL: p.QueueTTL, Queued: p.MaxQueued},
		Policy: builds.Policy{Addresses: p.Egress, PlainRegistries: p.PlainRegistries},
		Now:    p.Now,
	}
	if len(p.Plugins) > 0 {
		config.Planner = p.plan
	}
	uses := builds.New(config)
	sessions, err := auth.NewSessions(who, auth.SessionsConfig{Store: p.store, PublicURL: p.publicURL(), SignIn: p.SignIn})
	if err != nil {
		return nil, nil, err
	}
	pages, err := web.New(web.Config{Builds: uses, Log: p.store, Auth: sessions, Logger: p.Logger, Now: p.Now, Provider: p.ProviderName, Version: p.Version})
	if err != nil {
		return nil, nil, err
	}
	rest, err := api.New(api.Config{
		Builds: uses, Auth: who, Ready: checks, Limits: api.Limits{PerCaller: p.RateLimit, Proxies: p.Proxies}, Observe: p.metrics.ObserveHTTP,
		Logger: p.Logger, Version: p.Version, Rest: pages, Now: p.Now,
	})
	if err != nil {
		return nil, nil, err
	}
	if !p.tracing.On { // what a caller sends about its trace goes with the build all the same
		mux.Handle("/", rest)
		return mux, hub, nil
	}
	mux.Handle("/", otelhttp.NewHandler(rest, "http", otelhttp.WithTracerProvider(p.tracing.Provider),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + routeOf(r.URL.Path) }),
		otelhttp.WithPropagators(propagation.TraceContext{})))
	return mux, hub, nil
}

// routeOf names what was asked for without the ids in its path, as /status and /v1/invocations.
func routeOf(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	switch {
	case parts[0] == "v1" && len(parts) > 1 && parts[1] == "invocations":
		return "/v1/invocations"
	case slices.Contains([]string{"build", "status", "v1", "builds", "ui", "static"}, parts[0]):
		return "/" + parts[0]
	}
	return "/" // strangers make paths up
}

// bodiesWithin bounds the time that a request's body takes to arrive. The server's own bound on reading would end streams too.
func bodiesWithin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(time.Now().Add(bodyWithin)) // only a connection of another kind has none
			r.Body = &timedBody{ReadCloser: r.Body, control: control}
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody lifts the bound once all is there: the answer may take its time.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// publicURL is how people reach the service: this host itself where nothing else is said.
func (p *process) publicURL() string {
	if p.PublicURL != "" {
		return p.PublicURL
	}
	scheme := "http://"
	if p.TLSCert != "" {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(p.Listen)
	if err != nil {
		return scheme + p.Listen
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + net.JoinHostPort(host, port)
}

// serve answers requests until ctx ends, and then those that are being answered.
func (p *process) serve(ctx context.Context, group *errgroup.Group, listener net.Listener, handler http.Handler) error {
	secure, err := p.tls()
	if err != nil {
		return err
	}
	p.start(ctx, group, listener, &http.Server{Handler: handler, TLSConfig: secure})
	if p.MetricsListen == "" {
		return nil
	}
	metrics, err := listen(p.MetricsListen, "--metrics-listen")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", p.metrics.Handler())
	p.start(ctx, group, metrics, &http.Server{Handler: mux})
	return nil
}

func (p *process) start(ctx context.Context, group *errgroup.Group, listener net.Listener, server *http.Server) {
	server.Handler = bodiesWithin(server.Handler)
	server.ReadHeaderTimeout, server.IdleTimeout, server.MaxHeaderBytes = headerWithin, idleFor, maxHeader
	requests, endRequests := context.WithCancel(context.WithoutCancel(ctx))
	server.BaseContext = func(net.Listener) context.Context { return requests }
	group.Go(func() error {
		serve := func() error { return server.Serve(listener) }
		if server.TLSConfig != nil {
			serve = func() error { return server.ServeTLS(listener, "", "") }
		}
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		defer endRequests()
		<-ctx.Done()
		streams := time.AfterFunc(streamsWithin, endRequests)
		defer streams.Stop()
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), answersWithin)
		defer cancel()
		if err := server.Shutdown(within); err != nil {
			return server.Close()
		}
		return nil
	})
}
