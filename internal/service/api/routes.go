package api

import (
	"net/http"
	"slices"
	"strings"

	"imagebuilder/internal/service/auth"
)

// open are the routes that need no credentials, by pattern.
var open = []string{"GET /openapi.json", "GET /healthz", "GET /readyz"}

// routes is everything that is served, and Config.Rest below it.
func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	own := &router{server: s, mux: mux, methods: map[string][]string{}}
	HandlerWithOptions(s, StdHTTPServerOptions{BaseRouter: own, ErrorHandlerFunc: s.badParameter})
	for path, methods := range own.methods {
		slices.Sort(methods)
		allow := strings.Join(methods, ", ")
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", allow)
			s.problem(w, r, Problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not for this address: " + allow + " is"})
		})
	}
	mux.Handle("GET /ui/", userInterface())
	nothing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.problem(w, r, Problem{Status: http.StatusNotFound, Detail: "there is nothing at this address"})
	})
	for _, prefix := range []string{"/build/", "/status/", "/v1/"} { // who asks there is no browser
		mux.Handle(prefix, nothing)
	}
	if s.Rest == nil {
		s.Rest = nothing
	}
	mux.Handle("/", s.sparing(s.Rest))
	return mux
}

// router puts what all operations share around each, and takes note of what there is for the 405s.
type router struct {
	server  *server
	mux     *http.ServeMux
	methods map[string][]string // by path
}

// HandleFunc takes a pattern with a method, as the generated code has them.
func (o *router) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	method, path, _ := strings.Cut(pattern, " ")
	o.methods[path] = append(o.methods[path], method)
	if method == http.MethodGet {
		o.methods[path] = append(o.methods[path], http.MethodHead)
	}
	o.mux.Handle(pattern, o.server.operation(pattern, http.HandlerFunc(handler)))
}

func (o *router) ServeHTTP(w http.ResponseWriter, r *http.Request) { o.mux.ServeHTTP(w, r) }

// operation is an operation with what comes before it: the caller, its limits, and whether the request is as the document says.
func (s *server) operation(pattern string, next http.Handler) http.Handler {
	checks := s.validator.of(pattern)
	known := !slices.Contains(open, pattern)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if known {
			var ok bool
			if r, ok = s.authenticate(w, r); !ok {
				return
			}
		}
		r, err := s.check(w, r, checks)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// caller is who sent the request; operation has seen to it that there is one.
func caller(r *http.Request) auth.Principal {
	p, _ := auth.FromContext(r.Context())
	return p
}
