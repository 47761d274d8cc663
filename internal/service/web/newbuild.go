package web

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/schemas"
)

const (
	modeForm     = "form"
	modeDocument = "document"
)

// newPage is what the page for a new build shows.
type newPage struct {
	CSRF     string
	Mode     string
	Source   string // which of the three
	Git      []field
	File     []field
	Context  []field
	Registry []field
	Images   []imageForm
	Options  []field
	Request  []field
	Document string
	Missing  string // why the document that was sent is not shown again
	Examples []string
	Problems []link
	Trouble  *trouble // what went wrong beside problems
	Plan     *result.Plan
	Retype   bool // secrets have to be typed in again
	More     bool // another image may be added
	OpenMore bool // the options are of interest: something is typed there, or wrong
}

// imageForm are the fields of one variant.
type imageForm struct {
	Index       int
	First, More []field
	Open        bool // More is of interest
	Remove      bool // it may be removed: it is not the only one
}

func (s *server) newBuild(w http.ResponseWriter, r *http.Request, who visitor) error {
	if !who.Principal.May(auth.ScopeSubmit) {
		return fault.New(fault.Denied, "submit a build: the credentials do not allow it").WithHint("this needs the scope %s", auth.ScopeSubmit)
	}
	typed := url.Values{"mode": {r.URL.Query().Get("mode")}}
	if name := r.URL.Query().Get("example"); name != "" {
		data, err := fs.ReadFile(schemas.Examples(), path.Join("annotated", path.Base(name)+".yaml"))
		if err != nil {
			return fault.New(fault.NotFound, "there is no example of that name")
		}
		typed = url.Values{"mode": {modeDocument}, "document": {string(data)}}
	}
	return s.showNew(w, http.StatusOK, who, s.newPage(typed, who, nil))
}

// newPage is the page with what was typed.
func (s *server) newPage(typed url.Values, who visitor, found []fault.Problem) newPage {
	p := newProblems(found)
	out := newPage{CSRF: who.CSRF, Mode: modeForm, Source: typed.Get(sourceKind), Examples: examples()}
	if typed.Get("mode") == modeDocument {
		out.Mode, out.Document = modeDocument, typed.Get("document")
	}
	if out.Source == "" {
		out.Source = kindGit
	}
	out.Request = fill(requestFields(who.Principal.Groups), typed, p)
	if out.Mode == modeForm {
		out.Git, out.File, out.Context = gitFields(), dockerfileFields(), contextFields()
		switch out.Source { // what is wrong with the source is wrong with the one that was chosen
		case kindGit:
			out.Git = fill(out.Git, typed, p)
			out.File, out.Context = fill(out.File, typed, newProblems(nil)), fill(out.Context, typed, newProblems(nil))
		default:
			out.Git = fill(out.Git, typed, newProblems(nil))
			out.File, out.Context = fill(out.File, typed, p), fill(out.Context, typed, p)
		}
		out.Registry = fill(registryFields(), typed, p)
		count := imageCount(typed)
		for i := range count {
			image := imageForm{Index: i, Remove: count > 1}
			image.First, image.More = imageFields(i)
			image.First, image.More = fill(image.First, typed, p), fill(image.More, typed, p)
			image.Open = slices.ContainsFunc(image.More, used)
			out.Images = append(out.Images, image)
		}
		out.More = count < maxImages
		out.Options = fill(optionFields(), typed, p)
		out.OpenMore = slices.ContainsFunc(out.Options, used)
		out.Retype = slices.ContainsFunc(out.everyField(), func(f field) bool { return f.Retype })
	}
	fields := out.everyField()
	var where places
	if out.Mode == modeDocument && len(found) > 0 {
		where = placesIn([]byte(typed.Get("document")))
	}
	for _, problem := range found {
		l := link{Problem: problem, Field: about(fields, problem.Pointer)}
		if out.Mode == modeDocument && l.Field == "" {
			l.Field, l.Line = "document", where.line(problem.Pointer)
		}
		out.Problems = append(out.Problems, l)
	}
	return out
}

func (p newPage) everyField() []field {
	out := slices.Concat(p.Git, p.File, p.Context, p.Registry, p.Options, p.Request)
	for _, image := range p.Images {
		out = slices.Concat(out, image.First, image.More)
	}
	return out
}

// used tells whether somebody has typed something into a field, or has to.
func used(f field) bool {
	return f.Value != "" || f.Checked || f.Retype || len(f.Errors) > 0 ||
		(f.Input == inputSelect && slices.ContainsFunc(f.Options, func(o option) bool { return o.Checked && o.Value != "" }))
}

// about is the id of the field that a problem is about; "" when there is none.
func about(fields []field, pointer string) string {
	for _, f := range fields {
		if pointer == f.Pointer || strings.HasPrefix(pointer, f.Pointer+"/") {
			return f.ID()
		}
	}
	return ""
}

// examples are the documents to start from that a service can build.
func examples() []string {
	var out []string
	names, _ := fs.Glob(schemas.Examples(), "annotated/*.yaml") // its only error is a wrong pattern
	for _, name := range names {
		name = strings.TrimSuffix(path.Base(name), ".yaml")
		if name != "local-context" { // a folder of the caller's machine
			out = append(out, name)
		}
	}
	return out
}

// submit does what the pressed button says: submit, plan, or change the form itself.
func (s *server) submit(w http.ResponseWriter, r *http.Request, who visitor) error {
	typed := r.PostForm
	switch action := typed.Get("action"); {
	case action == "add-image":
		typed.Set("/target/images/"+strconv.Itoa(imageCount(typed))+"/image", "")
		return s.showNew(w, http.StatusOK, who, s.newPage(typed, who, nil))
	case strings.HasPrefix(action, "remove-image-"):
		n, err := strconv.Atoi(strings.TrimPrefix(action, "remove-image-"))
		if err == nil {
			typed = withoutImage(typed, n)
		}
		return s.showNew(w, http.StatusOK, who, s.newPage(typed, who, nil))
	}
	request, found := requestOf(typed)
	if typed.Get("action") == "plan" {
		return s.plan(w, r, who, request, found)
	}
	if len(found) > 0 {
		return s.again(w, r, who, fault.InvalidInput("check the form", found))
	}
	inv, _, err := s.config.Builds.Submit(r.Context(), who.Principal, request)
	if err != nil {
		return s.again(w, r, who, err)
	}
	goTo(w, r, "/builds/"+inv.ID)
	return nil
}

// plan shows what the build would do.
func (s *server) plan(w http.ResponseWriter, r *http.Request, who visitor, request builds.Request, found []fault.Problem) error {
	if len(found) > 0 {
		return s.again(w, r, who, fault.InvalidInput("check the form", found))
	}
	data, err := s.config.Builds.Plan(r.Context(), who.Principal, request.Document, "")
	if err != nil {
		return s.again(w, r, who, err)
	}
	page := s.newPage(r.PostForm, who, nil)
	page.Plan = &result.Plan{}
	if err := json.Unmarshal(data, page.Plan); err != nil {
		return fault.Wrap(err, "read the plan")
	}
	s.keepDocument(&page, r)
	return s.showNew(w, http.StatusOK, who, page)
}

// again shows the form with what was typed and what is wrong with it.
func (s *server) again(w http.ResponseWriter, r *http.Request, who visitor, err error) error {
	status, t := s.explain(w, r, err)
	page := s.newPage(r.PostForm, who, t.Problems)
	if len(t.Problems) == 0 {
		page.Trouble = &t
	}
	s.keepDocument(&page, r)
	return s.showNew(w, status, who, page)
}

// keepDocument decides whether the document may be sent back: one with secrets in it stays in the browser, where a script puts it
// back into the page. Without a script it is shown with its secrets masked, and what cannot be masked is not shown.
func (s *server) keepDocument(page *newPage, r *http.Request) {
	if page.Mode != modeDocument || page.Document == "" || fromScript(r) {
		if fromScript(r) {
			page.Document = ""
		}
		return
	}
	pointers, err := buildparams.SecretPointers([]byte(page.Document))
	switch {
	case err != nil:
		page.Document = ""
		page.Missing = "It is not shown again, for it may hold secrets. Go back in your browser to find it as you left it."
	case len(pointers) > 0:
		masked, err := buildparams.Mask([]byte(page.Document))
		if err == nil {
			masked, err = buildparams.Convert(masked, "", buildparams.YAML)
		}
		if err != nil {
			masked = nil
		}
		page.Document = string(masked)
		page.Missing = "Its secrets are not shown again: put them in the place of the asterisks."
	}
}

func (s *server) showNew(w http.ResponseWriter, status int, who visitor, p newPage) error {
	return s.show(w, status, "new", frame{Title: "New build", Section: "new", Who: who, Page: p})
}

// requestOf is what a form asks for, and what is wrong with what cannot be passed on.
func requestOf(typed url.Values) (builds.Request, []fault.Problem) {
	var found []fault.Problem
	out := builds.Request{Group: typed.Get("/group")}
	if typed.Get("mode") == modeDocument {
		out.Document = []byte(typed.Get("document"))
	} else {
		out.Document, found = documentOf(typed)
	}
	labels, more := pairs("/labels", typed.Get("/labels"))
	out.Labels, found = labels, append(found, more...)
	if text := strings.TrimSpace(typed.Get("/priority")); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			found = append(found, fault.Problem{Pointer: "/priority", Message: "is not a number"})
		}
		out.Priority = n
	}
	if text := strings.TrimSpace(typed.Get("/queue_ttl")); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			found = append(found, fault.Problem{Pointer: "/queue_ttl", Message: "is not a length of time", Hint: "as in 30m or 2h"})
		}
		out.QueueTTL = d
	}
	return out, found
}

// withoutImage takes an image out of a form; those after it move up.
func withoutImage(typed url.Values, n int) url.Values {
	const images = "/target/images/"
	out := url.Values{}
	for name, values := range typed {
		rest, ok := strings.CutPrefix(name, images)
		number, key, _ := strings.Cut(rest, "/")
		i, err := strconv.Atoi(number)
		switch {
		case !ok || err != nil || i < n:
			out[name] = values
		case i > n:
			out[images+strconv.Itoa(i-1)+"/"+key] = values
		}
	}
	return out
}
