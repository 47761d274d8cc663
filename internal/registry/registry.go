// Package registry talks to image registries: it checks whether a push would be allowed, looks up what
// an image is, pushes finished images, moves tags, and asks what is served afterwards.
//
// It builds nothing, and deletes nothing but tags. Credentials are kept in memory; they come from build_params
// for the document's own registry, and otherwise from the user's Docker configuration, which is only read.
//
// The protocol is go-containerregistry's. Connections, authentication and retries are this package's
// own (see endpoint): go-containerregistry asks for a token again when one expires, but then sends a
// body that it has already used up, and it falls back to plain http in private networks.
package registry

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// Config says how registries are reached and with whose credentials.
type Config struct {
	Host            string // registry host of the document, as in localhost:5000; docker.io and its other names are one
	Username        string // of build_params, used only for Host; may be empty with a Password that is an identity token
	Password        string
	PlainHTTP       bool            // Host speaks http
	Insecure        bool            // Host may have a certificate that nobody vouches for, or speak http
	CA              []byte          // PEM: who else, besides the system's authorities, vouches for Host
	Registries      map[string]Site // by host; what they say of Host goes with what is said here
	DockerConfigDir string          // the user's Docker configuration; default DOCKER_CONFIG, then ~/.docker
	UserAgent       string          // default that of Go
	Timeout         time.Duration   // how long one answer to a small request may take; default 30 s
	Egress          *egress.Guard   // bounds what is connected to; nil is everywhere
	Emit            event.Sink      // told what PushLayout sends, and what is wrong with mirrors; may be nil
}

// requestTimeout is long for a registry, and short for someone who waits for an error.
const requestTimeout = 30 * time.Second

// Client talks to registries. It may be used by several goroutines at once.
type Client struct {
	config  Config
	host    string // canonical form of config.Host
	sites   map[string]*site
	secrets redactor

	docker dockerConfig

	mu        sync.Mutex
	endpoints map[string]*endpoint // by host, as go-containerregistry names it
	answers   map[string]string    // by canonical host: the repository whose credentials daemons are told
}

// New makes a client. It reaches for nothing; the error, of kind Invalid, is about the config alone.
func New(config Config) (*Client, error) {
	if config.Timeout == 0 {
		config.Timeout = requestTimeout
	}
	if config.Emit == nil {
		config.Emit = event.Discard
	}
	c := &Client{config: config, host: canonicalHost(config.Host), endpoints: map[string]*endpoint{}, answers: map[string]string{}}
	c.docker.dir = config.DockerConfigDir
	c.secrets.add(config.Password)
	if len(config.CA) > 0 {
		if !x509.NewCertPool().AppendCertsFromPEM(config.CA) {
			return nil, fault.New(fault.Invalid, "registry %s: its CA certificate holds no certificate in PEM form", config.Host).
				WithHint("target.registry.ca_cert is the text between and with -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----, or file:PATH")
		}
	}
	var err error
	c.sites, err = newSites(config.Registries)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Close lets go of connections that are kept for reuse.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.endpoints {
		e.base.CloseIdleConnections()
	}
}

// dockerHub is how this package names the registry of Docker Hub.
const dockerHub = "docker.io"

// canonicalHost makes one host of several spellings.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return dockerHub
	}
	return host
}

// image is a reference in the terms of go-containerregistry, tied to the endpoint that serves it.
type image struct {
	text     string // as users write it
	name     string // registry/path, as a daemon takes it
	ref      name.Reference
	endpoint *endpoint
}

// parse reads registry/repository[:tag][@digest]. Without a tag and a digest it is the tag latest;
// with both, the digest counts.
func (c *Client) parse(text string) (*image, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, fault.New(fault.Invalid, "image %s: %w", text, err)
	}
	registry, err := name.NewRegistry(reference.Domain(named))
	if err != nil {
		return nil, fault.New(fault.Invalid, "image %s: %w", text, err)
	}
	repository := registry.Repo(reference.Path(named))
	img := &image{text: text, name: named.Name(), endpoint: c.endpoint(registry)}
	switch r := reference.TagNameOnly(named).(type) {
	case reference.Digested:
		img.ref = repository.Digest(r.Digest().String())
	case reference.Tagged:
		img.ref = repository.Tag(r.Tag())
	}
	return img, nil
}

// endpoint is the one that serves a registry, made at its first use.
func (c *Client) endpoint(registry name.Registry) *endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	host := registry.RegistryStr()
	if e := c.endpoints[host]; e != nil {
		return e
	}
	e := &endpoint{client: c, host: host, canonical: canonicalHost(host), schemes: []string{"https"}, turn: make(chan struct{}, 1)}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	e.reach = c.reach(e.canonical)
	switch {
	case e.reach.plain:
		e.schemes = []string{"http"}
	case e.reach.insecure:
		// As BuildKit does with registry.insecure, so that what is checked here is what a push meets.
		tlsConfig.InsecureSkipVerify = true // what the user asked for
		e.schemes = []string{"https", "http"}
	case e.reach.roots != nil:
		tlsConfig.RootCAs = e.reach.roots
	case isLoopback(host):
		e.schemes = []string{"https", "http"}
	}
	e.base = c.config.Egress.For("the registry " + e.canonical).Transport(newTransport(tlsConfig))
	c.endpoints[host] = e
	return e
}

// Limits of a connection to a registry, as containerd and BuildKit have them.
const (
	dialTimeout      = 30 * time.Second
	keepAlive        = 30 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	idlePerHost      = 8 // as many as transfer at once, and some small requests beside them
)

func newTransport(config *tls.Config) *http.Transport {
	var protocols http.Protocols
	// HTTP/2's flow control slows uploads down (golang/go#14077); BuildKit leaves it out for the same reason.
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: handshakeTimeout,
		IdleConnTimeout:     idleTimeout,
		MaxIdleConnsPerHost: idlePerHost,
		Protocols:           &protocols,
	}
}

// remote makes go-containerregistry's options: everything below the protocol is the endpoint's.
func (e *endpoint) remote() ([]remote.Option, error) {
	registry, err := name.NewRegistry(e.host)
	if err != nil {
		return nil, err
	}
	// A challenge without a scheme gives a transport that neither asks who we are nor retries.
	wrapped, err := transport.FromToken(registry, authn.Anonymous, e, &transport.Challenge{}, nil)
	if err != nil {
		return nil, err
	}
	return []remote.Option{
		remote.WithTransport(wrapped),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		remote.WithRetryPredicate(func(error) bool { return false }),
	}, nil
}

func isLoopback(host string) bool {
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	bare = strings.Trim(bare, "[]")
	return bare == "localhost" || net.ParseIP(bare).IsLoopback()
}
