// Package auth tells who calls the service: API keys, bearer tokens of an OpenID provider, and the sessions of the
// web page. It says what a caller may do by scopes; what belongs to whom is decided by who keeps it.
//
// It keeps no user accounts and no passwords: people are the provider's business, and an API key is a random string
// of which only the hash is known.
package auth

import (
	"context"
	"errors"
	"slices"

	"imagebuilder/internal/fault"
)

// What a caller may do. Everything else than these four is the same for all who are known.
const (
	ScopeSubmit  = "builds:submit"   // submit, cancel, retry and delete its own; implies ScopeRead
	ScopeRead    = "builds:read"     // see its own and those of its groups
	ScopeReadAll = "builds:read:all" // see everybody's; implies ScopeRead
	ScopeAdmin   = "builds:admin"    // everything, with everybody's
)

// Principal is a caller who has shown who it is. It holds nothing secret and can be written as JSON.
type Principal struct {
	// Subject is who owns what is submitted: "key:NAME" for an API key, "user:SUB" for a token with a subject and
	// "client:ID" for one without. The first word keeps a key, a person and a program of the same name apart.
	Subject string `json:"subject"`
	Name    string `json:"name"` // for people: may change, and may be the same for two
	// Groups are whose invocations it sees beside its own, and for which it may submit.
	Groups []string `json:"groups,omitempty"`
	Scopes []string `json:"scopes,omitempty"` // only those that this package defines
}

// May tells whether the caller has the scope, or one that implies it.
func (p Principal) May(scope string) bool {
	if p.Subject == "" {
		return false
	}
	has := func(wanted ...string) bool {
		return slices.ContainsFunc(wanted, func(s string) bool { return slices.Contains(p.Scopes, s) })
	}
	switch scope {
	case ScopeRead:
		return has(ScopeRead, ScopeReadAll, ScopeSubmit, ScopeAdmin)
	case ScopeReadAll:
		return has(ScopeReadAll, ScopeAdmin)
	case ScopeSubmit:
		return has(ScopeSubmit, ScopeAdmin)
	case ScopeAdmin:
		return has(ScopeAdmin)
	}
	return false
}

// InGroup tells whether the caller belongs to the group; nobody belongs to "".
func (p Principal) InGroup(group string) bool {
	return group != "" && slices.Contains(p.Groups, group)
}

type contextKey struct{}

// ContextWith gives a context that knows the caller.
func ContextWith(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext is the caller that ContextWith put there.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}

// Why a request is not let in. Both are of kind fault.Denied and mean HTTP's 401; being known but not allowed to do
// something is for whoever asks Principal.May, and means 403.
var (
	ErrNoCredentials  = errors.New("no credentials")      // neither X-API-Key nor Authorization was sent
	ErrBadCredentials = errors.New("credentials refused") // they were sent, and are wrong, expired or revoked
)

func noCredentials() error {
	e := fault.New(fault.Denied, "the request carries no credentials")
	e.Err = ErrNoCredentials
	return e
}

// refused is the error for credentials that are not accepted. Its text is sent to the caller and must hold nothing of
// the credential.
func refused(format string, args ...any) error {
	e := fault.New(fault.Denied, format, args...)
	e.Err = errors.Join(ErrBadCredentials, e.Err)
	return e
}

// unavailable is the error for a provider of whom nothing is known: not the caller's fault, and no reason to let it in.
func unavailable(format string, args ...any) *fault.Error {
	return fault.New(fault.Unavailable, format, args...)
}
