package web

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

const (
	// aliveEvery is how often a silent stream says that it is still there: proxies cut what is silent for 30 s or a minute.
	aliveEvery = 15 * time.Second
	// streamFor is how long one stream goes on, as the API's: then the session is looked at again.
	streamFor = time.Hour
	// writeWithin bounds the wait for a browser that does not read.
	writeWithin = 30 * time.Second
	// redrawEvery is how often the timeline is drawn anew at most. Running steps count their seconds by themselves.
	redrawEvery = time.Second
	// redrawBytes is how much of a summary may be sent in that time: one of thousands of steps is drawn less often.
	redrawBytes = 100 << 10
)

// batch is what Follow hands over at once.
type batch struct {
	entries []store.LogEntry
	state   store.State
}

// stream is one page that follows a build.
type stream struct {
	server  *server
	who     visitor
	write   func(event string) error
	reader  *reader
	inv     store.Invocation
	steps   []store.LogEntry // what the timeline is made of
	stale   bool             // the timeline is not as the page shows it
	pause   int              // redraws that are left out, for the last one was large
	hadOpen bool             // the page shows lines that have not ended
}

// events streams what happens to a build: new lines of its log, and the summary whenever it changes. The id of an event is the number of
// the log's last entry in it, so that a page that was cut off goes on where it was.
func (s *server) events(w http.ResponseWriter, r *http.Request, who visitor) error {
	// Whoever follows for long shows the session again: the page connects anew by itself.
	ctx, cancel := context.WithTimeout(r.Context(), streamFor)
	defer cancel()
	control := http.NewResponseController(w)
	write := func(event string) error {
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin)) // a reader that stands still is let go
		if _, err := w.Write([]byte(event)); err != nil {
			return err
		}
		return control.Flush()
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would keep it to itself until it has enough
	w.WriteHeader(http.StatusOK)
	err := write(": connected\n\n")
	if err == nil {
		err = s.stream(ctx, r, who, write)
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	kind := fault.As(err).Kind
	if kind == fault.Unavailable || kind == fault.Internal {
		s.config.Logger.WarnContext(ctx, "stream a build", "invocation", r.PathValue("id"), "error", err.Error())
	}
	if kind == fault.Unavailable {
		return nil // the page connects anew by itself
	}
	// It would come to the same end again. The page loads itself anew, and says what is wrong.
	_ = write("event: gone\ndata:\n\n")
	return nil
}

// stream follows the build that a request names.
func (s *server) stream(ctx context.Context, r *http.Request, who visitor, write func(event string) error) error {
	after, err := resumeAt(r)
	if err != nil {
		return err
	}
	b, err := s.config.Builds.Get(ctx, who.Principal, r.PathValue("id"))
	if err != nil {
		return err
	}
	st := &stream{server: s, who: who, write: write, inv: b.Invocation, stale: true, hadOpen: true}
	if st.steps, err = s.config.Log.LogKindEntries(ctx, b.ID, store.LogStep, store.LogNote, store.LogAttempt); err != nil {
		return err
	}
	for len(st.steps) > 0 && st.steps[len(st.steps)-1].Seq > after {
		st.steps = st.steps[:len(st.steps)-1] // they come once more
	}
	if st.reader, err = s.view(b, r.URL.Query().Get("step")).reader(ctx, after+1); err != nil {
		return err
	}
	return st.run(ctx, b.ID, after)
}

// resumeAt is the entry after which a stream begins.
func resumeAt(r *http.Request) (int64, error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("after")
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "stream a build: there is no such place in a log to go on from")
	}
	return n, nil
}

func (st *stream) run(ctx context.Context, id string, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches, ended := make(chan batch), make(chan error, 1)
	go func() {
		ended <- st.server.config.Builds.Follow(ctx, st.who.Principal, id, after, func(entries []store.LogEntry, state store.State) error {
			select {
			case batches <- batch{entries, state}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	redraw := time.NewTicker(redrawEvery)
	defer redraw.Stop()
	for {
		var err error
		select {
		case b := <-batches:
			err = st.take(ctx, b)
		case <-redraw.C:
			err = st.redraw()
		case <-alive.C:
			err = st.write(": still here\n\n")
		case err = <-ended:
			if err == nil {
				err = st.end(ctx)
			} else if errors.Is(err, context.Canceled) {
				err = nil
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}

// take sends new lines at once; the summary follows within redrawEvery, and at once when the state has changed.
func (st *stream) take(ctx context.Context, b batch) error {
	var lines bytes.Buffer
	last := int64(0)
	for _, e := range b.entries {
		switch e.Kind {
		case store.LogStep, store.LogNote, store.LogAttempt:
			st.steps, st.stale = append(st.steps, e), true
		}
		st.reader.html(&lines, st.reader.read(e))
		last = e.Seq
	}
	if last > 0 {
		open := st.reader.open()
		var extra string
		if open != "" || st.hadOpen {
			extra = partial("#log-open", "innerHTML", string(open))
		}
		st.hadOpen = open != ""
		if err := st.write(message(last, lines.String()+extra)); err != nil {
			return err
		}
	}
	if b.state == st.inv.State || b.state.Ended() {
		return nil
	}
	inv, err := st.server.config.Builds.Status(ctx, st.who.Principal, st.inv.ID)
	if err != nil {
		return err
	}
	st.inv, st.stale, st.pause = inv, true, 0
	return st.redraw()
}

// redraw sends the summary if it has changed.
func (st *stream) redraw() error {
	if st.pause--; !st.stale || st.pause > 0 {
		return nil
	}
	st.stale = false
	build := builds.Build{Invocation: st.inv, Timeline: builds.Fold(st.inv, st.steps)}
	return st.sendSummary(build)
}

func (st *stream) sendSummary(b builds.Build) error {
	html, err := st.server.fragment("build", "summary", st.server.summarize(b, st.who))
	if err != nil {
		return err
	}
	st.pause = len(html) / redrawBytes
	return st.write(message(0, partial("#summary", "innerMorph", html)))
}

// end sends the summary with the result, and says that nothing more comes.
func (st *stream) end(ctx context.Context) error {
	b, err := st.server.config.Builds.Get(ctx, st.who.Principal, st.inv.ID)
	if err != nil {
		return err
	}
	if err := st.sendSummary(b); err != nil {
		return err
	}
	return st.write("event: done\ndata: " + string(b.State) + "\n\n")
}

// message is a server-sent event without a name. An id of 0 leaves the one before as it is.
func message(id int64, html string) string {
	var b strings.Builder
	if id > 0 {
		b.WriteString("id: ")
		b.WriteString(strconv.FormatInt(id, 10))
		b.WriteByte('\n')
	}
	html = strings.ReplaceAll(html, "\r", "&#13;") // it would end the line, and what follows would not be data
	for line := range strings.Lines(html) {
		b.WriteString("data: ")
		b.WriteString(strings.TrimSuffix(line, "\n"))
		b.WriteByte('\n')
	}
	if html == "" || strings.HasSuffix(html, "\n") {
		b.WriteString("data:\n")
	}
	b.WriteByte('\n')
	return b.String()
}

// partial is HTML for another place of the page than the one that follows the stream.
func partial(target, swap, html string) string {
	return `<hx-partial hx-target="` + template.HTMLEscapeString(target) + `" hx-swap="` + swap + `">` + html + `</hx-partial>`
}
