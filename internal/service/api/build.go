package api

import (
	"encoding/json"

	"imagebuilder/internal/service/builds"
	"imagebuilder/internal/service/store"
)

// buildOf is a build with all that is known of it.
func buildOf(b builds.Build) Build {
	short := summaryOf(b.Invocation)
	out := Build{
		ID: short.ID, State: short.State, Reason: short.Reason, Subject: short.Subject, Group: short.Group, Attempt: short.Attempt,
		Priority: short.Priority, SubmittedAt: short.SubmittedAt, StartedAt: short.StartedAt, EndedAt: short.EndedAt,
		Timeout: short.Timeout, QueueTTL: short.QueueTTL, Labels: short.Labels, Images: short.Images, RetryOf: short.RetryOf,
		CancelRequested: short.CancelRequested, NeedsSecrets: short.NeedsSecrets, Links: short.Links,
		BuildParams: b.BuildParams, Message: b.Response, Result: b.Result,
		Log:      LogInfo{Bytes: b.LogBytes, Cut: b.LogCut},
		Phases:   make([]Phase, len(b.Timeline.Phases)),
		Variants: make([]Variant, len(b.Timeline.Variants)),
		Steps:    stepsOf(b.Timeline.Steps), TimelineCut: b.Timeline.Cut,
	}
	for i, p := range b.Timeline.Phases {
		out.Phases[i] = Phase{
			Name: string(p.Name), StartedAt: utc(p.Started), EndedAt: utc(p.Ended), Seconds: p.Seconds, Steps: p.Steps, Cached: p.Cached, Failed: p.Failed,
		}
	}
	for i, v := range b.Timeline.Variants {
		out.Variants[i] = variantOf(v)
	}
	for _, n := range b.Timeline.Notes {
		out.Notes = append(out.Notes, LogNote{Level: LogNoteLevel(n.Level), Text: n.Text, At: utc(n.At)})
	}
	for _, a := range b.Timeline.Attempts {
		out.Attempts = append(out.Attempts, Attempt{Number: a.Number, Reason: a.Reason, EndedAt: utc(a.Ended)})
	}
	if b.State == store.StateFailed || b.State == store.StateCancelled {
		out.Failure = failureOf(b.Invocation)
	}
	return out
}

// failureOf is why a build did not succeed. What the worker has written down is the same as what is answered.
func failureOf(inv store.Invocation) Failure {
	var f Failure
	if len(inv.Failure) > 0 {
		_ = json.Unmarshal(inv.Failure, &f) // one that cannot be read still has its reason
	}
	f.Reason = Reason(inv.Reason)
	if f.Message == "" {
		f.Message = inv.Response
	}
	return f
}

func variantOf(v builds.Variant) Variant {
	out := Variant{
		Ref: v.Ref, Digest: v.Digest, PinnedRef: v.PinnedRef, Unchanged: v.Unchanged,
		Steps: stepsOf(v.Steps), Platforms: make([]PlatformRun, len(v.Platforms)),
	}
	if v.Error != nil {
		out.Error = VariantError{Kind: string(v.Error.Kind), Message: v.Error.Message, Hint: v.Error.Hint}
	}
	for i, p := range v.Platforms {
		out.Platforms[i] = PlatformRun{Platform: p.Name, Digest: p.Digest, Size: p.Size, Steps: stepsOf(p.Steps), Cached: p.Cached}
		for _, l := range p.Layers {
			out.Platforms[i].Layers = append(out.Platforms[i].Layers, Layer{Digest: l.Digest, Size: l.Size})
		}
	}
	return out
}

func stepsOf(steps []builds.Step) []Step {
	out := make([]Step, len(steps))
	for i, s := range steps {
		out[i] = Step{ID: s.ID, Name: s.Name, Phase: string(s.Phase), StartedAt: utc(s.Started), EndedAt: utc(s.Ended), Cached: s.Cached, Error: s.Error}
	}
	return out
}
