// Package web is the service's web page: sign in, submit a build by form or document, look at builds while they run, read their
// logs, cancel and retry them. It renders HTML on the server and needs nothing from elsewhere: scripts and styles are in the
// executable, and no page loads anything from another host.
//
// It decides nothing about builds: internal/service/builds does, for this package and for the REST API alike.
package web

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// static holds what /static/ serves; see static/README.md for where it comes from.
//
//go:embed static
var static embed.FS

// Log is where logs are read in pieces, once builds has said that the caller may see them; *store.Store is one.
type Log interface {
	Log(ctx context.Context, id string, after int64, maxBytes int) ([]store.LogEntry, error)
	LogKindEntries(ctx context.Context, id string, kinds ...store.LogKind) ([]store.LogEntry, error)
}

// Config is what the pages are made with.
type Config struct {
	Builds *builds.Service
	Log    Log
	Auth   *auth.Sessions
	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
	// Provider is what the sign-in page calls the OpenID provider. Default: your OpenID provider.
	Provider string
	Version  string // of the service, for the foot of the page
	Docs     string // where the API's documentation is, for the foot of the page; default /ui/
}

// server answers requests for pages.
type server struct {
	config   Config
	pages    pages
	searches chan struct{} // holds one for each log that is being searched
}

// maxSearches is how many logs are searched at once: each takes a core for as long as it lasts.
const maxSearches = 2

// New makes the handler of the pages, to be mounted at /.
func New(config Config) (http.Handler, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Docs == "" {
		config.Docs = "/ui/"
	}
	if config.Provider == "" {
		config.Provider = "your OpenID provider"
	}
	s := &server{config: config, searches: make(chan struct{}, maxSearches)}
	var err error
	if s.pages, err = parsePages(config.Now); err != nil {
		return nil, fault.Wrap(err, "read the templates")
	}
	mux := http.NewServeMux()
	mux.Handle("GET /static/", staticFiles())
	for pattern, handle := range map[string]handler{
		"GET /sign-in":             s.signIn,
		"POST /sign-in":            s.signInWithKey,
		"GET /sign-in/provider":    s.signInElsewhere,
		"GET " + auth.CallbackPath: s.signedInElsewhere,
	} {
		mux.Handle(pattern, s.open(handle))
	}
	for pattern, handle := range map[string]member{
		"GET /{$}":                 s.home,
		"POST /sign-out":           s.signOut,
		"GET /builds":              s.list,
		"GET /builds/new":          s.newBuild,
		"POST /builds/new":         s.submit,
		"GET /builds/{id}":         s.build,
		"GET /builds/{id}/events":  s.events,
		"GET /builds/{id}/log":     s.logPart,
		"GET /builds/{id}/log.txt": s.download,
		"POST /builds/{id}/cancel": s.cancel,
		"GET /builds/{id}/retry":   s.retryForm,
		"POST /builds/{id}/retry":  s.retry,
		"GET /builds/{id}/delete":  s.deleteForm,
		"POST /builds/{id}/delete": s.delete,
		"GET /":                    s.missing,
	} {
		mux.Handle(pattern, s.open(s.members(handle)))
	}
	return s.secure(mux), nil
}

// handler answers a request; an error is shown as a page.
type handler func(w http.ResponseWriter, r *http.Request) error

// member answers a request of somebody who is signed in.
type member func(w http.ResponseWriter, r *http.Request, who visitor) error

// visitor is who looks at a page; without a subject it is nobody in particular.
type visitor = auth.Session

// open turns an error into a page.
func (s *server) open(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// members lets in only who is signed in, and takes only forms that our own pages have made.
func (s *server) members(h member) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := s.config.Auth.Load(r)
		switch {
		case errors.Is(err, auth.ErrNoCredentials):
			return s.askToSignIn(w, r)
		case err != nil:
			return err
		}
		if r.Method == http.MethodPost {
			if err := s.form(w, r); err != nil {
				return err
			}
			if err := s.config.Auth.CheckCSRF(r, who); err != nil {
				return err
			}
		}
		return h(w, r, who)
	}
}

func (s *server) home(w http.ResponseWriter, r *http.Request, _ visitor) error {
	http.Redirect(w, r, "/builds", http.StatusSeeOther)
	return nil
}

func (s *server) missing(http.ResponseWriter, *http.Request, visitor) error {
	return fault.New(fault.NotFound, "there is no such page")
}

// maxForm is the largest form: a document of 1 MiB, escaped, and all else.
const maxForm = 4 << 20

func (s *server) form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "read the form: it is larger than %s, or no form at all", size(maxForm))
	}
	return nil
}

// staticFiles serves the embedded files, and no lists of them. They change only with the executable, so pages ask for them by its version.
func staticFiles() http.Handler {
	files := http.FileServerFS(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := fs.Stat(static, strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil || info.IsDir() {
			http.NotFound(w, r)
			return
		}
		cache := "no-cache"
		if r.URL.RawQuery != "" {
			cache = "public, max-age=31536000, immutable"
		}
		w.Header().Set("Cache-Control", cache)
		files.ServeHTTP(w, r)
	})
}
