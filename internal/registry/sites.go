package registry

import (
	"crypto/x509"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"

	"imagebuilder/internal/fault"
)

// Site says how one registry is reached, apart from what the document says about its own.
type Site struct {
	// Mirrors are asked for base images before the registry itself, in this order: a host, or a URL whose path goes
	// before the repository's. How a mirror is reached is said by the Site of its own host.
	Mirrors     []string
	CA          []byte // PEM: who, besides the system's authorities, vouches for it
	Credentials string // file in the form of Docker's config.json or of containers-auth.json; goes before the user's own
	PlainHTTP   bool   // it speaks http
	Insecure    bool   // it may have a certificate that nobody vouches for, or speak http
}

// site is a Site, understood.
type site struct {
	mirrors         []mirror
	ca              []byte
	plain, insecure bool
	credentials     *dockerConfig // nil without a file
}

// mirror is another place where a registry's images are had.
type mirror struct {
	registry name.Registry
	prefix   string // goes before the repository's path; "" or ending with a slash
}

// newSites understands the sites of a configuration.
func newSites(all map[string]Site) (map[string]*site, error) {
	sites := map[string]*site{}
	at := func(host string) *site {
		host = canonicalHost(host)
		if sites[host] == nil {
			sites[host] = &site{}
		}
		return sites[host]
	}
	for host, given := range all {
		s := at(host)
		s.ca, s.plain, s.insecure = given.CA, s.plain || given.PlainHTTP, given.Insecure
		if len(given.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(given.CA) {
			return nil, fault.New(fault.Invalid, "registry %s: its CA file holds no certificate in PEM form", host)
		}
		if given.Credentials != "" {
			s.credentials = &dockerConfig{file: given.Credentials}
		}
		for _, text := range given.Mirrors {
			m, plain, err := parseMirror(text)
			if err != nil {
				return nil, fault.New(fault.Invalid, "registry %s: mirror %q: %w", host, text, err).
					WithHint("a mirror is a host, as in mirror.example.com:5000, or a URL, as in https://mirror.example.com/docker-hub")
			}
			s.mirrors = append(s.mirrors, m)
			if plain {
				at(m.registry.RegistryStr()).plain = true
			}
		}
	}
	return sites, nil
}

func parseMirror(text string) (m mirror, plain bool, err error) {
	rest := text
	if scheme, after, ok := strings.Cut(text, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return m, false, errNoMirror
		}
		plain, rest = scheme == "http", after
	}
	u, err := url.Parse("https://" + rest)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return m, false, errNoMirror
	}
	if m.registry, err = name.NewRegistry(u.Host, name.StrictValidation); err != nil {
		return m, false, errNoMirror
	}
	if path := strings.Trim(u.Path, "/"); path != "" {
		m.prefix = path + "/"
		if _, err := reference.WithName(u.Host + "/" + path); err != nil {
			return m, false, errNoMirror
		}
	}
	return m, plain, nil
}

var errNoMirror = fault.New(fault.Invalid, "it is neither a host nor an http or https URL of one")

// trusts is who vouches for a host, besides the system's authorities; PEM, empty when nobody is named.
func (c *Client) trusts(host string) [][]byte {
	var all [][]byte
	if host == c.host && len(c.config.CA) > 0 {
		all = append(all, c.config.CA)
	}
	if s := c.sites[host]; s != nil && len(s.ca) > 0 {
		all = append(all, s.ca)
	}
	return all
}

// reach is how a host is to be talked to.
type reach struct {
	plain, insecure bool
	roots           *x509.CertPool // nil is the system's
	authorities     []string       // who vouches for it besides the system's, by subject
}

func (c *Client) reach(host string) reach {
	r := reach{}
	if host == c.host {
		r.plain, r.insecure = c.config.PlainHTTP, c.config.Insecure
	}
	if s := c.sites[host]; s != nil {
		r.plain, r.insecure = r.plain || s.plain, r.insecure || s.insecure
	}
	for _, pem := range c.trusts(host) {
		if r.roots == nil {
			r.roots = systemRoots()
		}
		r.roots.AppendCertsFromPEM(pem)
		r.authorities = append(r.authorities, subjects(pem)...)
	}
	return r
}

func systemRoots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return roots
}
