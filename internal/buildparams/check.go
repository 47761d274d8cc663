package buildparams

import (
	"crypto/x509"
	"encoding/pem"
	"regexp"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
)

// checker finds what a schema cannot say. It reads the tree, not the typed document, so that it has its say
// on documents that the schema refuses too; values of a wrong type are left to the schema.
type checker struct{ problems []fault.Problem }

func (c *checker) wrong(p place, message, hint string) {
	c.problems = append(c.problems, fault.Problem{Pointer: p.at.pointer(), Message: message, Hint: hint})
}

// place is a value of a document, which may be absent, and where it stands.
type place struct {
	n  *node
	at path
}

func (p place) member(name string) place { return place{p.n.get(name), p.at.with(name)} }

func (p place) exists() bool { return p.n != nil }

// text is the value if it is a text.
func (p place) text() (string, bool) {
	if p.n == nil || p.n.kind != text {
		return "", false
	}
	return p.n.text, true
}

// integer is the value if it is a whole number.
func (p place) integer() (int, bool) {
	if p.n == nil || p.n.kind != number {
		return 0, false
	}
	n, err := strconv.Atoi(p.n.text)
	return n, err == nil
}

// members are the values of a map.
func (p place) members() []place {
	var list []place
	if p.n != nil {
		for _, m := range p.n.members {
			list = append(list, place{m.value, p.at.with(m.key)})
		}
	}
	return list
}

// items are the values of a list.
func (p place) items() []place {
	var list []place
	if p.n != nil {
		for i, item := range p.n.items {
			list = append(list, place{item, p.at.index(i)})
		}
	}
	return list
}

// key is the name under which the value stands.
func (p place) key() string { return p.at[len(p.at)-1] }

func (c *checker) document(n *node) {
	root := place{n: n}
	c.nul(root)
	c.source(root.member("source"))
	c.target(root.member("target"))
	c.options(root.member("options"))
}

// nul refuses the character that no program argument, path or header can hold.
func (c *checker) nul(p place) {
	if s, ok := p.text(); ok && strings.ContainsRune(s, 0) {
		c.wrong(p, "holds a NUL character", "")
	}
	for _, m := range p.members() {
		if strings.ContainsRune(m.key(), 0) {
			c.wrong(p, "a name holds a NUL character", "")
		}
		c.nul(m)
	}
	for _, item := range p.items() {
		c.nul(item)
	}
}

func (c *checker) options(p place) {
	c.buildArgs(p.member("build_args"))
	c.labels(p.member("labels"))
	for _, s := range p.member("secrets").members() {
		if !secretID.MatchString(s.key()) {
			c.wrong(s, "is not an id that a Dockerfile can ask for", "use letters, digits and . _ / : @ -")
		}
		c.reference(s)
	}
	c.cache(p.member("cache"))
	if level, ok := p.member("compression_level").integer(); ok && level > maxGzipLevel && compressionOf(p) == "gzip" {
		c.wrong(p.member("compression_level"), "is more than gzip has", "1 to 9, or choose compression zstd")
	}
	epoch := p.member("source_date_epoch")
	if s, ok := epoch.text(); ok && Epoch(s) != EpochCommit {
		if _, err := Epoch(s).Time(); err != nil {
			c.wrong(epoch, "is not a time", `write seconds since 1970, a time as in "2026-01-31T12:00:00Z", or "commit"`)
		}
	}
	timeout := p.member("timeout")
	if s, ok := timeout.text(); ok {
		const hint = `write a number and its unit, as in "90s", "30m" or "1h30m"`
		switch d, err := time.ParseDuration(s); {
		case err != nil:
			c.wrong(timeout, "is not a length of time", hint)
		case d <= 0:
			c.wrong(timeout, "is not a positive time", "leave it out for no limit")
		}
	}
}

var (
	argName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	secretID = regexp.MustCompile(`^[A-Za-z0-9_./:@-]+$`)
	// stageName is a name as BuildKit takes it after AS, or a number.
	stageName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_.-]*|[0-9]+)$`)
)

func (c *checker) buildArgs(p place) {
	for _, arg := range p.members() {
		if !argName.MatchString(arg.key()) {
			c.wrong(arg, "is not a name that ARG can have", "use letters, digits and _, and no digit at the beginning")
		}
	}
}

func (c *checker) labels(p place) {
	for _, label := range p.members() {
		switch {
		case label.key() == "":
			c.wrong(label, "the label has no name", "")
		case strings.ContainsFunc(label.key(), func(r rune) bool { return r <= ' ' || r == 0x7f }):
			c.wrong(label, "the label's name holds white space", "")
		}
	}
}

// credentials checks the user name and password that stand in p. With needsBoth one makes no sense without the other.
func (c *checker) credentials(p place, needsBoth bool) {
	username, password := p.member("username"), p.member("password")
	if needsBoth && username.exists() && !password.exists() {
		c.wrong(password, "is missing: there is a username", "give both or none")
	}
	if needsBoth && password.exists() && !username.exists() {
		c.wrong(username, "is missing: there is a password", `with a token most hosts take any name, as "git"`)
	}
	if s, ok := username.text(); ok {
		switch {
		case strings.ContainsFunc(s, isControl):
			c.wrong(username, "holds a line break or another control character", "")
		case strings.Contains(s, ":"):
			c.wrong(username, "holds a colon, which HTTP does not allow in it", "the password has a field of its own")
		}
	}
	if s, ok := password.text(); ok {
		if strings.ContainsFunc(s, isControl) {
			c.wrong(password, "holds a line break or another control character", "in YAML a block needs |- to have no line break at its end")
		}
		c.reference(password)
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// reference checks a secret that is env:NAME or file:PATH.
func (c *checker) reference(p place) {
	s, _ := p.text()
	if name, ok := strings.CutPrefix(s, "env:"); ok && !argName.MatchString(name) {
		c.wrong(p, "env: is not followed by the name of a variable", "for example env:REGISTRY_TOKEN")
	}
	if s == "file:" {
		c.wrong(p, "file: is not followed by a path", "for example file:/run/secrets/registry")
	}
}

// relative checks a path inside of a repository or context.
func (c *checker) relative(p place, root string) {
	s, ok := p.text()
	if !ok {
		return
	}
	hint := "it is relative to " + root
	switch {
	case strings.ContainsRune(s, '\\'):
		c.wrong(p, "holds a backslash", "write / between folders")
	case strings.HasPrefix(s, "/"):
		c.wrong(p, "is an absolute path", hint)
	case leaves(s):
		c.wrong(p, "leaves "+root, hint)
	case strings.ContainsFunc(s, func(r rune) bool { return isControl(r) && r != 0 }): // NUL is told elsewhere
		c.wrong(p, "holds a control character", "")
	}
}

// leaves tells whether a relative path goes above where it starts on its way, even if it comes back.
func leaves(s string) bool {
	depth := 0
	for element := range strings.SplitSeq(s, "/") {
		switch element {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return true
		}
	}
	return false
}

// certificateProblem says what is wrong with the text of a PEM file of certificates, or "".
func certificateProblem(data []byte) string {
	found := false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return "holds a private key"
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "holds a certificate that cannot be read"
		}
		found = true
	}
	if !found {
		return "holds no certificate in PEM form"
	}
	return ""
}
