package buildparams

import (
	"net/url"
	"regexp"
	"strings"
)

func (c *checker) source(p place) {
	git, dockerfile, context := p.member("git_repo"), p.member("dockerfile"), p.member("build_context")
	if p.exists() && p.n.kind == object {
		switch {
		case git.exists() && dockerfile.exists():
			c.wrong(p, "has both git_repo and dockerfile", "keep one of the two; a git_repo brings its own Dockerfile")
		case !git.exists() && !dockerfile.exists():
			c.wrong(p, "has neither git_repo nor dockerfile", "give one of the two")
		}
		if context.exists() && !dockerfile.exists() {
			c.wrong(context, "goes only with dockerfile", "for a git_repo the context is its workdir")
		}
	}
	c.gitRepo(git)
	c.dockerfile(dockerfile)
	c.buildContext(context)
}

func (c *checker) gitRepo(p place) {
	scheme := c.gitURL(p.member("url"))
	c.version(p.member("version"))
	c.credentials(p, isHTTP(scheme))
	c.relative(p.member("dockerfile"), "the repository's root")
	c.relative(p.member("workdir"), "the repository's root")
	if s, ok := p.member("dockerfile").text(); ok && strings.HasSuffix(s, "/") {
		c.wrong(p.member("dockerfile"), "is a folder", "it is the path of a file")
	}
}

func (c *checker) dockerfile(p place) {
	at := p.member("url")
	s, ok := at.text()
	if !ok {
		c.credentials(p, false)
		return
	}
	u := c.absoluteURL(at, s, "write https://, http:// or file://")
	if u == nil {
		return
	}
	c.credentials(p, isHTTP(u.Scheme))
	switch {
	case isHTTP(u.Scheme):
		c.hasHost(at, u)
	case u.Scheme == "file":
		c.isLocal(at, u)
	default:
		c.wrong(at, "a Dockerfile cannot be fetched by "+u.Scheme+"://", "write https://, http:// or file://; for a repository there is git_repo")
	}
}

func (c *checker) buildContext(p place) {
	if !p.exists() || p.n.kind != object {
		return
	}
	at, folder := p.member("url"), p.member("path")
	scheme := ""
	switch {
	case at.exists() && folder.exists():
		c.wrong(p, "has both url and path", "keep one of the two")
	case !at.exists() && !folder.exists():
		c.wrong(p, "has neither url nor path", "give a repository (url) or a local folder (path)")
	case folder.exists():
		for _, name := range []string{"version", "username", "password"} {
			if m := p.member(name); m.exists() {
				c.wrong(m, "goes only with url", "a local folder is taken as it is")
			}
		}
	}
	if at.exists() {
		scheme = c.gitURL(at)
	}
	if s, ok := folder.text(); ok && strings.Contains(s, "://") {
		c.wrong(folder, "is a URL", "a URL goes into url")
	}
	c.version(p.member("version"))
	c.credentials(p, isHTTP(scheme))
	c.relative(p.member("subdir"), "the context's root")
}

func isHTTP(scheme string) bool { return scheme == "http" || scheme == "https" }

// scpLike is git's short form of an ssh URL: user@host:path.
var scpLike = regexp.MustCompile(`^[A-Za-z0-9_.-]+@([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[^:]`)

const gitURLHint = "write https://, http://, ssh://, git@host:path, or file:// for a repository on this machine"

// gitURL checks the URL of a repository and returns its scheme.
func (c *checker) gitURL(p place) string {
	s, ok := p.text()
	if !ok {
		return ""
	}
	if !strings.Contains(s, "://") {
		switch {
		case scpLike.MatchString(s):
			return "ssh"
		case strings.HasPrefix(s, "/"):
			c.wrong(p, "is a path, not a URL", "write file:// before it")
		default:
			c.wrong(p, "is not the URL of a repository", gitURLHint)
		}
		return ""
	}
	u := c.absoluteURL(p, s, gitURLHint)
	if u == nil {
		return ""
	}
	switch u.Scheme {
	case "http", "https", "ssh":
		c.hasHost(p, u)
		if u.Path == "" || u.Path == "/" {
			c.wrong(p, "names no repository", gitURLHint)
		}
	case "file":
		c.isLocal(p, u)
	case "git":
		c.wrong(p, "git:// neither hides nor proves what it transfers", "most hosts serve the same repository by https://")
	default:
		c.wrong(p, "a repository cannot be fetched by "+u.Scheme+"://", gitURLHint)
	}
	switch {
	case u.Fragment != "":
		c.wrong(p, "holds a fragment (#)", "a branch, tag or commit goes into version")
	case u.RawQuery != "":
		c.wrong(p, "holds a query (?)", "a token goes into password")
	}
	return u.Scheme
}

// absoluteURL parses a URL and refuses credentials in it. No message ever shows the URL: it may hold a password.
func (c *checker) absoluteURL(p place, s, hint string) *url.URL {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || !strings.Contains(s, "://") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' }) {
		c.wrong(p, "is not a URL", hint)
		return nil
	}
	if _, password := u.User.Password(); password || (u.User != nil && u.Scheme != "ssh") {
		c.wrong(p, "holds a user name or password", "they go into username and password")
		return nil
	}
	return u
}

func (c *checker) hasHost(p place, u *url.URL) {
	if u.Hostname() == "" {
		c.wrong(p, "names no host", "write three slashes only after file:")
	}
}

// isLocal checks a file URL.
func (c *checker) isLocal(p place, u *url.URL) {
	if u.Host != "" && u.Host != "localhost" {
		c.wrong(p, "names a host: a file:// URL is for a file of this machine", "write three slashes and the whole path: file:///srv/web")
	} else if strings.Trim(u.Path, "/") == "" {
		c.wrong(p, "names no file", "write the whole path: file:///srv/web")
	}
}

// version checks the name of a branch, tag or commit as git does (git-check-ref-format), as far as it can come from a mistake.
func (c *checker) version(p place) {
	s, ok := p.text()
	if !ok {
		return
	}
	if strings.HasPrefix(s, "-") || strings.ContainsAny(s, "~^:?*[\\ ") || strings.ContainsFunc(s, isControl) ||
		strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") {
		c.wrong(p, "is not the name of a branch, a tag or a commit", `for example "main", "v1.4.2" or "HEAD"`)
	}
}
