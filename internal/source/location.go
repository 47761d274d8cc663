package source

import (
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"imagebuilder/internal/fault"
)

// location is where a repository is: a parsed URL, an scp-like user@host:path, or a local path.
type location struct {
	scheme   string // http, https, ssh or file
	host     string // host, or host:port if the port is not the scheme's own; lower case
	user     string // for ssh: who logs in; "" for others
	path     string // for http(s) escaped as in the URL, for scp-like as written, for file absolute
	scp      bool   // written as user@host:path: the path is relative to the login's home
	username string // found in an http(s) URL
	password string // found in an http(s) URL; never shown
}

// remoteHelper is git's transport::address, as in ext::COMMAND.
var remoteHelper = regexp.MustCompile(`^[A-Za-z0-9]+::`)

// parseLocation parses a repository's URL as git does: what has "://" is a URL, what has a colon before
// the first slash is scp-like, and the rest is a local path, which absolute makes absolute.
func parseLocation(text string, absolute func(string) (string, error)) (location, error) {
	switch {
	case text == "":
		return location{}, fault.New(fault.Invalid, "repository URL is empty")
	case strings.HasPrefix(text, "-"):
		return location{}, fault.New(fault.Invalid, "repository URL %q starts with a dash", text)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return location{}, fault.New(fault.Invalid, "repository URL holds control characters")
	case remoteHelper.MatchString(text):
		return location{}, fault.New(fault.Invalid, "repository URL %q names a remote helper, which may run anything", text)
	case strings.Contains(text, "://"):
		return parseURL(text)
	}
	colon, slash := strings.Index(text, ":"), strings.Index(text, "/")
	if strings.HasPrefix(text, "[") || strings.Contains(text, "@[") {
		colon = strings.Index(text, "]:") + 1
	}
	if colon > 0 && (slash < 0 || colon < slash) {
		return parseSCP(text[:colon], text[colon+1:])
	}
	p, err := absolute(text)
	if err != nil {
		return location{}, fault.New(fault.Invalid, "repository path %q: %w", text, err)
	}
	return location{scheme: "file", path: p}, nil
}

func parseSCP(host, p string) (location, error) {
	l := location{scheme: "ssh", path: p, scp: true}
	if at := strings.LastIndex(host, "@"); at >= 0 {
		l.user, host = host[:at], host[at+1:]
	}
	l.host = strings.ToLower(host)
	return l, l.check()
}

func parseURL(text string) (location, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error of url.Parse quotes the URL with the password in it.
		return location{}, fault.New(fault.Invalid, "repository URL %s cannot be parsed", redact(text))
	}
	l := location{scheme: strings.ToLower(u.Scheme), host: strings.ToLower(u.Host), path: u.EscapedPath()}
	switch l.scheme {
	case "http", "https":
		l.host = withoutDefaultPort(l.scheme, l.host)
		if u.User != nil {
			l.username = u.User.Username()
			l.password, _ = u.User.Password()
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return location{}, fault.New(fault.Invalid, "repository URL %s has a query or a fragment", redact(text)).
				WithHint("give the branch, tag or commit as version")
		}
	case "ssh", "git+ssh", "ssh+git":
		l.scheme, l.path = "ssh", u.Path
		l.host = withoutDefaultPort(l.scheme, l.host)
		l.user = u.User.Username()
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return location{}, fault.New(fault.Invalid, "repository URL %s: a file URL names no host", redact(text)).
				WithHint("write file:///absolute/path")
		}
		l.host, l.path = "", path.Clean(u.Path)
	default:
		return location{}, fault.New(fault.Invalid, "repository URL %s: scheme %s is not supported", redact(text), l.scheme).
			WithHint("use http, https, ssh, file, user@host:path or a local path")
	}
	return l, l.check()
}

func (l location) check() error {
	switch {
	case l.scheme != "file" && strings.Trim(l.host, ":[]") == "":
		return fault.New(fault.Invalid, "repository URL names no host")
	case strings.HasPrefix(l.host, "-") || strings.HasPrefix(l.user, "-"):
		return fault.New(fault.Invalid, "repository URL has a host or user that starts with a dash")
	case strings.Trim(l.path, "/") == "":
		return fault.New(fault.Invalid, "repository URL %s names no repository", l)
	case strings.ContainsAny(l.path, "\x00\n\r"), strings.ContainsAny(l.host+l.user, " /\\'\""):
		return fault.New(fault.Invalid, "repository URL has characters that no host, user or path has")
	}
	return nil
}

// String is the location for people and for keys: without any password, and without the user of http(s).
func (l location) String() string {
	switch {
	case l.scheme == "file":
		return l.path
	case l.scp && l.user != "":
		return l.user + "@" + l.host + ":" + l.path
	case l.scp:
		return l.host + ":" + l.path
	case l.user != "":
		return l.scheme + "://" + url.User(l.user).String() + "@" + l.host + l.path
	default:
		return l.scheme + "://" + l.host + l.path
	}
}

// endpoint is the location as go-git has it. It is made of our own parts: were the text parsed once
// more, by other rules, go-git might talk to another host than the one that was checked.
func (l location) endpoint() *transport.Endpoint {
	ep := &transport.Endpoint{Protocol: l.scheme, User: l.user, Host: l.host, Path: l.path}
	if host, port, err := net.SplitHostPort(l.host); err == nil {
		ep.Host = host
		ep.Port, _ = strconv.Atoi(port)
	} else if l.scheme == "ssh" {
		ep.Host = strings.Trim(l.host, "[]")
	}
	if l.scheme != "ssh" && strings.Contains(ep.Host, ":") {
		ep.Host = "[" + strings.Trim(ep.Host, "[]") + "]"
	}
	return ep
}

// origin is what credentials are bound to.
func (l location) origin() string { return l.scheme + "://" + l.host }

// local tells whether the repository is on this machine's disk.
func (l location) local() bool { return l.scheme == "file" }

// submodule resolves the URL of a submodule, which may be relative to its parent's, by git's rule: each
// ../ takes one component of the parent's URL away. A submodule is never a local path: a
// repository must not read this machine's disk.
func (l location) submodule(text string) (location, error) {
	refused := func(string) (string, error) {
		return "", fault.New(fault.Invalid, "a submodule may not be a local path")
	}
	if !strings.HasPrefix(text, "./") && !strings.HasPrefix(text, "../") {
		sub, err := parseLocation(text, refused)
		if err == nil && sub.local() {
			return location{}, fault.New(fault.Invalid, "a submodule may not be a local path")
		}
		return sub, err
	}
	if l.local() {
		return location{}, fault.New(fault.Invalid, "a submodule may not be a local path")
	}
	base := strings.TrimRight(l.path, "/")
	for {
		if rest, ok := strings.CutPrefix(text, "./"); ok {
			text = strings.TrimLeft(rest, "/")
			continue
		}
		rest, ok := strings.CutPrefix(text, "../")
		if !ok {
			break
		}
		text = strings.TrimLeft(rest, "/")
		cut := strings.LastIndex(base, "/")
		switch {
		case cut >= 0:
			base = base[:cut]
		case base != "":
			base = ""
		default:
			return location{}, fault.New(fault.Invalid, "relative URL leaves the host %s", l.host)
		}
	}
	sub := l
	sub.path = strings.TrimRight(text, "/")
	if base != "" || !l.scp {
		sub.path = base + "/" + sub.path
	}
	sub.username, sub.password = "", ""
	return sub, sub.check()
}

func withoutDefaultPort(scheme, host string) string {
	port := map[string]string{"http": ":80", "https": ":443", "ssh": ":22"}[scheme]
	return strings.TrimSuffix(strings.TrimSuffix(host, port), ":")
}

// redact takes what may be credentials out of a URL that cannot be parsed: all between scheme and the last @ before the path.
func redact(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		scheme, rest = "", text
	} else {
		scheme += "://"
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + rest
}
