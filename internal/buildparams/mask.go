package buildparams

import (
	"regexp"
	"slices"
	"strings"

	"imagebuilder/internal/secret"
)

// Mask writes a document as JSON with "****" in the place of everything that is or may be secret, so that it can be shown and
// kept: the fields that the schema calls secret, others whose name sounds like one (a misspelled password is one still), and
// passwords in URLs. References (env:NAME, file:PATH) stay, for they are no secret. The document need not be valid, but it has to
// be JSON or YAML: the error for one that is not is Invalid and quotes nothing of it.
func Mask(data []byte) ([]byte, error) {
	masked, _, err := MaskWithPointers(data)
	return masked, err
}

// MaskWithPointers is Mask and SecretPointers in one.
func MaskWithPointers(data []byte) (masked []byte, pointers []string, err error) {
	n, pointers, err := hide(data)
	if err != nil {
		return nil, nil, err
	}
	return writeJSON(n), pointers, nil
}

func mask(n *node, rules *rules, at path) {
	if n.kind == text {
		n.text = MaskURL(n.text)
		if strings.Contains(n.text, "PRIVATE KEY-----") {
			n.text = secret.Mask // pasted into the wrong field
		}
	}
	for i := range n.items {
		mask(n.items[i], rules, at.index(i))
	}
	for _, m := range n.members {
		below := at.with(m.key)
		if rules.at(below).secret() || soundsSecret(m, rules, at) {
			maskAll(m.value)
			continue
		}
		mask(m.value, rules, below)
	}
}

// maskAll hides every scalar of a tree.
func maskAll(n *node) {
	switch n.kind {
	case array, object:
		for _, item := range n.items {
			maskAll(item)
		}
		for _, m := range n.members {
			maskAll(m.value)
		}
	case null:
	default:
		if n.kind == text && (n.text == "" || secret.New(n.text).IsReference()) {
			return
		}
		*n = *textNode(secret.Mask)
	}
}

// secretNames are what a name contains that stands before a secret.
var secretNames = regexp.MustCompile(`(?i)pass(word|wd|phrase)|pwd|secret|token|credential|api_?key|private_?key|auth(orization)?$`)

// soundsSecret tells whether a field that is not in the schema, or is of a map of the user's own names, may hold a secret.
func soundsSecret(m member, rules *rules, at path) bool {
	if known := rules.at(at.with(m.key)); known != nil && known.Type == object && m.value.kind == object {
		return false // options.secrets as it should be: each of its members is asked
	}
	if secretNames.MatchString(m.key) {
		return true
	}
	in := rules.at(at)
	declared := in != nil && in.Properties[m.key] != nil // and so not misspelled
	return !declared && nearest(m.key, []string{"password", "secrets"}) != ""
}

var (
	// urlUser is what stands between :// and @. A password may hold anything, even a slash that should have been escaped.
	urlUser = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*)://([^\s@/?#]*@|[^\s@/?#]*:[^\s]*@)`)
	// urlQuery is a parameter of a query.
	urlQuery = regexp.MustCompile(`([?&])([^=&\s#]+)=([^&\s#]+)`)
)

// MaskURL gives a text back with "****" for the passwords of URLs in it, and for what their queries hold under names that sound secret.
func MaskURL(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	s = urlUser.ReplaceAllStringFunc(s, func(match string) string {
		scheme, user, _ := strings.Cut(strings.TrimSuffix(match, "@"), "://")
		name, _, hasPassword := strings.Cut(user, ":")
		switch {
		case hasPassword:
			return scheme + "://" + name + ":" + secret.Mask + "@"
		case slices.Contains([]string{"ssh", "git+ssh", "svn+ssh"}, strings.ToLower(scheme)):
			return match // the name alone is no secret
		default:
			return scheme + "://" + secret.Mask + "@" // it may be a token
		}
	})
	return urlQuery.ReplaceAllStringFunc(s, func(match string) string {
		name, _, _ := strings.Cut(match[1:], "=")
		if secretNames.MatchString(name) || strings.HasSuffix(strings.ToLower(name), "sig") || strings.HasSuffix(strings.ToLower(name), "signature") || strings.EqualFold(name, "key") {
			return match[:1] + name + "=" + secret.Mask
		}
		return match
	})
}
