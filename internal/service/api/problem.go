package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/builds"
)

// outageRetry is what callers are told to wait while something does not answer: as long as a database takes to fail over.
const outageRetry = 5 * time.Second

// problemType is the media type of RFC 9457.
const problemType = "application/problem+json"

// problem answers with problem details; title, type and instance are filled in.
func (s *server) problem(w http.ResponseWriter, r *http.Request, p Problem) {
	p.Type, p.Title, p.Instance = "about:blank", http.StatusText(p.Status), requestID(r.Context())
	s.json(w, p.Status, problemType, p)
}

// json answers with JSON.
func (s *server) json(w http.ResponseWriter, status int, mediaType string, body any) {
	data, err := json.Marshal(body)
	if err != nil { // nothing of ours is a channel or a function, and raw documents were read as JSON before
		s.Logger.Error("encode an answer", "error", err)
		http.Error(w, `{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"encode the answer"}`, http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Content-Length", strconv.Itoa(len(data)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a caller that has gone is told nothing
}

// statuses are what kinds of failure mean for HTTP.
var statuses = map[fault.Kind]int{
	fault.Invalid:     http.StatusBadRequest,
	fault.Denied:      http.StatusForbidden,
	fault.NotFound:    http.StatusNotFound,
	fault.BuildFailed: http.StatusUnprocessableEntity,
	fault.Cancelled:   http.StatusServiceUnavailable, // the service is ending: the caller itself would not be here
	fault.Unavailable: http.StatusServiceUnavailable,
	fault.Internal:    http.StatusInternalServerError,
}

// fail answers with what an error means.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // there is nobody to answer
	}
	p := describe(err)
	switch p.Status {
	case http.StatusInternalServerError:
		s.Logger.ErrorContext(r.Context(), "request failed", "request_id", requestID(r.Context()), "route", r.Pattern, "error", err)
		p.Detail, p.Hint, p.Errors = "the service has a defect", "tell its operators the instance: the log has it", nil
	case http.StatusServiceUnavailable:
		s.Logger.WarnContext(r.Context(), "request not served", "request_id", requestID(r.Context()), "route", r.Pattern, "error", err)
	}
	if wait := retryAfter(err, p.Status); wait > 0 {
		w.Header().Set("Retry-After", seconds(wait))
	}
	s.problem(w, r, p)
}

// describe is the problem that an error is.
func describe(err error) Problem {
	var limit *builds.LimitError
	var conflict *builds.ConflictError
	var large *http.MaxBytesError
	var status *statusError
	switch {
	case errors.As(err, &limit):
		return Problem{Status: http.StatusTooManyRequests, Kind: string(fault.Unavailable), Detail: limit.Error()}
	case errors.As(err, &conflict):
		p := Problem{Status: http.StatusConflict, Kind: string(fault.Invalid), Detail: conflict.Message, Hint: conflict.Hint}
		for _, pointer := range conflict.Pointers {
			p.Errors = append(p.Errors, ProblemItem{Pointer: "/secrets/" + fault.EscapePointer(pointer), Message: "is missing"})
		}
		return p
	case errors.As(err, &large):
		return Problem{
			Status: http.StatusRequestEntityTooLarge, Kind: string(fault.Invalid),
			Detail: "the request's body is larger than " + strconv.FormatInt(large.Limit, 10) + " bytes",
		}
	case errors.As(err, &status):
		return Problem{Status: status.status, Kind: string(fault.Invalid), Detail: status.detail, Hint: status.hint}
	}
	f := fault.As(err)
	p := Problem{Status: statuses[f.Kind], Kind: string(f.Kind), Detail: f.Message, Hint: f.Hint}
	for _, problem := range f.Problems {
		p.Errors = append(p.Errors, ProblemItem{Pointer: problem.Pointer, Message: problem.Message, Hint: problem.Hint})
	}
	return p
}

// retryAfter is when the same request may succeed; 0: there is no saying.
func retryAfter(err error, status int) time.Duration {
	var limit *builds.LimitError
	if errors.As(err, &limit) {
		return max(limit.RetryAfter, time.Second)
	}
	if status == http.StatusServiceUnavailable {
		return outageRetry
	}
	return 0
}

// seconds is how Retry-After has a time: in whole seconds, and rather later.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(1, (d+time.Second-1)/time.Second)), 10)
}

// statusError is a refusal that HTTP has a status for and package fault no kind.
type statusError struct {
	status       int
	detail, hint string
}

func (e *statusError) Error() string { return e.detail }
