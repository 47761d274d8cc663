package egress_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
)

func guard(t *testing.T, allow ...string) *egress.Guard {
	t.Helper()
	prefixes, err := egress.Parse(allow)
	require.NoError(t, err)
	return egress.New(true, prefixes)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	refused := map[string]string{ // address → how the error calls it
		"127.0.0.1": "loopback", "127.8.9.1": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback", "::1%lo": "loopback",
		"0.0.0.0": "special-purpose", "::": "special-purpose",
		"169.254.169.254": "cloud metadata", "::ffff:169.254.169.254": "cloud metadata", "fd00:ec2::254": "cloud metadata", "168.63.129.16": "cloud metadata",
		"169.254.1.1": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "link-local",
		"10.1.2.3": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "::ffff:10.0.0.1": "private", "fc00::1": "private", "fd12:3456::1": "private",
		"100.64.0.1": "shared", "100.100.100.200": "shared",
		"64:ff9b::7f00:1": "NAT64", "64:ff9b::808:808": "NAT64", "64:ff9b:1::1": "NAT64",
		"224.0.0.1": "multicast", "ff02::1": "multicast",
		"192.0.0.192": "special-purpose", "255.255.255.255": "special-purpose", "240.0.0.1": "special-purpose",
		"2002:7f00:1::": "special-purpose", "2001::1": "special-purpose", "2001:db8::1": "special-purpose", "::7f00:1": "special-purpose", "fec0::1": "special-purpose",
	}
	for address, kind := range refused {
		err := guard(t).For("git").Check(netip.MustParseAddr(address))
		require.ErrorIs(t, err, egress.ErrRefused, address)
		require.Equal(t, fault.Denied, fault.KindOf(err), address)
		require.Contains(t, err.Error(), "this service does not connect to "+kind, address)
	}
	for _, address := range []string{"8.8.8.8", "::ffff:8.8.8.8", "172.32.0.1", "172.15.0.1", "100.128.0.1", "11.0.0.1", "2606:4700::1111", "2a00:1450::1"} {
		require.NoError(t, guard(t).Check(netip.MustParseAddr(address)), address)
	}
	open := egress.New(false, nil)
	require.NoError(t, open.Check(netip.MustParseAddr("127.0.0.1")))
	var none *egress.Guard
	require.NoError(t, none.Check(netip.MustParseAddr("127.0.0.1")))
}

func TestAllowedPrefixes(t *testing.T) {
	t.Parallel()
	g := guard(t, "10.1.0.0/16", "192.168.7.9", "fd12::/16", "fe80::/10", "64:ff9b::/96")
	for _, address := range []string{"10.1.255.255", "::ffff:10.1.0.1", "192.168.7.9", "fd12:1::1", "fe80::1%eth0", "64:ff9b::1"} {
		require.NoError(t, g.Check(netip.MustParseAddr(address)), address)
	}
	for _, address := range []string{"10.2.0.0", "192.168.7.10", "fd13::1", "127.0.0.1"} {
		require.ErrorIs(t, g.Check(netip.MustParseAddr(address)), egress.ErrRefused, address)
	}
	for _, bad := range []string{"", "10.0.0.0/33", "example.com", "10.0.0", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "fe80::1%eth0"} {
		_, err := egress.Parse([]string{bad})
		require.Equal(t, fault.Invalid, fault.KindOf(err), bad)
	}
	require.True(t, g.Vouched("192.168.7.9:5000"))
	require.True(t, g.Vouched("[fd12::1]:5000"))
	for _, host := range []string{"192.168.7.10", "registry.example.com", "localhost:5000", "8.8.8.8"} {
		require.False(t, g.Vouched(host), host)
	}
	require.True(t, guard(t, "127.0.0.0/8").Vouched("localhost:5000"))
	require.True(t, guard(t, "0.0.0.0/0", "::/0").Vouched("registry.example.com"))
	require.False(t, guard(t, "0.0.0.0/0").Vouched("registry.example.com"))
}

func TestMessage(t *testing.T) {
	t.Parallel()
	_, err := guard(t).For("git").DialContext(t.Context(), "tcp", "10.0.0.1:443")
	f := egress.Refusal(err)
	require.NotNil(t, f, "%v", err)
	require.Equal(t, "connect to 10.0.0.1:443 for git: this service does not connect to private addresses", f.Message)
	require.Equal(t, "the operator allows it by --allow-egress 10.0.0.0/8", f.Hint)
	require.Nil(t, egress.Refusal(context.Canceled))
}

// TestDial: what counts is the address that a name stands for.
func TestDial(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", at)
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		_, port, err := net.SplitHostPort(listener.Addr().String())
		require.NoError(t, err)
		hosts := []string{listener.Addr().String()}
		if at == "127.0.0.1:0" {
			hosts = append(hosts, "localhost:"+port, "[::ffff:127.0.0.1]:"+port)
		}
		for _, host := range hosts {
			_, err = guard(t).DialContext(t.Context(), "tcp", host)
			require.ErrorIs(t, err, egress.ErrRefused, host)
			require.Contains(t, err.Error(), "connect to "+host)
			conn, err := guard(t, "127.0.0.0/8", "::1").DialContext(t.Context(), "tcp", host)
			require.NoError(t, err, host)
			require.NoError(t, conn.Close())
		}
	}
	_, err := guard(t).DialContext(t.Context(), "udp", "8.8.8.8:53")
	require.Equal(t, fault.Denied, fault.KindOf(err))
}

func TestCheckHost(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "localhost:5000", "LOCALHOST", "127.0.0.1:80", "[::1]:80", "::1", "[fd00:ec2::254]"} {
		require.ErrorIs(t, guard(t).CheckHost(t.Context(), host), egress.ErrRefused, host)
		require.NoError(t, egress.New(false, nil).CheckHost(t.Context(), host), host)
	}
	// Old forms of an address that a daemon's C library may read.
	for _, host := range []string{"127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.0x1", "", "127.0.0.1."} {
		require.Error(t, guard(t).CheckHost(t.Context(), host), host)
	}
	require.NoError(t, guard(t).CheckHost(t.Context(), "8.8.8.8:443"))
	require.NoError(t, guard(t, "127.0.0.0/8", "::1").CheckHost(t.Context(), "localhost:5000"))
}

// at starts a server on an address of loopback.
func at(t *testing.T, address string, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, transport http.RoundTripper, url string) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err == nil {
		t.Cleanup(func() { _ = response.Body.Close() })
	}
	return response, err
}

func TestTransportRefusesRedirects(t *testing.T) {
	t.Parallel()
	reached := false
	inside := at(t, "127.0.0.2:0", func(http.ResponseWriter, *http.Request) { reached = true })
	outside := at(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
		}
	})
	transport := guard(t, "127.0.0.1").For("git").Transport(&http.Transport{})
	t.Cleanup(transport.CloseIdleConnections)
	_, err := get(t, transport, outside.URL)
	require.NoError(t, err)
	for _, to := range []string{inside.URL, "http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/"} {
		_, err := get(t, transport, outside.URL+"?to="+url.QueryEscape(to))
		require.ErrorIs(t, err, egress.ErrRefused, to)
		require.Contains(t, egress.Refusal(err).Message, "for git")
	}
	require.False(t, reached)
}

// TestOperatorsProxy: with a proxy it is the host of the URL that is checked, and the proxy may be anywhere.
func TestOperatorsProxy(t *testing.T) {
	t.Parallel()
	var asked []string
	proxy := at(t, "127.0.0.3:0", func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.String()) })
	at, err := url.Parse(proxy.URL)
	require.NoError(t, err)
	through := func(r *http.Request) (*url.URL, error) {
		if strings.HasSuffix(r.URL.Hostname(), ".direct") || r.URL.Hostname() == "127.0.0.3" {
			return nil, nil
		}
		return at, nil
	}
	transport := guard(t).Transport(&http.Transport{Proxy: through})
	t.Cleanup(transport.CloseIdleConnections)
	for _, ok := range []string{"http://unknown.invalid/a", "http://8.8.8.8/b"} {
		_, err := get(t, transport, ok)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"http://unknown.invalid/a", "http://8.8.8.8/b"}, asked)
	for _, bad := range []string{"http://10.0.0.1/", "http://localhost/", "http://127.1/", "http://0x7f.1/", "http://[::1]/", proxy.URL} {
		_, err := get(t, transport, bad)
		require.ErrorIs(t, err, egress.ErrRefused, bad)
	}
	require.Len(t, asked, 2)
}

func FuzzHosts(f *testing.F) {
	for _, seed := range []string{"127.0.0.1", "[::1]:80", "localhost:1", "::ffff:10.0.0.1", "fe80::1%x", "a:b:c", "[", "1.2.3.4.", "0x", ":80"} {
		f.Add(seed)
	}
	g := egress.New(true, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	f.Fuzz(func(t *testing.T, host string) {
		if g.Vouched(host) && !strings.Contains(host, "10.") && !strings.Contains(strings.ToLower(host), "a") {
			t.Fatalf("%q is vouched for", host)
		}
		address, err := netip.ParseAddr(host)
		if err != nil {
			return // a name, which would be looked up
		}
		if (g.CheckHost(t.Context(), host) == nil) != (g.Check(address) == nil) {
			t.Fatalf("%q: as a host and as an address it is not the same", host)
		}
	})
}
