package egress_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/egress"
)

func startProxy(t *testing.T, g *egress.Guard, upstream func(*http.Request) (*url.URL, error)) *egress.Proxy {
	t.Helper()
	p, err := g.StartProxy(upstream)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// through is a client that goes through a proxy, to loopback too.
func through(t *testing.T, proxy string, trusted *httptest.Server) *http.Transport {
	t.Helper()
	u, err := url.Parse(proxy)
	require.NoError(t, err)
	transport := &http.Transport{Proxy: http.ProxyURL(u)}
	if trusted != nil {
		roots := x509.NewCertPool()
		roots.AddCert(trusted.Certificate())
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(data)
}

func servers(t *testing.T) (plain, secure *httptest.Server) {
	t.Helper()
	plain = at(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "plain %s %q", r.URL.Path, r.Header.Get("Proxy-Authorization"))
	})
	secure = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "secure "+r.URL.Path) }))
	t.Cleanup(secure.Close)
	return plain, secure
}

func TestProxy(t *testing.T) {
	t.Parallel()
	plain, secure := servers(t)
	p := startProxy(t, guard(t, "127.0.0.1").For("git"), nil)
	transport := through(t, p.URL(), secure)
	response, err := get(t, transport, plain.URL+"/a")
	require.NoError(t, err)
	require.Equal(t, `plain /a ""`, body(t, response), "the password stays at the proxy")
	response, err = get(t, transport, secure.URL+"/b")
	require.NoError(t, err)
	require.Equal(t, "secure /b", body(t, response))
	require.NoError(t, p.TakeRefusal())

	inside := at(t, "127.0.0.2:0", func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	response, err = get(t, transport, inside.URL)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	refusal := p.TakeRefusal()
	require.ErrorIs(t, refusal, egress.ErrRefused)
	require.Contains(t, refusal.Error(), "connect to "+inside.Listener.Addr().String()+" for git")
	require.NoError(t, p.TakeRefusal(), "it is taken")
	_, err = get(t, transport, strings.Replace(inside.URL, "http:", "https:", 1))
	require.ErrorContains(t, err, "Forbidden")
	require.ErrorIs(t, p.TakeRefusal(), egress.ErrRefused)
}

func TestProxyIsOurs(t *testing.T) {
	t.Parallel()
	plain, secure := servers(t)
	p := startProxy(t, guard(t, "127.0.0.1"), nil)
	u, err := url.Parse(p.URL())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(p.Password()), 26, "128 bits in base 32")
	for _, user := range []*url.Userinfo{nil, url.UserPassword("image-builder", ""), url.UserPassword("image-builder", "x"), url.User(p.Password())} {
		u.User = user
		transport := through(t, u.String(), secure)
		response, err := get(t, transport, plain.URL)
		require.NoError(t, err)
		require.Equal(t, http.StatusProxyAuthRequired, response.StatusCode)
		_, err = get(t, transport, secure.URL)
		require.ErrorContains(t, err, "Proxy Authentication Required")
	}
	// Not a proxy's request: a browser page that guesses the port gets nowhere.
	response, err := get(t, http.DefaultTransport, "http://"+u.Host+"/")
	require.NoError(t, err)
	require.Equal(t, http.StatusProxyAuthRequired, response.StatusCode)
}

// TestProxyThroughProxy: the operator's own proxy is used, and asked for nothing that is refused.
func TestProxyThroughProxy(t *testing.T) {
	t.Parallel()
	plain, secure := servers(t)
	operators := startProxy(t, egress.New(false, nil), nil)
	upstream, err := url.Parse(operators.URL())
	require.NoError(t, err)
	ask := func(allow ...string) (*egress.Proxy, *http.Transport) {
		p := startProxy(t, guard(t, allow...), http.ProxyURL(upstream))
		return p, through(t, p.URL(), secure)
	}
	_, transport := ask("127.0.0.1")
	for _, s := range []*httptest.Server{plain, secure} {
		response, err := get(t, transport, s.URL+"/c")
		require.NoError(t, err)
		require.Contains(t, body(t, response), " /c")
	}
	p, transport := ask()
	response, err := get(t, transport, plain.URL)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Error(t, p.TakeRefusal())
	_, err = get(t, transport, secure.URL)
	require.ErrorContains(t, err, "Forbidden")
	require.Error(t, p.TakeRefusal())
}

// TestProxyCloseEndsTunnels: nothing is left of a tunnel in which nobody says anything.
func TestProxyCloseEndsTunnels(t *testing.T) {
	t.Parallel()
	far, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer far.Close()
	p, err := guard(t, "127.0.0.1").StartProxy(nil)
	require.NoError(t, err)
	u, err := url.Parse(p.URL())
	require.NoError(t, err)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: far.Addr().String()}, Host: far.Addr().String(), Header: http.Header{}}
	password, _ := u.User.Password()
	basic := &http.Request{Header: http.Header{}}
	basic.SetBasicAuth(u.User.Username(), password)
	request.Header.Set("Proxy-Authorization", basic.Header.Get("Authorization"))
	require.NoError(t, request.Write(conn))
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, request)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
	peer, err := far.Accept()
	require.NoError(t, err)
	defer peer.Close()
	require.NoError(t, p.Close())
	_, err = in.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, peer.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = peer.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}
