package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/service/store"
)

// GetLog gives the log: as an event stream to who asks for one, otherwise as text.
func (s *server) GetLog(w http.ResponseWriter, r *http.Request, id InvocationID, params GetLogParams) {
	// What a stream that has begun could not say any more: that there is no such build.
	inv, err := s.Builds.Status(r.Context(), caller(r), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", textType)
		if wantsEvents(r) {
			w.Header().Set("Content-Type", eventStream)
		}
		return
	}
	ctx := r.Context()
	if most := s.Limits.Stream; most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	if wantsEvents(r) {
		s.events(ctx, w, r, inv, after(params))
		return
	}
	s.text(ctx, w, r, inv, deref(params.Step), deref(params.Follow))
}

// wantsEvents tells whether the request asks for an event stream.
func wantsEvents(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			mediaType, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(mediaType), eventStream) {
				return true
			}
		}
	}
	return false
}

// after is where the log is to go on.
func after(params GetLogParams) int64 {
	if params.After != nil {
		return *params.After
	}
	n, err := strconv.ParseInt(deref(params.LastEventID), 10, 64)
	if err != nil { // more digits than an id has
		return 0
	}
	return n
}

const (
	textType = "text/plain; charset=utf-8"
	// writeTime is how long a follower may take for one piece of a log before it counts as gone.
	writeTime = 30 * time.Second
	// textPiece is how much text is kept back before it is sent: a download is no conversation.
	textPiece = 32 << 10
)

// text writes the log as plain text. One that breaks off in the middle is broken off for the reader too.
func (s *server) text(ctx context.Context, w http.ResponseWriter, r *http.Request, inv store.Invocation, step string, follow bool) {
	out := &textWriter{w: w, control: http.NewResponseController(w)}
	header := w.Header()
	header.Set("Content-Type", textType)
	header.Set("X-Accel-Buffering", "no")
	var err error
	if follow && !inv.State.Ended() {
		out.flush() // the reader sees that it is being served
		err = s.Builds.FollowText(ctx, caller(r), inv.ID, out, step)
	} else {
		err = s.Builds.WriteText(ctx, caller(r), inv.ID, out, step)
	}
	switch {
	case err == nil:
		out.flush()
	case !out.begun:
		header.Del("X-Accel-Buffering")
		s.fail(w, r, err)
	default:
		s.brokenOff(r, err)
		panic(http.ErrAbortHandler)
	}
}

// textWriter sends text with a deadline for each piece.
type textWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (t *textWriter) Write(data []byte) (int, error) {
	t.begun = true
	_ = t.control.SetWriteDeadline(time.Now().Add(writeTime)) // a server without deadlines, as in a test, sends all the same
	return t.w.Write(data)
}

// Flush sends what has been written.
func (t *textWriter) Flush() error {
	t.begun = true
	return t.control.Flush()
}

func (t *textWriter) flush() { _ = t.Flush() }

// brokenOff takes note of a stream that did not reach its end because of us.
func (s *server) brokenOff(r *http.Request, err error) {
	for _, usual := range []error{errGone, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, usual) {
			return
		}
	}
	s.Logger.WarnContext(r.Context(), "log broken off", "request_id", requestID(r.Context()), "error", err)
}
