package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	maxIdentifier = 255 // characters of a subject or a group; OpenID Connect Core, section 2, says so of sub
	maxGroups     = 512 // directories with more than 200 groups for a person exist; what is beyond is left out
	maxClaims     = 1 << 16
)

// Claims says what in a token makes groups and scopes. The zero value is good.
type Claims struct {
	// Groups and Roles are names of claims, or paths to them with dots, as realm_access.roles: strings, lists of
	// strings, or strings separated by blanks. A name that has dots of its own works too.
	Groups []string // OIDC_GROUPS_CLAIM; default groups
	Roles  []string // OIDC_ROLES_CLAIM; default realm_access.roles, Keycloak's, and roles
	// Scopes says by which scopes or roles of a token each scope of ours is given; "role:NAME" is a role. A scope that
	// is missing here is given as DefaultScopes says; one with an empty list is given to nobody.
	Scopes map[string][]string
}

// DefaultScopes is what gives each of our scopes. The original's clients come with the scope email and nothing else, so
// that lets them submit and see their own.
func DefaultScopes() map[string][]string {
	return map[string][]string{
		ScopeSubmit:  {"email", ScopeSubmit, "role:" + ScopeSubmit},
		ScopeRead:    {ScopeRead, "role:" + ScopeRead},
		ScopeReadAll: {ScopeReadAll, "role:" + ScopeReadAll},
		ScopeAdmin:   {ScopeAdmin, "role:" + ScopeAdmin},
	}
}

func (c Claims) withDefaults() (Claims, error) {
	if len(c.Groups) == 0 {
		c.Groups = []string{"groups"}
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{"realm_access.roles", "roles"}
	}
	scopes := DefaultScopes()
	for scope, given := range c.Scopes {
		if _, known := scopes[scope]; !known {
			return c, fmt.Errorf("scope %q is none of %s", scope, strings.Join(allScopes(), ", "))
		}
		scopes[scope] = given
	}
	c.Scopes = scopes
	return c, nil
}

// claimSet is a token's payload, or the provider's answer about one.
type claimSet map[string]any

func parseClaims(data []byte) (claimSet, error) {
	if len(data) > maxClaims {
		return nil, fmt.Errorf("more than %d bytes", maxClaims)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var c claimSet
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if c == nil || decoder.More() {
		return nil, fmt.Errorf("not one JSON object")
	}
	return c, nil
}

func (c claimSet) text(name string) string {
	text, _ := c[name].(string)
	return text
}

// time is a NumericDate (RFC 7519, section 2), and the zero time where there is none.
func (c claimSet) time(name string) time.Time {
	number, ok := c[name].(json.Number)
	if !ok {
		return time.Time{}
	}
	seconds, err := number.Float64()
	if err != nil || math.Abs(seconds) > 1<<40 { // in 34,000 years; time.Time takes it
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// has tells whether the claim, a string or a list of strings, holds the text.
func (c claimSet) has(name, text string) bool {
	switch value := c[name].(type) {
	case string:
		return value == text
	case []any:
		return slices.Contains(value, any(text))
	}
	return false
}

// name is what people call the subject; "" where the token does not say.
func (c claimSet) name() string {
	for _, claim := range []string{"preferred_username", "username", "email", "name"} {
		if text := c.text(claim); fitsIdentifier(text) {
			return text
		}
	}
	return ""
}

// list collects the texts at a path.
func (c claimSet) list(path string) []string {
	value := find(c, path)
	switch value := value.(type) {
	case string:
		return strings.Fields(value)
	case []any:
		var texts []string
		for _, item := range value {
			if text, ok := item.(string); ok {
				texts = append(texts, text)
			}
		}
		return texts
	}
	return nil
}

// find looks a path up. At each level the longest name wins, so that names with dots are found.
func find(object map[string]any, path string) any {
	if value, ok := object[path]; ok {
		return value
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		if inner, ok := object[path[:end]].(map[string]any); ok {
			return find(inner, path[end+1:])
		}
	}
	return nil
}

// principal makes a caller of what a provider says.
func (c Claims) principal(set claimSet) (Principal, error) {
	client := set.text("client_id")
	if client == "" {
		client = set.text("azp") // Keycloak's JWTs
	}
	subject := set.text("sub")
	p := Principal{}
	switch {
	// A program's own token: no subject, or (RFC 9068, section 2.2) the client's name. A person of that name is another.
	case client != "" && (subject == "" || subject == client):
		p.Subject, p.Name = "client:"+client, client
	case subject != "":
		p.Subject, p.Name = "user:"+subject, subject
	default:
		return p, refused("the token names neither a subject nor a client")
	}
	if _, identifier, _ := strings.Cut(p.Subject, ":"); !fitsIdentifier(identifier) {
		return p, refused("the token's subject is longer than %d characters or has some that do not print", maxIdentifier)
	}
	if name := set.name(); name != "" {
		p.Name = name
	}
	for _, path := range c.Groups {
		for _, group := range set.list(path) {
			if fitsIdentifier(group) && len(p.Groups) < maxGroups && !slices.Contains(p.Groups, group) {
				p.Groups = append(p.Groups, group)
			}
		}
	}
	p.Scopes = c.scopes(set)
	return p, nil
}

// scopes translates a token's scopes and roles.
func (c Claims) scopes(set claimSet) []string {
	has := map[string]bool{}
	for _, name := range []string{"scope", "scp"} {
		for _, scope := range set.list(name) {
			if !strings.HasPrefix(scope, "role:") { // whoever may choose scopes must not choose roles
				has[scope] = true
			}
		}
	}
	for _, path := range c.Roles {
		for _, role := range set.list(path) {
			has["role:"+role] = true
		}
	}
	var scopes []string
	for _, scope := range allScopes() {
		if slices.ContainsFunc(c.Scopes[scope], func(given string) bool { return has[given] }) {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// fitsIdentifier tells whether a name may be kept, compared and shown: it must not be able to pass for another.
func fitsIdentifier(name string) bool {
	count := 0
	for _, r := range name {
		if count++; !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return 0 < count && count <= maxIdentifier
}
