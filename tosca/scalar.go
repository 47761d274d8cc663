package tosca

import (
	"regexp"
	"strings"

	"imagebuilder/internal/scalar"
)

// plainScalar is what a scalar without quotes means.
func plainScalar(written string) *Value {
	kinds := map[scalar.Kind]kind{
		scalar.Null: null, scalar.Boolean: boolean, scalar.Integer: integer, scalar.Float: float, scalar.NotFinite: unknown, scalar.Text: text,
	}
	k, value := scalar.Plain(written)
	return &Value{plain: written, kind: kinds[k], text: value}
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
