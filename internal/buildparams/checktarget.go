package buildparams

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
)

func (c *checker) target(p place) {
	host := c.registry(p.member("registry"))
	refs := map[string]place{}
	for _, item := range p.member("images").items() {
		ref := c.image(item, host)
		if ref == "" {
			continue
		}
		if first, twice := refs[ref]; twice {
			c.wrong(item, "has the same image and tag as "+first.at.pointer(), "give each variant a tag of its own")
			continue
		}
		refs[ref] = item
	}
}

// registry checks the registry and returns its host, or "".
func (c *checker) registry(p place) string {
	c.credentials(p, true)
	if cert := p.member("ca_cert"); cert.exists() {
		c.certificate(cert)
	}
	at := p.member("url")
	s, ok := at.text()
	if !ok {
		return ""
	}
	host, message, hint := registryHost(s)
	if message != "" {
		c.wrong(at, message, hint)
	}
	return host
}

func (c *checker) certificate(p place) {
	s, ok := p.text()
	if !ok {
		return
	}
	if path, file := strings.CutPrefix(s, "file:"); file {
		if path == "" {
			c.wrong(p, "file: is not followed by a path", "for example file:/etc/ssl/registry-ca.pem")
		}
		return
	}
	if message := certificateProblem([]byte(s)); message != "" {
		c.wrong(p, message, "write the certificate itself, or file: and the path of a PEM file")
	}
}

// image checks a variant and returns its whole name, or "" where it has none.
func (c *checker) image(p place, host string) string {
	if base, ok := p.member("base").text(); ok {
		c.baseImage(p.member("base"), base)
	}
	for _, base := range p.member("bases").members() {
		// A name with arguments, as golang:${GO}, is as the Dockerfile writes it: what it means shows there.
		if message, _ := imageProblem(base.key()); message != "" && !strings.Contains(base.key(), "$") {
			c.wrong(base, "the name that is replaced "+message, "it is the base as the Dockerfile names it, as in golang:1.13")
		}
		if s, ok := base.text(); ok {
			c.baseImage(base, s)
		}
	}
	c.buildArgs(p.member("build_args"))
	c.labels(p.member("labels"))
	c.platforms(p.member("platforms"))
	if s, ok := p.member("stage").text(); ok && !stageName.MatchString(s) {
		c.wrong(p.member("stage"), "is not a name or number that a stage can have", "it is what follows AS in the Dockerfile")
	}
	return c.fullName(p, host)
}

// fullName checks a variant's image and tag and returns both with the registry.
func (c *checker) fullName(p place, host string) string {
	tag, tagOK := p.member("tag").text()
	if tagOK && !isTag(tag) {
		c.wrong(p.member("tag"), "is not a valid tag", "a tag has up to 128 letters, digits and . _ -, and begins with none of . -")
		tagOK = false
	}
	name, ok := p.member("image").text()
	if !ok {
		return ""
	}
	if message, hint := repositoryProblem(host, name); message != "" {
		c.wrong(p.member("image"), message, hint)
		return ""
	}
	if !tagOK {
		return ""
	}
	return name + ":" + tag
}

func isTag(s string) bool {
	named, err := reference.WithName("x")
	if err != nil {
		return false
	}
	_, err = reference.WithTag(named, s)
	return err == nil
}

// repositoryProblem says what is wrong with an image's name inside a registry, or "".
func repositoryProblem(host, name string) (message, hint string) {
	if host == "" {
		host = "localhost" // the registry's own problem has been told
	}
	last := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case strings.Contains(name, "://"):
		return "is a URL", "it is the name inside the registry, as in shop/web"
	case strings.HasPrefix(strings.ToLower(name), host+"/"):
		return "repeats the registry", "leave " + host + "/ out"
	case strings.Contains(name, "@"):
		return "holds a digest", "the digest comes out of the build"
	case strings.Contains(last, ":"):
		return "holds a tag", "the tag has a field of its own"
	case strings.ToLower(name) != name:
		return "holds capital letters", fmt.Sprintf("write %q", strings.ToLower(name))
	}
	if _, err := reference.ParseNormalizedNamed(host + "/" + name); err != nil {
		if strings.Contains(err.Error(), "must not be more than") {
			return "is too long", fmt.Sprintf("registry and name together have up to %d characters", reference.RepositoryNameTotalLengthMax)
		}
		return "is not a valid image name", "it has lower-case letters and digits, with / between its parts and single . _ - inside of them"
	}
	return "", ""
}

func (c *checker) baseImage(p place, s string) {
	if message, hint := imageProblem(s); message != "" {
		c.wrong(p, message, hint)
	}
}

// imageProblem says what is wrong with the reference of a base image, or "".
func imageProblem(s string) (message, hint string) {
	switch {
	case s == "scratch":
		return "is no image", "it stands for an empty one, which nothing can replace or be built on"
	case strings.Contains(s, "://"):
		return "is a URL", "write the image without its scheme, as in registry.example.com/python:3.8-alpine"
	}
	_, err := reference.ParseNormalizedNamed(s)
	switch {
	case err == nil:
		return "", ""
	case strings.Contains(err.Error(), "must be lowercase"):
		return "holds capital letters", "an image's name is in lower case; only its tag may have capitals"
	default:
		return "is not an image reference", "for example python:3.8-alpine or registry.example.com/base/python@sha256:…"
	}
}

func (c *checker) platforms(p place) {
	first := map[string]place{}
	for _, item := range p.items() {
		s, ok := item.text()
		if !ok {
			continue
		}
		normal, err := normalPlatform(s)
		if err != nil {
			c.wrong(item, err.Error(), platformHint(s))
			continue
		}
		if other, twice := first[normal]; twice {
			c.wrong(item, fmt.Sprintf("is the same platform (%s) as %s", normal, other.at.pointer()), "keep one of the two")
			continue
		}
		first[normal] = item
	}
}

// commonPlatforms are those that most base images exist for.
func commonPlatforms() []string {
	return []string{"linux/amd64", "linux/arm64", "linux/386", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x", "linux/riscv64"}
}

func platformHint(s string) string {
	if guess := nearest(s, commonPlatforms()); guess != "" && !strings.Contains(s, "*") {
		return fmt.Sprintf("did you mean %q?", guess)
	}
	// An architecture alone; the parser takes a system too, and adds this machine's architecture to that.
	if p, err := platforms.Parse(s); err == nil && p.OS != strings.ToLower(s) {
		p.OS = "linux"
		return fmt.Sprintf("write %q", platforms.Format(platforms.Normalize(p)))
	}
	return "common ones are " + enumerate(commonPlatforms())
}

// normalPlatform is the normal form of a platform. Only what names both system and architecture is taken: the
// rest would be filled in from the machine that it is read on.
func normalPlatform(s string) (string, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 {
		return "", fmt.Errorf("is not a platform: it needs both system and architecture")
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return "", fmt.Errorf("is not a platform")
	}
	p = platforms.Normalize(p)
	// Alone, the parser takes only systems and architectures that it knows.
	if system, err := platforms.Parse(p.OS); err != nil || system.OS != p.OS {
		return "", fmt.Errorf("is not a platform: there is no system %q", parts[0])
	}
	if arch, err := platforms.Parse(parts[1]); err != nil || arch.Architecture != p.Architecture {
		return "", fmt.Errorf("is not a platform: there is no architecture %q", parts[1])
	}
	if p.Architecture == "arm" && !strings.Contains("v5 v6 v7 v8", p.Variant) {
		return "", fmt.Errorf("is not a platform: arm has no variant %q", p.Variant)
	}
	return platforms.FormatAll(p), nil
}
