package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"io/fs"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

//go:embed templates
var templates embed.FS

// pages are the templates by name, each with the layout around it.
type pages map[string]*template.Template

func parsePages(now func() time.Time) (pages, error) {
	version, err := staticVersion()
	if err != nil {
		return nil, err
	}
	shared, err := template.New("").Funcs(template.FuncMap{
		"size":     size,
		"duration": duration,
		"seconds":  func(s float64) string { return duration(time.Duration(s * float64(time.Second))) },
		"ago":      func(t time.Time) string { return ago(now().Sub(t)) },
		"clock":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04:05 UTC") },
		"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"state":    stateName,
		"soft":     soft,
		"static":   func(name string) string { return "/static/" + name + "?" + version },
		"fieldID":  fieldID,
		"add":      func(a, b int) int { return a + b },
		"plural": func(n int, one, more string) string {
			if n == 1 {
				return "1 " + one
			}
			return strconv.Itoa(n) + " " + more
		},
	}).ParseFS(templates, "templates/shared/*.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(templates, "templates/*.html")
	if err != nil {
		return nil, err
	}
	out := pages{}
	for _, file := range files {
		page, err := shared.Clone()
		if err != nil {
			return nil, err
		}
		if page, err = page.ParseFS(templates, file); err != nil {
			return nil, err
		}
		out[strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")] = page
	}
	return out, nil
}

// staticVersion changes when any static file does.
func staticVersion() (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(static, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := static.ReadFile(path)
		sum.Write(data)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)[:6]), err
}

// frame is what the layout shows around a page.
type frame struct {
	Title   string
	Section string // which entry of the menu the page belongs to
	Who     visitor
	Version string
	Docs    string
	Page    any
}

// show answers with a page.
func (s *server) show(w http.ResponseWriter, status int, name string, f frame) error {
	f.Version, f.Docs = s.config.Version, s.config.Docs
	var b bytes.Buffer
	if err := s.pages[name].ExecuteTemplate(&b, "layout", f); err != nil {
		return fault.Wrap(err, "make the page %s", name)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // whoever has gone away needs no answer
	return nil
}

// fragment makes a part of a page.
func (s *server) fragment(page, part string, data any) (string, error) {
	var b strings.Builder
	err := s.pages[page].ExecuteTemplate(&b, part, data)
	return b.String(), fault.Wrap(err, "make %s of the page %s", part, page)
}

// trouble is what the page for an error shows.
type trouble struct {
	Title, Message, Hint string
	Problems             []fault.Problem
}

// fail shows an error as a page.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // the visitor has gone away
	}
	status, t := s.explain(w, r, err)
	who, _ := s.config.Auth.Load(r) // without one, the page has no menu
	if shown := s.show(w, status, "error", frame{Title: t.Title, Who: who, Page: t}); shown != nil {
		s.config.Logger.ErrorContext(r.Context(), "show an error", "error", shown.Error())
		http.Error(w, t.Title, status)
	}
}

// explain says what an error means to a visitor. What is our own defect goes to the log and not to the visitor.
func (s *server) explain(w http.ResponseWriter, r *http.Request, err error) (int, trouble) {
	var limit *builds.LimitError
	var conflict *builds.ConflictError
	switch {
	case errors.As(err, &limit):
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(limit.RetryAfter.Seconds()))))
		return http.StatusTooManyRequests, trouble{Title: "Too much at once", Message: limit.What, Hint: "try again in " + duration(limit.RetryAfter)}
	case errors.As(err, &conflict):
		return http.StatusConflict, trouble{Title: "Not now", Message: conflict.Message, Hint: conflict.Hint}
	}
	f := fault.As(err)
	t := trouble{Message: f.Message, Hint: f.Hint, Problems: f.Problems}
	switch f.Kind {
	case fault.Invalid:
		t.Title = "Check the request"
		return http.StatusUnprocessableEntity, t
	case fault.Denied:
		t.Title = "Not allowed"
		return http.StatusForbidden, t
	case fault.NotFound:
		t.Title = "Not found"
		return http.StatusNotFound, t
	case fault.Unavailable:
		s.config.Logger.WarnContext(r.Context(), "answer a visitor", "path", r.URL.Path, "error", err.Error())
		t.Title = "Try again in a moment"
		return http.StatusServiceUnavailable, t
	case fault.BuildFailed, fault.Cancelled: // of a plan, whose programs are a build's
		t.Title = "It did not work"
		return http.StatusUnprocessableEntity, t
	default:
		s.config.Logger.ErrorContext(r.Context(), "answer a visitor", "path", r.URL.Path, "error", err.Error())
		return http.StatusInternalServerError, trouble{Title: "Something broke here", Message: "the service has a defect; its log says more"}
	}
}

func stateName(s store.State) string {
	switch s {
	case store.StatePending:
		return "Pending"
	case store.StateInProgress:
		return "In progress"
	case store.StateSuccess:
		return "Success"
	case store.StateFailed:
		return "Failed"
	case store.StateCancelled:
		return "Cancelled"
	}
	return string(s)
}

// soft lets a name break after its slashes, where people expect it.
func soft(name string) template.HTML {
	escaped := template.HTMLEscapeString(name)
	return template.HTML(strings.ReplaceAll(escaped, "/", "/<wbr>")) //nolint:gosec // escaped above
}
