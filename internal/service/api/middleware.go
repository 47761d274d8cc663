package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"

	"go.opentelemetry.io/otel/propagation"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
)

type requestKey struct{}

// requestID is the id of the request that the context is of.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// enclose puts around everything what is the same for everything: a request id, headers, an answer to defects, and figures.
func (s *server) enclose(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.Now()
		id := r.Header.Get("X-Request-Id")
		if !goodRequestID(id) {
			id = s.NewRequestID()
		}
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		header := w.Header()
		header.Set("X-Request-Id", id)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		// Clients of the original are started with URLs that end in a slash, and ask for //build/.
		if strings.HasPrefix(r.URL.Path, "//") {
			r.URL.Path = "/" + strings.TrimLeft(r.URL.Path, "/")
			r.URL.RawPath = ""
		}
		answer := &answer{ResponseWriter: w}
		defer func() {
			thrown := recover()
			if thrown != nil && !isAbort(thrown) {
				s.Logger.ErrorContext(r.Context(), "request panicked", "request_id", id, "route", r.Pattern, "panic", thrown, "stack", string(debug.Stack()))
				if answer.status == 0 {
					s.problem(answer, r, Problem{
						Status: http.StatusInternalServerError, Kind: string(fault.Internal),
						Detail: "the service has a defect", Hint: "tell its operators the instance: the log has it",
					})
					thrown = nil
				} else {
					thrown = http.ErrAbortHandler // the answer is broken off, so that it is not taken for a whole one
				}
			}
			if s.Observe != nil {
				s.Observe(r.Method, route(r.Pattern), answer.code(), s.Now().Sub(start))
			}
			if thrown != nil {
				panic(thrown)
			}
		}()
		next.ServeHTTP(answer, r)
	})
}

func isAbort(thrown any) bool {
	err, ok := thrown.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// route is a pattern without its method.
func route(pattern string) string {
	if _, path, found := strings.Cut(pattern, " "); found {
		return path
	}
	return pattern
}

// goodRequestID tells whether a caller's own id for its request can be taken over into logs and answers.
func goodRequestID(id string) bool {
	const most = 64
	return id != "" && len(id) <= most && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// traceParent is the trace that the request is of: that of the span around it, or what the caller sent.
func traceParent(r *http.Request) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(r.Context(), carrier)
	if parent := carrier["traceparent"]; parent != "" {
		return parent
	}
	return r.Header.Get("Traceparent")
}

// answer remembers the status.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(data []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(data)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// authenticate gives the request its caller, or answers that there is none, or that it asks too often.
func (s *server) authenticate(w http.ResponseWriter, r *http.Request) (*http.Request, bool) {
	host := s.host(r)
	if wait := s.limits.refuse(host, r); wait > 0 {
		s.tooMany(w, r, "too many requests with wrong credentials come from this address", seconds(wait))
		return r, false
	}
	principal, err := s.Auth.Authenticate(r)
	switch f := fault.As(err); {
	case f == nil:
	case f.Kind == fault.Denied:
		s.limits.failed(host)
		for _, challenge := range s.Auth.Challenge(err) {
			w.Header().Add("WWW-Authenticate", challenge)
		}
		s.problem(w, r, Problem{Status: http.StatusUnauthorized, Kind: string(fault.Denied), Detail: f.Message, Hint: f.Hint})
		return r, false
	default:
		s.fail(w, r, err)
		return r, false
	}
	s.limits.succeeded(r)
	if wait := s.limits.caller(principal.Subject); wait > 0 {
		s.tooMany(w, r, "too many requests", seconds(wait))
		return r, false
	}
	return r.WithContext(auth.ContextWith(r.Context(), principal)), true
}

func (s *server) tooMany(w http.ResponseWriter, r *http.Request, detail, after string) {
	w.Header().Set("Retry-After", after)
	s.problem(w, r, Problem{Status: http.StatusTooManyRequests, Kind: string(fault.Unavailable), Detail: detail, Hint: "try again in " + after + " s"})
}

// host is the address that a request comes from: that of the connection, or behind proxies that are known, what the first of them saw.
func (s *server) host(r *http.Request) string {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	at := from.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.isProxy(at); i-- {
		before, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = before.Unmap()
	}
	if at.Is6() { // one customer has at least a /64
		if network, err := at.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return at.String()
}

func (s *server) isProxy(at netip.Addr) bool {
	for _, p := range s.Limits.Proxies {
		if p.Contains(at) {
			return true
		}
	}
	return false
}
