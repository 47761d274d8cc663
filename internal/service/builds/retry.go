package builds

import (
	"context"
	"maps"
	"slices"
	"strings"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/store"
)

// Retry submits the document of an ended build again, as a new build of the caller that names the old one. Secrets are kept no longer
// than a build lasts: those of the document are needed again, by the pointers that Secrets gives. Without all of them it is a
// *ConflictError that names them, as it is for a build that has not ended. Labels, timeout, time to wait and priority are those of
// the old build; a webhook, whose secret is gone as well, is not set again.
func (s *Service) Retry(ctx context.Context, p auth.Principal, id string, secrets map[string]string) (store.Invocation, error) {
	old, err := s.Status(ctx, p, id)
	if err != nil {
		return store.Invocation{}, err
	}
	if err := may(p, auth.ScopeSubmit, "retry build "+id); err != nil {
		return store.Invocation{}, err
	}
	if !old.State.Ended() {
		return store.Invocation{}, &ConflictError{Message: "retry build " + id + ": it has not ended", Hint: "cancel it first, or wait for its end"}
	}
	document, err := again(old, secrets)
	if err != nil {
		return store.Invocation{}, err
	}
	r := Request{
		Document: document, Labels: old.Labels, Timeout: old.Timeout, QueueTTL: old.QueueTTL, Priority: old.Priority, TraceParent: old.TraceParent,
	}
	if p.InGroup(old.Group) {
		r.Group = old.Group
	}
	inv, _, err := s.submit(ctx, p, r, old.ID)
	return inv, err
}

// Secrets are the pointers of what a retry of the build needs again.
func Secrets(inv store.Invocation) ([]string, error) {
	if !inv.HasSecrets {
		return nil, nil
	}
	return buildparams.SecretPointers(inv.BuildParams)
}

// again is the document of a build with its secrets put back.
func again(old store.Invocation, secrets map[string]string) ([]byte, error) {
	needed, err := Secrets(old)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, pointer := range needed {
		if secrets[pointer] == "" {
			missing = append(missing, pointer)
		}
	}
	if len(missing) > 0 {
		return nil, &ConflictError{
			Message:  "retry build " + old.ID + ": its secrets were removed when it ended: " + strings.Join(missing, ", "),
			Hint:     "send them as secrets, by these pointers",
			Pointers: missing,
		}
	}
	var problems []fault.Problem
	for _, pointer := range slices.Sorted(maps.Keys(secrets)) {
		if !slices.Contains(needed, pointer) {
			problems = append(problems, fault.Problem{Pointer: "/secrets", Message: "has a pointer to what is no secret of this build"})
			break
		}
	}
	if problems != nil {
		return nil, invalid(problems)
	}
	return buildparams.WithSecrets(old.BuildParams, secrets)
}
