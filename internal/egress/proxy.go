package egress

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"imagebuilder/internal/fault"
)

const (
	// headerTimeout is how long a program on this machine may take for the head of a request.
	headerTimeout = 10 * time.Second
	// maxConnectAnswer bounds what a proxy further on may say to CONNECT, in bytes.
	maxConnectAnswer = 64 << 10
	// proxyUser is the user's part of the credentials; what counts is the password.
	proxyUser = "image-builder"
)

// Proxy is a forward proxy on loopback for a program that we start and cannot guard otherwise. It takes
// CONNECT and plain http, and nobody's requests but those with its random password.
type Proxy struct {
	guard    *Guard
	upstream func(*http.Request) (*url.URL, error) // the operator's proxy, if there is one
	password string
	listener net.Listener
	server   *http.Server
	plain    *httputil.ReverseProxy
	ended    sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]struct{} // tunnels, which the server does not know any more
	closed  bool
	refused error
}

// StartProxy starts a proxy that dials as the guard allows. upstream is the operator's own proxy, as http.Transport.Proxy
// has it, and may be nil.
func (g *Guard) StartProxy(upstream func(*http.Request) (*url.URL, error)) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fault.New(fault.Unavailable, "start a proxy for git: %w", err)
	}
	if upstream == nil {
		upstream = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	p := &Proxy{guard: g, upstream: upstream, password: rand.Text(), listener: listener, open: map[net.Conn]struct{}{}}
	p.plain = &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {},
		Transport:     g.Transport(&http.Transport{Proxy: upstream, DisableCompression: true}),
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, err error) { p.fail(w, err) },
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: headerTimeout}
	p.ended.Go(func() { _ = p.server.Serve(listener) })
	return p, nil
}

// URL is the proxy's address with its credentials. It is a secret: whoever has it can use the proxy.
func (p *Proxy) URL() string {
	return (&url.URL{Scheme: "http", User: url.UserPassword(proxyUser, p.password), Host: p.listener.Addr().String()}).String()
}

// Password is the secret part of URL.
func (p *Proxy) Password() string { return p.password }

// TakeRefusal is what was refused last, since it was asked before; nil when nothing was. The program that was refused
// knows but a status.
func (p *Proxy) TakeRefusal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.refused
	p.refused = nil
	return taken
}

// Close ends the proxy and every connection through it.
func (p *Proxy) Close() error {
	err := p.server.Close()
	p.mu.Lock()
	p.closed = true
	for conn := range p.open {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.ended.Wait()
	if t, ok := p.plain.Transport.(Transport); ok {
		t.CloseIdleConnections()
	}
	return err
}

// ServeHTTP serves a request that has the password.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+p.password))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 {
		w.Header().Set("Proxy-Authenticate", `Basic realm="image-builder"`)
		http.Error(w, "this proxy is not yours", http.StatusProxyAuthRequired)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		p.plain.ServeHTTP(w, r)
	default:
		http.Error(w, "this is a proxy for http and CONNECT", http.StatusBadRequest)
	}
}

func (p *Proxy) fail(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	if refusal := Refusal(err); refusal != nil {
		status = http.StatusForbidden
		p.mu.Lock()
		p.refused = refusal
		p.mu.Unlock()
	}
	http.Error(w, http.StatusText(status), status)
}

// tunnel connects the client with the host that it asks for.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	far, err := p.dial(r.Context(), r.Host)
	if err != nil {
		p.fail(w, err)
		return
	}
	defer func() { _ = far.Close() }()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.fail(w, err)
		return
	}
	defer func() { _ = near.Close() }()
	if !p.register(near, far) {
		return
	}
	defer p.forget(near, far)
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { forward(far, buffered.Reader) })
	both.Go(func() { forward(near, far) })
	both.Wait()
}

// forward copies until one side has nothing more to say, and tells the other.
func forward(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	_ = to.Close()
}

func (p *Proxy) register(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	for _, c := range conns {
		p.open[c] = struct{}{}
	}
	p.ended.Add(1)
	return true
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.open, c)
	}
	p.ended.Done()
}

// dial connects to host:port, through the operator's proxy where there is one for it.
func (p *Proxy) dial(ctx context.Context, target string) (net.Conn, error) {
	through, err := p.upstream(&http.Request{URL: &url.URL{Scheme: "https", Host: target}})
	switch {
	case err != nil:
		return nil, err
	case through == nil:
		return p.guard.DialContext(ctx, "tcp", target)
	}
	if err := p.guard.checkBehindProxy(ctx, target); err != nil {
		return nil, err
	}
	return connectThrough(ctx, through, target)
}

// checkBehindProxy is CheckHost where a proxy looks the name up, which may know more names than we do.
func (g *Guard) checkBehindProxy(ctx context.Context, host string) error {
	host = bare(host)
	addresses, err := lookUp(ctx, host)
	var unknown *net.DNSError
	switch {
	case err == nil:
		return g.checkAll(host, addresses)
	case errors.As(err, &unknown):
		return ctx.Err()
	}
	f := fault.New(fault.Denied, "connect to %s%s: %w", host, g.why(), err)
	f.Err = ErrRefused
	return f
}

// connectThrough asks an http or https proxy for a connection.
func connectThrough(ctx context.Context, through *url.URL, target string) (net.Conn, error) {
	ports := map[string]string{"http": "80", "https": "443"}
	if ports[through.Scheme] == "" {
		return nil, fault.New(fault.Invalid, "proxy %s: git is led through a proxy by http or https only", through.Redacted())
	}
	address := through.Host
	if through.Port() == "" {
		address = net.JoinHostPort(through.Hostname(), ports[through.Scheme])
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if through.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: through.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		conn = secure
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	rest, err := askConnect(conn, through, target)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &bufferedConn{Conn: conn, rest: rest}, nil
}

func askConnect(conn net.Conn, through *url.URL, target string) (*bufio.Reader, error) {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if through.User != nil {
		password, _ := through.User.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(through.User.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxConnectAnswer}
	rest := bufio.NewReader(limited)
	answer, err := http.ReadResponse(rest, request) //nolint:bodyclose // its body is the tunnel
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("proxy %s: CONNECT %s: %s", through.Redacted(), target, strings.TrimSpace(answer.Status))
	}
	limited.N = 1<<63 - 1
	return rest, nil
}

// bufferedConn is a connection of which something was read already.
type bufferedConn struct {
	net.Conn
	rest *bufio.Reader
}

func (b *bufferedConn) Read(into []byte) (int, error) { return b.rest.Read(into) }
