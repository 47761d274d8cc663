package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// documentPointer is where SubmitRequest and PlanRequest have the document.
const documentPointer = "/build_params"

// SubmitInvocation puts a build into the queue.
func (s *server) SubmitInvocation(w http.ResponseWriter, r *http.Request, params SubmitInvocationParams) {
	var body SubmitRequest
	if err := json.Unmarshal(bodyOf(r), &body); err != nil {
		s.fail(w, r, unreadable(err))
		return
	}
	document, err := documentOf(body.BuildParams)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	request := builds.Request{
		Document: document, Pointer: documentPointer, Group: body.Group, Labels: body.Labels, Priority: body.Priority,
		TraceParent: traceParent(r),
	}
	if params.IdempotencyKey != nil {
		request.IdempotencyKey = *params.IdempotencyKey
	}
	if body.Webhook.URL != "" {
		request.Webhook = &builds.Webhook{URL: body.Webhook.URL, Secret: body.Webhook.Secret}
	}
	var problems []fault.Problem
	request.Timeout, problems = duration(body.Timeout, "/timeout", problems)
	request.QueueTTL, problems = duration(body.QueueTTL, "/queue_ttl", problems)
	if len(problems) > 0 {
		s.fail(w, r, fault.InvalidInput("check the request", problems))
		return
	}
	inv, created, err := s.Builds.Submit(r.Context(), caller(r), request)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if !created {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	s.accepted(w, inv)
}

func (s *server) accepted(w http.ResponseWriter, inv store.Invocation) {
	summary := summaryOf(inv)
	w.Header().Set("Location", summary.Links.Self)
	s.json(w, http.StatusAccepted, jsonType, summary)
}

// documentOf is the document itself: an object as it is, or the text that stands for one.
func documentOf(raw Document) ([]byte, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return raw, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, unreadable(err)
	}
	return []byte(text), nil
}

// unreadable is for what the document lets through and Go's types do not take, as a number beyond an int.
func unreadable(err error) error {
	problem := fault.Problem{Message: "cannot be read"}
	if typed, ok := err.(*json.UnmarshalTypeError); ok { //nolint:errorlint // encoding/json returns it as it is
		problem.Pointer = "/" + strings.ReplaceAll(typed.Field, ".", "/")
		problem.Message = "is not of the right type, or beyond its range"
	}
	return fault.InvalidInput("check the request", []fault.Problem{problem})
}

func duration(text, pointer string, problems []fault.Problem) (time.Duration, []fault.Problem) {
	if text == "" {
		return 0, problems
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		problems = append(problems, fault.Problem{Pointer: pointer, Message: "is not a length of time", Hint: "for example 1h30m"})
	}
	return d, problems
}

// ListInvocations gives a page of builds.
func (s *server) ListInvocations(w http.ResponseWriter, r *http.Request, params ListInvocationsParams) {
	query := builds.Query{
		Image: deref(params.Image), Since: deref(params.Since), Until: deref(params.Until), Limit: deref(params.Limit), Page: deref(params.PageToken),
	}
	for _, state := range deref(params.State) {
		query.States = append(query.States, store.State(state))
	}
	for _, label := range deref(params.Label) {
		key, value, _ := strings.Cut(label, ":")
		if before, found := query.Labels[key]; found && before != value {
			// Nothing can have both.
			s.json(w, http.StatusOK, jsonType, BuildList{Invocations: []BuildSummary{}})
			return
		}
		if query.Labels == nil {
			query.Labels = map[string]string{}
		}
		query.Labels[key] = value
	}
	page, err := s.Builds.List(r.Context(), caller(r), query)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list := BuildList{Invocations: make([]BuildSummary, len(page.Builds)), NextPageToken: page.Next}
	for i, inv := range page.Builds {
		list.Invocations[i] = summaryOf(inv)
	}
	s.json(w, http.StatusOK, jsonType, list)
}

func deref[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}

// GetInvocation gives one build with its timeline.
func (s *server) GetInvocation(w http.ResponseWriter, r *http.Request, id InvocationID) {
	b, err := s.Builds.Get(r.Context(), caller(r), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.json(w, http.StatusOK, jsonType, buildOf(b))
}

// DeleteInvocation removes an ended build.
func (s *server) DeleteInvocation(w http.ResponseWriter, r *http.Request, id InvocationID) {
	if err := s.Builds.Delete(r.Context(), caller(r), id); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// CancelInvocation stops a build.
func (s *server) CancelInvocation(w http.ResponseWriter, r *http.Request, id InvocationID) {
	inv, err := s.Builds.Cancel(r.Context(), caller(r), id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.json(w, http.StatusAccepted, jsonType, summaryOf(inv))
}

// RetryInvocation builds the same once more.
func (s *server) RetryInvocation(w http.ResponseWriter, r *http.Request, id InvocationID) {
	var body RetryRequest
	if data := bodyOf(r); len(data) > 0 {
		if err := json.Unmarshal(data, &body); err != nil {
			s.fail(w, r, unreadable(err))
			return
		}
	}
	inv, err := s.Builds.Retry(r.Context(), caller(r), id, body.Secrets)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.accepted(w, inv)
}

// Plan says what a build would do.
func (s *server) Plan(w http.ResponseWriter, r *http.Request) {
	var body PlanRequest
	if err := json.Unmarshal(bodyOf(r), &body); err != nil {
		s.fail(w, r, unreadable(err))
		return
	}
	document, err := documentOf(body.BuildParams)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	plan, err := s.Builds.Plan(r.Context(), caller(r), document, documentPointer)
	if err != nil {
		s.failPlan(w, r, err)
		return
	}
	s.json(w, http.StatusOK, jsonType, plan)
}

// failPlan answers for a plan that is an error: what a registry denies, or what a repository lacks, says nothing about the caller or the address.
func (s *server) failPlan(w http.ResponseWriter, r *http.Request, err error) {
	f := fault.As(err)
	ofTheBuild := f.Kind == fault.Denied && caller(r).May(auth.ScopeSubmit) || f.Kind == fault.NotFound || f.Kind == fault.BuildFailed ||
		f.Kind == fault.Invalid && len(f.Problems) == 0
	if !ofTheBuild {
		s.fail(w, r, err)
		return
	}
	p := describe(f)
	p.Status = http.StatusUnprocessableEntity
	s.problem(w, r, p)
}

// Whoami tells callers what they may do.
func (s *server) Whoami(w http.ResponseWriter, r *http.Request) {
	p := caller(r)
	s.json(w, http.StatusOK, jsonType, Caller{Subject: p.Subject, Name: p.Name, Groups: p.Groups, Scopes: append([]string{}, p.Scopes...)})
}

// summaryOf is a build in short.
func summaryOf(inv store.Invocation) BuildSummary {
	self := "/v1/invocations/" + inv.ID
	out := BuildSummary{
		ID: inv.ID, State: BuildState(inv.State), Reason: Reason(inv.Reason), Subject: inv.Subject, Group: inv.Group, Attempt: inv.Attempt,
		Priority: inv.Priority, SubmittedAt: inv.SubmittedAt.UTC(), StartedAt: utc(inv.StartedAt), EndedAt: utc(inv.EndedAt),
		Timeout: durationText(inv.Timeout), QueueTTL: durationText(inv.QueueTTL), Labels: inv.Labels, Images: append([]string{}, inv.Images...),
		RetryOf: inv.RetryOf, CancelRequested: inv.CancelRequested, NeedsSecrets: inv.HasSecrets,
		Links: Links{Self: self, Log: self + "/log", Cancel: self + "/cancel", Retry: self + "/retry"},
	}
	if inv.RetryOf != "" {
		out.Links.RetryOf = "/v1/invocations/" + inv.RetryOf
	}
	return out
}

// utc leaves the zero time as it is: it is what the answer leaves out.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// durationText is a length of time as documents have it: 1h30m instead of 1h30m0s.
func durationText(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	ms := d.Milliseconds()
	text := ""
	for _, unit := range []struct {
		name string
		in   int64
	}{{"h", 3600_000}, {"m", 60_000}, {"s", 1000}, {"ms", 1}} {
		if n := ms / unit.in; n > 0 {
			text += strconv.FormatInt(n, 10) + unit.name
			ms %= unit.in
		}
	}
	return text
}
