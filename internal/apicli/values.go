package apicli

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"imagebuilder/internal/fault"
)

// seconds is a flag for a time, with a unit or in seconds, as the original had it.
type seconds time.Duration

// Set reads a time.
func (s *seconds) Set(text string) error {
	if n, err := strconv.Atoi(text); err == nil {
		text = strconv.Itoa(n) + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("it is a time, as 10s, or a number of seconds")
	}
	*s = seconds(d)
	return nil
}

// String is the time.
func (s *seconds) String() string { return time.Duration(*s).String() }

// Type is what help shows as the flag's value.
func (s *seconds) Type() string { return "duration" }

// days is a flag for a time that is long: 720h, 30d or never.
type days time.Duration

const (
	never = "never"
	aDay  = 24 * time.Hour
)

// Set reads a time.
func (d *days) Set(text string) error {
	if text == never {
		*d = 0
		return nil
	}
	if n, found := strings.CutSuffix(text, "d"); found {
		if count, err := strconv.Atoi(n); err == nil && count > 0 && count < 100_000 {
			*d = days(time.Duration(count) * aDay)
			return nil
		}
	}
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed <= 0 {
		return fmt.Errorf("it is a time, as 30d or 12h, or %s", never)
	}
	*d = days(parsed)
	return nil
}

// String is the time.
func (d *days) String() string {
	switch t := time.Duration(*d); {
	case t == 0:
		return never
	case t%aDay == 0:
		return fmt.Sprintf("%dd", t/aDay)
	default:
		return t.String()
	}
}

// Type is what help shows as the flag's value.
func (d *days) Type() string { return "days" }

// prefixes is a flag for networks: 10.0.0.0/8, an address, or all. It can be given several times, or with commas.
type prefixes []netip.Prefix

// Set adds networks.
func (p *prefixes) Set(text string) error {
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		if part == "all" {
			*p = append(*p, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
			continue
		}
		if address, err := netip.ParseAddr(part); err == nil {
			*p = append(*p, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return fmt.Errorf("%q is no network, as 10.0.0.0/8", part)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

// String is the flag's value as it is given.
func (p *prefixes) String() string {
	parts := make([]string, len(*p))
	for i, prefix := range *p {
		parts[i] = prefix.String()
	}
	return strings.Join(parts, ",")
}

// Type is what help shows as the flag's value.
func (p *prefixes) Type() string { return "network" }

// maxSecret is more than any password or key has.
const maxSecret = 64 << 10

// secretFrom gives a secret that stands in a variable or in a file; the end of a file's last line does not belong to it.
func secretFrom(lookupEnv func(string) (string, bool), variable, file string) (string, error) {
	value, _ := lookupEnv(variable)
	if file == "" {
		return value, nil
	}
	if value != "" {
		return "", fault.New(fault.Invalid, "both %s and a file for it are given", variable)
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxSecret {
		err = fmt.Errorf("%s has %d bytes, which no secret has", file, info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fault.New(fault.Invalid, "secret for %s: %w", variable, err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
