package web

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// buildPage is what the page of one build shows.
type buildPage struct {
	Summary  summary
	Log      logPanel
	Document string // masked, as YAML
}

// summary is everything about a build but its log: what changes while it runs.
type summary struct {
	builds.Build
	CSRF    string
	Lanes   []lane
	Phases  []phase
	Source  result.SourceResult // what was built; empty until then
	Engine  string
	Images  []imageView
	Failed  *bar // the step that failed
	Failure failure
	Change  bool // the visitor may cancel and delete it
	Retry   bool // the visitor may submit it again
	Waited  time.Duration
	Took    time.Duration
	Now     time.Time
}

// phase is a phase of a build, and whether it goes on.
type phase struct {
	builds.Phase
	Took time.Duration
	Now  bool
}

// failure is why a build failed.
type failure struct {
	Kind     fault.Kind      `json:"kind"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint"`
	Problems []fault.Problem `json:"problems"`
}

// imageView is one variant with its charts.
type imageView struct {
	builds.Variant
	Charts []platformView
}

type platformView struct {
	builds.Platform
	Layers []layerBar
}

// Title is what the build is called on pages: its first image.
func (s summary) Title() string {
	if len(s.Build.Images) == 0 {
		return "Build " + s.ID
	}
	return s.Build.Images[0]
}

// Done tells whether anything was pushed.
func (s summary) Done() bool {
	for _, v := range s.Images {
		if v.Digest != "" {
			return true
		}
	}
	return false
}

// logPanel is the log on a build's page.
type logPanel struct {
	ID      string
	Window  window
	Live    bool // the page goes on with what comes
	Whole   bool // it ends where the log ends now: not a piece from the middle
	Step    string
	Name    string // of Step
	Query   string
	Hits    []hit
	Count   int  // of all hits, also those beyond Hits
	Partly  bool // the log was not searched to its end
	Ended   bool
	Bytes   int64
	Cut     bool
	Running bool
}

// summarize makes what the page shows of a build.
func (s *server) summarize(b builds.Build, who visitor) summary {
	now := s.config.Now()
	out := summary{Build: b, CSRF: who.CSRF, Lanes: lanes(b.Timeline, now), Now: now}
	out.Failed = failedStep(out.Lanes)
	may := who.Principal.May
	out.Change = may(auth.ScopeSubmit) && (b.Subject == who.Principal.Subject || may(auth.ScopeAdmin))
	out.Retry = may(auth.ScopeSubmit) && b.State.Ended()
	_ = json.Unmarshal(b.Failure, &out.Failure) // what is not there is not shown
	if out.Failure.Message == "" && b.State == store.StateFailed {
		out.Failure.Message = b.Response
	}
	var made result.Result
	_ = json.Unmarshal(b.Result, &made)
	out.Source, out.Engine = made.Source, made.Engine
	switch begun, end := b.StartedAt, b.EndedAt; {
	case begun.IsZero() && end.IsZero():
		out.Waited = now.Sub(b.SubmittedAt)
	case begun.IsZero():
		out.Waited = end.Sub(b.SubmittedAt)
	case end.IsZero():
		out.Waited, out.Took = begun.Sub(b.SubmittedAt), now.Sub(begun)
	default:
		out.Waited, out.Took = begun.Sub(b.SubmittedAt), end.Sub(begun)
	}
	for _, p := range b.Timeline.Phases {
		v := phase{Phase: p, Took: time.Duration(p.Seconds * float64(time.Second))}
		if p.Ended.IsZero() && !p.Started.IsZero() && !b.State.Ended() {
			v.Took, v.Now = now.Sub(p.Started), true
		}
		out.Phases = append(out.Phases, v)
	}
	for _, v := range b.Timeline.Variants {
		image := imageView{Variant: v}
		for _, p := range v.Platforms {
			image.Charts = append(image.Charts, platformView{Platform: p, Layers: chart(p.Layers)})
		}
		out.Images = append(out.Images, image)
	}
	return out
}

func (s *server) build(w http.ResponseWriter, r *http.Request, who visitor) error {
	b, err := s.config.Builds.Get(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	panel, err := s.panel(r, b)
	if err != nil {
		return err
	}
	p := buildPage{Summary: s.summarize(b, who), Log: panel}
	if yaml, err := buildparams.Convert(b.BuildParams, "", buildparams.YAML); err == nil {
		p.Document = string(yaml)
	}
	return s.show(w, http.StatusOK, "build", frame{Title: stateName(b.State) + ": " + p.Summary.Title(), Section: "builds", Who: who, Page: p})
}

// panel is the piece of the log that the address asks for: the end, or around ?at=, before ?before=, after ?after=.
func (s *server) panel(r *http.Request, b builds.Build) (logPanel, error) {
	q := r.URL.Query()
	out := logPanel{ID: b.ID, Step: q.Get("step"), Query: q.Get("q"), Ended: b.State.Ended(), Bytes: b.LogBytes, Cut: b.LogCut}
	v := s.view(b, out.Step)
	v.query = out.Query
	out.Name = v.names[out.Step]
	if out.Name == "" {
		out.Name = out.Step
	}
	var err error
	out.Window, out.Whole, err = v.asked(r.Context(), q.Get("at"), q.Get("before"), q.Get("after"))
	if err != nil {
		return logPanel{}, err
	}
	out.Live = out.Whole && !out.Ended
	if out.Query != "" {
		err = s.search(r.Context(), v, &out)
	}
	return out, err
}

func (s *server) view(b builds.Build, step string) view {
	return view{log: s.config.Log, id: b.ID, names: names(b.Timeline), step: step, group: len(b.Timeline.Variants) > 1}
}

// asked is the window that an address asks for, and whether it is the end of the log.
func (v view) asked(ctx context.Context, at, beforeSeq, after string) (window, bool, error) {
	end, err := v.end(ctx, 0)
	if err != nil {
		return window{}, false, err
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	var entries []store.LogEntry
	here := number(at)
	switch {
	case here > 0:
		const share = windowBytes / 4
		if entries, err = v.upTo(ctx, min(here, end+1)-1, share); err != nil {
			return window{}, false, err
		}
		var rest []store.LogEntry
		rest, err = v.from(ctx, here, windowBytes-share)
		entries = append(entries, rest...)
	case beforeSeq != "":
		entries, err = v.upTo(ctx, min(number(beforeSeq), end+1)-1, windowBytes)
	case after != "":
		entries, err = v.from(ctx, number(after)+1, windowBytes)
	default:
		entries, err = v.upTo(ctx, end, windowBytes)
	}
	if err != nil {
		return window{}, false, err
	}
	w, err := v.window(ctx, entries, end, here)
	whole := at == "" && beforeSeq == "" && !w.Later
	if len(entries) == 0 {
		w.Last = end
	}
	return w, whole, err
}

// logPart answers with a piece of the log alone, for a page that shows others already.
func (s *server) logPart(w http.ResponseWriter, r *http.Request, who visitor) error {
	b, err := s.config.Builds.Get(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	q := r.URL.Query()
	v := s.view(b, q.Get("step"))
	piece, _, err := v.asked(r.Context(), "", q.Get("before"), q.Get("after"))
	if err != nil {
		return err
	}
	part := "earlier-part"
	if q.Get("before") == "" {
		part = "later-part"
	}
	html, err := s.fragment("build", part, logPanel{ID: b.ID, Window: piece, Step: v.step})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(html))
	return nil
}

// download sends the whole log as text.
func (s *server) download(w http.ResponseWriter, r *http.Request, who visitor) error {
	inv, err := s.config.Builds.Status(r.Context(), who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="build-`+inv.ID+`.log"`)
	if err := s.config.Builds.WriteText(r.Context(), who.Principal, inv.ID, w, r.URL.Query().Get("step")); err != nil {
		// The answer has begun: cutting it off is the only way left to say that it is not whole.
		s.config.Logger.WarnContext(r.Context(), "send a log", "invocation", inv.ID, "error", err.Error())
		panic(http.ErrAbortHandler)
	}
	return nil
}
