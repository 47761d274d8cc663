// Package egress keeps the connections that are made for a stranger out of our own network. A Guard refuses loopback,
// link-local, cloud metadata, private, shared and every other special address, unless the operator allows it by prefix.
//
// What counts is the address that is dialled, not the name that was asked for: a name that resolves to another address
// the second time, a redirect and a submodule gain nothing. It guards connections of this process, and, by its Proxy,
// those of a program that is told to use one. What other daemons dial it cannot see.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"imagebuilder/internal/fault"
)

// ErrRefused is the cause of every refusal.
var ErrRefused = errors.New("address refused")

const (
	// dialTimeout and keepAlive are those of containerd and BuildKit.
	dialTimeout = 30 * time.Second
	keepAlive   = 30 * time.Second
)

// Guard decides which addresses may be dialled. A nil Guard refuses nothing. It may be used by several goroutines at once.
type Guard struct {
	refuse  bool
	allow   []netip.Prefix
	special *ssrf.Guardian
	purpose string
}

// New makes a guard. Without refuse it refuses nothing; allow are the prefixes that may be dialled all the same.
func New(refuse bool, allow []netip.Prefix) *Guard {
	return &Guard{refuse: refuse, allow: allow, special: ssrf.New(
		ssrf.WithAnyPort(),
		// Azure's platform answers there, with credentials of the machine, though it is no special-purpose address.
		ssrf.WithDeniedV4Prefixes(netip.MustParsePrefix("168.63.129.16/32")),
	)}
}

// Parse reads prefixes, as in 10.0.0.0/8; an address alone is one.
func Parse(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, bad := netip.ParseAddr(text)
			if bad != nil || address.Zone() != "" {
				return nil, fault.New(fault.Invalid, "allowed prefix %q is neither a prefix nor an address", text).
					WithHint("write it as 10.0.0.0/8, fd12::/16 or 10.0.0.7")
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return nil, fault.New(fault.Invalid, "allowed prefix %q is an IPv4 prefix in the clothes of IPv6", text).
				WithHint("write it as IPv4: addresses are compared as what is dialled")
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// For is the guard with what connections are for, as errors say it: "git".
func (g *Guard) For(purpose string) *Guard {
	if g == nil {
		return nil
	}
	named := *g
	named.purpose = purpose
	return &named
}

// Refuses tells whether the guard refuses anything.
func (g *Guard) Refuses() bool { return g != nil && g.refuse }

// Check refuses an address. The error is a fault of kind Denied with the cause ErrRefused.
func (g *Guard) Check(address netip.Addr) error {
	if !g.Refuses() || g.safe(address) {
		return nil
	}
	return g.refusal(address.String(), address)
}

// safe tells whether an address may be dialled. An IPv4 address in the form of an IPv6 one is dialled as IPv4.
func (g *Guard) safe(address netip.Addr) bool {
	return g.allowed(address) || g.special.SafeAddr(plain(address)) == nil
}

func (g *Guard) allowed(address netip.Addr) bool {
	for _, prefix := range g.allow {
		if prefix.Contains(plain(address)) {
			return true
		}
	}
	return false
}

// plain is an address without what stands beside it: a prefix contains no address with a zone.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }

// Vouched tells whether a host, with or without a port, is an address that the operator allows by prefix: a literal one,
// or localhost. What a name stands for may change, so no name is vouched for, unless every address is allowed.
func (g *Guard) Vouched(host string) bool {
	if g.allowed(netip.IPv4Unspecified()) && g.allowed(netip.IPv6Unspecified()) {
		return true // 0.0.0.0 and :: are in no prefix but those of all addresses
	}
	host = bare(host)
	if strings.EqualFold(host, "localhost") {
		return g.allowed(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	address, err := netip.ParseAddr(host)
	return err == nil && g.allowed(address)
}

// CheckHost refuses a host, with or without a port, that somebody else is going to dial: a literal address, and a name if
// any of its addresses is refused. What the name stands for when it is dialled is not known by then.
func (g *Guard) CheckHost(ctx context.Context, host string) error {
	if !g.Refuses() {
		return nil
	}
	host = bare(host)
	addresses, err := lookUp(ctx, host)
	if err != nil {
		return fault.New(fault.Unavailable, "look up %s%s: %w", host, g.why(), unnamed(err))
	}
	return g.checkAll(host, addresses)
}

func (g *Guard) checkAll(host string, addresses []netip.Addr) error {
	for _, address := range addresses {
		if !g.safe(address) {
			return g.refusal(host, address)
		}
	}
	return nil
}

func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address}, nil
	}
	if numeric(host) {
		// 127.1, 0x7f000001: an address in an old form, which some programs read and some do not.
		return nil, errors.New("it is neither a name nor an address in its usual form")
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// numeric tells whether a host's last label is a number, which that of a name never is.
func numeric(host string) bool {
	label := strings.TrimSuffix(host, ".")
	label = strings.ToLower(label[strings.LastIndex(label, ".")+1:])
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return label == "" || strings.Trim(label, "0123456789") == ""
}

// unnamed takes the host, which the caller has named, off a resolver's error.
func unnamed(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New(dns.Err)
	}
	return err
}

// Dialer makes connections to what is not refused.
func (g *Guard) Dialer() *net.Dialer {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	if g.Refuses() {
		d.Control = func(network, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fault.New(fault.Denied, "connect to %s%s: it is no address", address, g.why())
			}
			if !strings.HasPrefix(network, "tcp") {
				return fault.New(fault.Denied, "connect to %s%s by %s: this service does not", address, g.why(), network)
			}
			if !g.safe(at.Addr()) {
				return g.refusal(address, at.Addr())
			}
			return nil
		}
	}
	return d
}

// DialContext dials; where a name was asked for, a refusal says which.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := g.Dialer().DialContext(ctx, network, address)
	var refused *refused
	if err == nil || !errors.As(err, &refused) {
		return conn, err
	}
	return nil, g.refusal(address, refused.address)
}

// refused is what was refused.
type refused struct{ address netip.Addr }

func (r *refused) Error() string        { return r.address.String() + " is refused" }
func (r *refused) Is(target error) bool { return target == ErrRefused }

func (g *Guard) refusal(asked string, address netip.Addr) error {
	address = plain(address)
	kind, allow := kindOf(address)
	host := bare(asked)
	if host != address.String() && host != "::ffff:"+address.String() {
		asked += " (" + address.String() + ")"
	}
	f := fault.New(fault.Denied, "connect to %s%s: this service does not connect to %s addresses", asked, g.why(), kind).
		WithHint("the operator allows it by --allow-egress %s", allow)
	f.Err = &refused{address}
	return f
}

func (g *Guard) why() string {
	if g.purpose == "" {
		return ""
	}
	return " for " + g.purpose
}

// kinds are the words for addresses, and the prefix that an operator would allow: of one's own network the whole, of
// others no more than the address.
var kinds = [...]struct {
	prefix netip.Prefix
	kind   string
	whole  bool
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", false},
	{netip.MustParsePrefix("::1/128"), "loopback", false},
	{netip.MustParsePrefix("169.254.169.254/32"), "cloud metadata", false},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud metadata", false},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata", false},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false},
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},
	{netip.MustParsePrefix("fc00::/7"), "private", false},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared (carrier-grade NAT)", true},
	{netip.MustParsePrefix("64:ff9b::/96"), "NAT64", true},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "NAT64", true},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", false},
	{netip.MustParsePrefix("ff00::/8"), "multicast", false},
}

func kindOf(address netip.Addr) (kind, allow string) {
	for _, k := range kinds {
		if k.prefix.Contains(address) {
			if k.whole {
				return k.kind, k.prefix.String()
			}
			return k.kind, netip.PrefixFrom(address, address.BitLen()).String()
		}
	}
	return "special-purpose", netip.PrefixFrom(address, address.BitLen()).String()
}

// bare is a host without port and brackets.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// Refusal finds the refusal in an error's chain; nil when there is none.
func Refusal(err error) *fault.Error {
	var f *fault.Error
	if err == nil || !errors.Is(err, ErrRefused) || !errors.As(err, &f) {
		return nil
	}
	return f
}

// String describes the guard.
func (g *Guard) String() string {
	if !g.Refuses() {
		return "refuses nothing"
	}
	return fmt.Sprintf("refuses special addresses but %v", g.allow)
}
