package admission

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

// Policy says what strangers may ask for beyond the schema. The zero value is the strictest. docs/rest-security.md has the decision
// on every field.
//
// Addresses are refused here only where a document has them literally, so that the caller hears of it at once. What a name leads to
// is looked at where it is dialled, in the plugin.
type Policy struct {
	// AnyAddress lets documents name loopback, link-local, metadata and private addresses.
	AnyAddress bool
	// Addresses are prefixes of such addresses that documents may name all the same. localhost counts as 127.0.0.1 and ::1.
	Addresses []netip.Prefix
	// PlainRegistries are the hosts, as registry.example.com:5000, that images may be pushed to by plain http or with a certificate
	// that nobody vouches for; "*" is every host.
	PlainRegistries []string
}

// A decision looks at one value of a document: what is wrong with it, and what to do about it. "" is nothing.
type decision func(c *refusals, at string, value any)

// decisions are about every value that a document can have, by the place in the schema; * is any index, or any name of the user's own.
// A value without a decision is refused, so that a new field of the schema is closed until somebody has thought about it.
var decisions = map[string]decision{
	"/source/git_repo/url":        (*refusals).repository,
	"/source/git_repo/version":    nil,
	"/source/git_repo/username":   nil,
	"/source/git_repo/password":   (*refusals).secret,
	"/source/git_repo/dockerfile": nil,
	"/source/git_repo/workdir":    nil,

	"/source/dockerfile/url":      (*refusals).dockerfile,
	"/source/dockerfile/username": nil,
	"/source/dockerfile/password": (*refusals).secret,

	"/source/build_context/url":      (*refusals).repository,
	"/source/build_context/path":     (*refusals).folder,
	"/source/build_context/version":  nil,
	"/source/build_context/username": nil,
	"/source/build_context/password": (*refusals).secret,
	"/source/build_context/subdir":   nil,

	"/target/registry/url":      (*refusals).registry,
	"/target/registry/username": nil,
	"/target/registry/password": (*refusals).secret,
	"/target/registry/insecure": (*refusals).insecure,
	"/target/registry/ca_cert":  (*refusals).secret,

	"/target/images/*/image":        nil,
	"/target/images/*/tag":          nil,
	"/target/images/*/base":         (*refusals).image,
	"/target/images/*/bases/*":      (*refusals).image,
	"/target/images/*/platforms/*":  nil,
	"/target/images/*/build_args/*": nil,
	"/target/images/*/labels/*":     nil,
	"/target/images/*/stage":        nil,

	"/options/build_args/*":      nil,
	"/options/labels/*":          nil,
	"/options/secrets/*":         (*refusals).secret,
	"/options/no_cache":          nil,
	"/options/timeout":           nil,
	"/options/compression":       nil,
	"/options/compression_level": nil,
	"/options/source_date_epoch": nil,
	"/options/cache/mode":        nil,
	"/options/cache/ref":         (*refusals).image,
	"/options/cache/scope":       nil,
}

// refusals are what the policy says about one document.
type refusals struct {
	policy   Policy
	limits   Limits
	root     any
	problems []fault.Problem
}

// refuse looks at a document, as encoding/json decodes it. It may be one that the schema refuses: unknown fields are then
// left to the schema. Strict refuses them too.
func (p Policy) refuse(document any, limits Limits, strict bool) []fault.Problem {
	c := &refusals{policy: p, limits: limits, root: document}
	c.walk(document, "", "", strict)
	c.count()
	return c.problems
}

func (c *refusals) wrong(at, message, hint string) {
	c.problems = append(c.problems, fault.Problem{Pointer: at, Message: message, Hint: hint})
}

// walk visits every value below a place of the schema.
func (c *refusals) walk(value any, place, at string, strict bool) {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			name := fault.EscapePointer(key)
			below := place + "/" + name
			if !decided(below) {
				below = place + "/*"
			}
			c.walk(v[key], below, at+"/"+name, strict)
		}
	case []any:
		for i, item := range v {
			c.walk(item, place+"/*", at+"/"+strconv.Itoa(i), strict)
		}
	case nil: // null means absent
	default:
		decide, known := decisions[place]
		switch {
		case known && decide != nil:
			decide(c, at, value)
		case !known && strict:
			c.wrong(at, "is not allowed in this service", "")
		}
	}
}

// decided tells whether there is a decision on a place, or on one below it.
func decided(place string) bool {
	if _, ok := decisions[place]; ok {
		return true
	}
	for known := range decisions {
		if strings.HasPrefix(known, place+"/") {
			return true
		}
	}
	return false
}

// at is a value of the document, or nil.
func (c *refusals) at(keys ...string) any {
	value := c.root
	for _, key := range keys {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	return value
}

// secret refuses references: they would read the environment and the files of whoever builds.
func (c *refusals) secret(at string, value any) {
	s, ok := value.(string)
	switch {
	case !ok:
	case strings.HasPrefix(s, "env:"):
		c.wrong(at, "is a reference to the environment of the service", "send the value itself: it is kept sealed, and removed when the build has ended")
	case strings.HasPrefix(s, "file:"):
		c.wrong(at, "is a reference to a file of the service", "send the value itself")
	case s == secret.Mask:
		c.wrong(at, "is the mask of a secret, not a secret", "send the value itself")
	}
}

const localHint = "the service builds what it can fetch: put it into a git repository or onto a web server"

// repository refuses repositories that are on the service's machine, or that would be fetched with its keys.
func (c *refusals) repository(at string, value any) {
	s, ok := value.(string)
	if !ok || s == "" {
		return
	}
	scheme, host := splitURL(s)
	switch scheme {
	case "http", "https":
		c.host(at, host)
	case "file":
		c.wrong(at, "is a repository on the machine of the service", localHint)
	case "ssh", "":
		c.wrong(at, "is fetched by ssh, which would log in with the keys of the service", "most hosts serve the same repository by https://, with a token as password")
	default:
		c.wrong(at, "cannot be fetched by "+scheme+"://", "write https://")
	}
}

func (c *refusals) dockerfile(at string, value any) {
	s, ok := value.(string)
	if !ok || s == "" {
		return
	}
	switch scheme, host := splitURL(s); scheme {
	case "http", "https":
		c.host(at, host)
	case "file":
		c.wrong(at, "is a file of the machine of the service", localHint)
	default:
		c.wrong(at, "cannot be fetched by "+scheme+"://", "write https://")
	}
}

func (c *refusals) folder(at string, value any) {
	if s, ok := value.(string); !ok || s != "" {
		c.wrong(at, "is a folder of the machine of the service", localHint)
	}
}

// registry refuses plain http, and addresses.
func (c *refusals) registry(at string, value any) {
	s, ok := value.(string)
	if !ok || s == "" {
		return
	}
	scheme, host := splitURL(s)
	if scheme == "http" && !c.policy.plain(host) {
		c.wrong(at, "is a registry by plain http, where everybody on the way sees passwords and can change images", "write https://, or ask the operator of the service to allow this host")
	}
	c.host(at, host)
}

func (c *refusals) insecure(at string, value any) {
	on, _ := value.(bool)
	url, _ := c.at("target", "registry", "url").(string)
	_, host := splitURL(url)
	if on && !c.policy.plain(host) {
		c.wrong(at, "is not allowed for this registry", "give the certificate of its authority in ca_cert, or ask the operator of the service to allow this host")
	}
}

// image refuses references of images at addresses.
func (c *refusals) image(at string, value any) {
	s, ok := value.(string)
	if !ok || s == "" {
		return
	}
	domain, _, found := strings.Cut(s, "/")
	// As distribution/reference tells a host from the first part of a name of Docker Hub, which has no capital.
	if !found || (!strings.ContainsAny(domain, ".:") && domain != "localhost" && strings.ToLower(domain) == domain) {
		return
	}
	c.host(at, domain)
}

// count refuses documents that ask for more builds than one may.
func (c *refusals) count() {
	images, _ := c.at("target", "images").([]any)
	builds := 0
	for _, image := range images {
		m, _ := image.(map[string]any)
		platforms, _ := m["platforms"].([]any)
		builds += max(1, len(platforms))
	}
	if builds > c.limits.Images {
		c.wrong("/target/images", "comes to "+strconv.Itoa(builds)+" builds, images times platforms; "+strconv.Itoa(c.limits.Images)+" are allowed", "send several documents")
	}
}

// plain tells whether a registry may be reached without a certificate that somebody vouches for.
func (p Policy) plain(host string) bool {
	return slices.ContainsFunc(p.PlainRegistries, func(allowed string) bool {
		return allowed == "*" || strings.EqualFold(allowed, host)
	})
}
