package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
)

const (
	// headerTimeout is how long a server may think before it answers: a large repository takes git
	// servers tens of seconds to count, a server that says nothing for two minutes is not going to.
	headerTimeout = 2 * time.Minute
	// maxRedirects is what git and curl users meet in practice (http → https → canonical host), with room.
	maxRedirects = 5
)

// web makes an HTTP client that sends credentials to one origin only, whatever redirects say: to the
// scheme, host and port that they were given for, and to the same host's https if that was http, on the
// default ports. It refuses redirects from https to http: who wrote https wants what arrives to be what was sent.
// purpose says in errors what a connection was for.
func (f *Fetcher) web(purpose, origin, username, password string) *http.Client {
	return &http.Client{
		Transport:     &bound{base: f.transport(purpose), origin: origin, username: username, password: password},
		CheckRedirect: checkRedirect,
	}
}

// transport makes connections, as far as Egress allows them.
func (f *Fetcher) transport(purpose string) http.RoundTripper {
	var base http.RoundTripper
	if f.HTTPClient != nil {
		base = f.HTTPClient.Transport
	}
	if base == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = headerTimeout
		base = t
	}
	if !f.Egress.Refuses() {
		return base
	}
	t, ok := base.(*http.Transport)
	if !ok {
		return unguarded{}
	}
	return f.Egress.For(purpose).Transport(t)
}

// unguarded stands for a transport whose connections cannot be guarded.
type unguarded struct{}

func (unguarded) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, fault.New(fault.Internal, "guard connections: Fetcher.HTTPClient has a transport that is no *http.Transport")
}

// refuseLocal refuses what would be read from this machine's disk for somebody who is not its user.
func (f *Fetcher) refuseLocal(field string) error {
	if !f.Egress.Refuses() {
		return nil
	}
	return fault.New(fault.Denied, "%s: this service reads no files of its own machine", field)
}

var errDowngrade = errors.New("redirect from https to http is refused")

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errDowngrade
	}
	return nil
}

// bound adds credentials to requests that go to their origin, and to no others.
type bound struct {
	base               http.RoundTripper
	origin             string // scheme://host[:port]
	username, password string
}

func (b *bound) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	req.Header.Del("Referer")
	if b.username+b.password != "" && mayHave(b.origin, originOf(req.URL)) {
		req.SetBasicAuth(b.username, b.password)
	}
	return b.base.RoundTrip(req)
}

// CloseIdleConnections lets http.Client reach the connections.
func (b *bound) CloseIdleConnections() {
	if c, ok := b.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func originOf(u *url.URL) string {
	scheme := strings.ToLower(u.Scheme)
	return scheme + "://" + withoutDefaultPort(scheme, strings.ToLower(u.Host))
}

func mayHave(bound, asked string) bool {
	if bound == asked {
		return true
	}
	host, http := strings.CutPrefix(bound, "http://")
	return http && !strings.Contains(strings.TrimSuffix(host, "]"), ":") && asked == "https://"+host
}

// netFault makes a fault of an error between us and a server: what names the action and the object.
func netFault(what string, err error) error {
	var known *fault.Error
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	refused := egress.Refusal(err)
	switch {
	case refused != nil:
		return fault.Wrap(refused, "%s", what)
	case errors.As(err, &known):
		return err
	case errors.Is(err, context.Canceled):
		return fault.New(fault.Cancelled, "%s: %w", what, context.Canceled)
	case errors.Is(err, errDowngrade):
		return fault.New(fault.Denied, "%s: %w", what, errDowngrade)
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &verify):
		return fault.New(fault.Unavailable, "%s: TLS: the server's certificate is not trusted: %w", what, inner(err)).
			WithHint("if it is a private authority's, name a file with its certificate in SSL_CERT_FILE")
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fault.New(fault.Unavailable, "%s: TLS: the server does not speak TLS on this port: %w", what, inner(err)).
			WithHint("is it http:// rather than https://?")
	case strings.Contains(err.Error(), "tls: "):
		return fault.New(fault.Unavailable, "%s: TLS: %w", what, inner(err))
	case errors.As(err, &dns) && dns.IsNotFound:
		return fault.New(fault.Unavailable, "%s: host %s is not known", what, dns.Name).
			WithHint("check the URL, and that this machine can look names up")
	default:
		return fault.New(fault.Unavailable, "%s: %w", what, inner(err))
	}
}

// inner takes the URL, which the caller has named, off an HTTP client's error.
func inner(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
