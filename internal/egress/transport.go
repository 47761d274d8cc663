package egress

import (
	"net/http"
	"net/url"
)

// Transport is an http.RoundTripper whose connections can be let go of.
type Transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// Transport guards what a transport dials; base is not used any further. With a proxy (http.Transport.Proxy), which the
// operator has set, the address that is dialled is the proxy's, and that is the operator's choice; then the host of
// the URL is checked instead, as CheckHost does, and a name that cannot be looked up here is left to the proxy.
func (g *Guard) Transport(base *http.Transport) Transport {
	if !g.Refuses() {
		return base
	}
	t := &transport{guard: g, proxy: base.Proxy, proxied: base, direct: base.Clone()}
	t.direct.Proxy = nil
	t.direct.DialContext = g.DialContext
	t.direct.DialTLSContext = nil
	return t
}

type transport struct {
	guard           *Guard
	proxy           func(*http.Request) (*url.URL, error) // may be nil
	direct, proxied *http.Transport
}

// RoundTrip sends a request directly, or through the proxy that is there for it.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if t.proxy == nil {
		return t.direct.RoundTrip(request)
	}
	through, err := t.proxy(request)
	switch {
	case err == nil && through == nil:
		return t.direct.RoundTrip(request)
	case err == nil:
		err = t.guard.checkBehindProxy(request.Context(), request.URL.Host)
	}
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	return t.proxied.RoundTrip(request)
}

// CloseIdleConnections lets go of connections that are kept for reuse.
func (t *transport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}
