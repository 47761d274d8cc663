package admission

import (
	"net"
	"net/netip"
	"strings"

	"imagebuilder/internal/egress"
)

// splitURL gives scheme and host of a URL, the host with its port and without a user; "" and "" for what is none. It does not
// ask net/url, which refuses texts that another reader of the same document may take.
func splitURL(s string) (scheme, host string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		host, _, _ = strings.Cut(s, "/")
		return "", host
	}
	if i := strings.IndexAny(rest, `/?#\`); i >= 0 {
		rest = rest[:i]
	}
	return strings.ToLower(scheme), rest[strings.LastIndexByte(rest, '@')+1:]
}

// host refuses a host that is an address of this machine or of a network that is not the internet, as it is written.
func (c *refusals) host(at, host string) {
	if c.policy.AnyAddress {
		return
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	const hint = "the operator of the service can allow it by its prefix"
	switch addr, err := netip.ParseAddr(name); {
	case err == nil:
		if !c.policy.allows(addr) {
			c.wrong(at, "names an address that is not of the internet", hint)
		}
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		if !c.policy.allows(netip.AddrFrom4([4]byte{127, 0, 0, 1})) && !c.policy.allows(netip.IPv6Loopback()) {
			c.wrong(at, "names the machine of the service itself", hint)
		}
	case numeric(name):
		c.wrong(at, "names an address in a form of its own", "write it as in 192.0.2.1")
	case name == "metadata" || name == "metadata.google.internal" || name == "instance-data":
		c.wrong(at, "names the metadata service of a cloud", "")
	}
}

// numeric tells whether a host would be read as an address by inet_aton, which the C library and readers of URLs use: its last
// part is a number, which that of a name never is, as in 2130706433, 0x7f.1 or 127.1.
func numeric(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// allows tells whether an address is of the internet, or allowed by prefix: as the plugin decides when it dials.
func (p Policy) allows(addr netip.Addr) bool {
	return egress.New(true, p.Addresses).Check(addr) == nil
}
