package tosca

import (
	"math/big"
	"regexp"
	"strings"
)

var (
	yamlInt     = regexp.MustCompile(`^[-+]?[0-9]+$`)
	yamlRadix   = regexp.MustCompile(`^(0o[0-7]+|0x[0-9a-fA-F]+)$`)
	yamlFloat   = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	yamlSpecial = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// plainScalar is what a scalar without quotes means by YAML 1.2's core schema (§10.3.2).
func plainScalar(written string) *Value {
	v := &Value{plain: written}
	switch written {
	case "", "~", "null", "Null", "NULL":
		v.kind = null
		return v
	case "true", "True", "TRUE", "false", "False", "FALSE":
		v.kind, v.text = boolean, strings.ToLower(written)
		return v
	}
	switch {
	case yamlSpecial.MatchString(written):
		v.kind = unknown
	case yamlInt.MatchString(written):
		v.kind, v.text = integer, jsonNumber(written)
	case yamlRadix.MatchString(written):
		i, _ := new(big.Int).SetString(written, 0)
		v.kind, v.text = integer, i.String()
	case yamlFloat.MatchString(written):
		v.kind, v.text = float, jsonNumber(written)
	default:
		v.kind, v.text = text, written
	}
	return v
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

// The resolvers of PyYAML, which opera reads inputs with.
var (
	old11Bool  = regexp.MustCompile(`^(yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	old11Null  = regexp.MustCompile(`^(~|null|Null|NULL|)$`)
	old11Int   = regexp.MustCompile(`^([-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+)$`)
	old11Octal = regexp.MustCompile(`^[-+]?0[0-7_]+$`)
	old11Float = regexp.MustCompile(`^([-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*)$`)
	old11Time  = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt]|[ \t]+)[0-9][0-9]?:[0-9]{2}:[0-9]{2}(\.[0-9]*)?([ \t]*(Z|[-+][0-9][0-9]?(:[0-9]{2})?))?)$`)
)

// kind11 is what a scalar without quotes is by YAML 1.1.
func kind11(written string) string {
	switch {
	case old11Null.MatchString(written):
		return string(null)
	case old11Bool.MatchString(written):
		return string(boolean)
	case old11Octal.MatchString(written) && strings.Trim(written, "-+0_") != "":
		return "number to the base of 8"
	case old11Int.MatchString(written):
		return string(integer)
	case old11Float.MatchString(written):
		return string(float)
	case old11Time.MatchString(written):
		return "date"
	case written == "=" || written == "<<":
		return "special value"
	}
	return string(text)
}
