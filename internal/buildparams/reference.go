package buildparams

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// dockerHub is the registry that a reference without a host means.
const dockerHub = "docker.io"

// Host is the registry's host, with its port where it has one, as image references have it: "docker.io",
// "localhost:5000". Every name of Docker Hub, as index.docker.io, is docker.io. It is "" for a registry that Decode would refuse.
func (r Registry) Host() string {
	host, _, _ := registryHost(r.URL)
	return host
}

// PlainHTTP tells whether the document asks for plain http by its URL's scheme.
func (r Registry) PlainHTTP() bool { return strings.HasPrefix(strings.ToLower(r.URL), "http://") }

// Repository is where the i-th image goes, registry/path without a tag, as distribution/reference writes it:
// for docker.io and the image "web" it is "docker.io/library/web".
func (d *Document) Repository(i int) string {
	name := d.Target.Registry.Host() + "/" + d.Target.Images[i].Image
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		return named.Name()
	}
	return name // of a document that Decode did not make
}

// Ref is the i-th image's whole name, registry/path:tag.
func (d *Document) Ref(i int) string { return d.Repository(i) + ":" + d.Target.Images[i].Tag }

// registryDomain is a host with or without a port, as references take it.
var registryDomain = regexp.MustCompile("^" + reference.DomainRegexp.String() + "$")

// registryHost is the host of a registry given as host, host:port or URL, or what is wrong with it.
func registryHost(s string) (host, message, hint string) {
	const example = "for example docker.io, registry.example.com or localhost:5000"
	scheme, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		scheme, rest = "", s
	}
	scheme = strings.ToLower(scheme)
	if hasScheme && !isHTTP(scheme) {
		return "", "is a URL, but not of http or https", example
	}
	if strings.Contains(rest, "@") {
		return "", "holds a user name or password", "they go into username and password"
	}
	host, path, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host)
	if path = strings.Trim(path, "/"); path != "" && path != "v1" && path != "v2" {
		return "", "holds more than a host", "what follows the host goes in front of each image's name"
	}
	switch host {
	case dockerHub, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return dockerHub, "", ""
	}
	if !registryDomain.MatchString(host) || !portFits(host) {
		return "", "is not the host of a registry", example
	}
	if strings.ContainsAny(host, ".:") || host == "localhost" {
		return host, "", ""
	}
	// As part of a reference such a name would be taken for a user of Docker Hub; a port tells it from one.
	switch scheme {
	case "http":
		return host + ":80", "", ""
	case "https":
		return host + ":443", "", ""
	}
	return "", "would be taken for a user of docker.io: a host without a point needs its port", "for example " + strconv.Quote(host+":5000")
}

// portFits tells whether a host's port, if it has one, is a number that a port can be.
func portFits(host string) bool {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return true // it has none
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
