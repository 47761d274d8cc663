// Package scalar says what a scalar that stands in YAML without quotes means, by the core schema of YAML 1.2 (§10.3.2), and writes
// numbers as JSON has them: the reader that we use does neither as exactly as a document deserves that is refused for it.
package scalar

import (
	"math/big"
	"regexp"
	"strings"
)

// Kind is what a scalar is.
type Kind int

// The kinds. NotFinite is .inf and .nan, which JSON has no words for.
const (
	Text Kind = iota
	Null
	Boolean
	Integer
	Float
	NotFinite
)

var (
	integer   = regexp.MustCompile(`^[-+]?[0-9]+$`)
	radix     = regexp.MustCompile(`^(0o[0-7]+|0x[0-9a-fA-F]+)$`)
	float     = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	notFinite = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// Plain resolves a scalar. value is the text, true or false, or the number in decimal as JSON writes it; it is empty for Null
// and NotFinite.
func Plain(written string) (kind Kind, value string) {
	switch written {
	case "", "~", "null", "Null", "NULL":
		return Null, ""
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return Boolean, strings.ToLower(written)
	}
	switch {
	case notFinite.MatchString(written):
		return NotFinite, ""
	case integer.MatchString(written):
		return Integer, jsonNumber(written)
	case radix.MatchString(written):
		i, _ := new(big.Int).SetString(written, 0)
		return Integer, i.String()
	case float.MatchString(written):
		return Float, jsonNumber(written)
	default:
		return Text, written
	}
}

// jsonNumber writes a decimal number in JSON's way: no plus, no leading zeros, a digit on both sides of the point.
func jsonNumber(written string) string {
	sign := ""
	if strings.HasPrefix(written, "-") {
		sign = "-"
	}
	mantissa, exponent := strings.TrimLeft(written, "+-"), ""
	if i := strings.IndexAny(mantissa, "eE"); i >= 0 {
		mantissa, exponent = mantissa[:i], mantissa[i:]
	}
	whole, fraction, point := strings.Cut(mantissa, ".")
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	if point {
		if fraction == "" {
			fraction = "0"
		}
		fraction = "." + fraction
	}
	return sign + whole + fraction + exponent
}
