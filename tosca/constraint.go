package tosca

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kindOf is a type of values that TOSCA has by itself (§3.3 of TOSCA Simple Profile in YAML 1.3).
type kindOf string

const (
	ofText      kindOf = "string"
	ofInteger   kindOf = "integer"
	ofFloat     kindOf = "float"
	ofBoolean   kindOf = "boolean"
	ofTimestamp kindOf = "timestamp"
	ofNull      kindOf = "null"
	ofVersion   kindOf = "version"
	ofRange     kindOf = "range"
	ofList      kindOf = "list"
	ofMap       kindOf = "map"
	ofSize      kindOf = "scalar-unit.size"
	ofTime      kindOf = "scalar-unit.time"
	ofFrequency kindOf = "scalar-unit.frequency"
	ofBitrate   kindOf = "scalar-unit.bitrate"
)

var primitives = []kindOf{
	ofText, ofInteger, ofFloat, ofBoolean, ofTimestamp, ofNull, ofVersion, ofRange, ofList, ofMap, ofSize, ofTime, ofFrequency, ofBitrate,
}

// constraint is one clause of a constraints list.
type constraint struct {
	at       Position
	operator string
	values   []*Value       // one, two for in_range, any number for valid_values
	pattern  *regexp.Regexp // of pattern
}

// readConstraints reads a list of clauses.
func readConstraints(p *problems, v *Value) []*constraint {
	if v.absent() {
		return nil
	}
	if v.kind != list {
		p.add(v.at, "constraints is a list")
		return nil
	}
	var all []*constraint
	for _, item := range v.items {
		if item.kind != object || len(item.fields) != 1 {
			p.add(item.at, "a constraint is a map with one clause, as {min_length: 1}")
			continue
		}
		if c := readConstraint(p, item.fields[0]); c != nil {
			all = append(all, c)
		}
	}
	return all
}

func readConstraint(p *problems, f field) *constraint {
	c := &constraint{at: f.at, operator: f.key, values: []*Value{f.value}}
	wrong := func(format string, args ...any) *constraint {
		p.add(f.value.at, "%s %s", f.key, fmt.Sprintf(format, args...))
		return nil
	}
	switch f.key {
	case "equal", "greater_than", "greater_or_equal", "less_than", "less_or_equal":
		if f.value.absent() {
			return wrong("takes a value")
		}
	case "in_range":
		if f.value.kind != list || len(f.value.items) != 2 {
			return wrong("takes a list of two values")
		}
		c.values = f.value.items
	case "valid_values":
		if f.value.kind != list {
			return wrong("takes a list")
		}
		c.values = f.value.items
	case "length", "min_length", "max_length":
		if f.value.kind != integer || strings.HasPrefix(f.value.text, "-") {
			return wrong("takes a whole number from 0 on")
		}
	case "pattern":
		if f.value.kind != text {
			return wrong("takes a regular expression")
		}
		compiled, err := regexp.Compile("^(?:" + f.value.text + ")$") // the whole value has to match (§3.6.3.1)
		if err != nil {
			return wrong("is no regular expression that is known here: %v", err)
		}
		c.pattern = compiled
	case "schema":
		p.hint(f.at, notOurs, "the constraint schema is not in the subset of this host")
		return nil
	default:
		p.hint(f.at, nearest(f.key, []string{
			"equal", "greater_than", "greater_or_equal", "less_than", "less_or_equal", "in_range", "valid_values",
			"length", "min_length", "max_length", "pattern",
		}), "there is no constraint %s", f.key)
		return nil
	}
	return c
}

// broken says how a value breaks a constraint, "" when it does not.
func (c *constraint) broken(v *Value, of kindOf) string {
	switch c.operator {
	case "valid_values":
		if !slices.ContainsFunc(c.values, func(w *Value) bool { return same(v, w) }) {
			var words []string
			for _, w := range c.values {
				words = append(words, shown(w))
			}
			return "is not one of " + strings.Join(words, ", ")
		}
	case "equal":
		if !same(v, c.values[0]) {
			return "is not " + shown(c.values[0])
		}
	case "pattern":
		if v.kind == text && !c.pattern.MatchString(v.text) {
			return "does not match " + c.values[0].text
		}
	case "length", "min_length", "max_length":
		return c.lengthBroken(v)
	default:
		return c.orderBroken(v, of)
	}
	return ""
}

func (c *constraint) lengthBroken(v *Value) string {
	n := len(v.items) + len(v.fields)
	what := "entries"
	if v.kind == text {
		n, what = utf8.RuneCountInString(v.text), "characters"
	}
	want, _ := strconv.Atoi(c.values[0].text)
	switch {
	case c.operator == "length" && n != want:
		return fmt.Sprintf("has %d %s, not %d", n, what, want)
	case c.operator == "min_length" && n < want && n == 0 && want == 1:
		return "is empty"
	case c.operator == "min_length" && n < want:
		return fmt.Sprintf("has %d %s, at least %d are wanted", n, what, want)
	case c.operator == "max_length" && n > want:
		return fmt.Sprintf("has %d %s, at most %d are allowed", n, what, want)
	}
	return ""
}

func (c *constraint) orderBroken(v *Value, of kindOf) string {
	if of == ofRange && len(v.items) == 2 {
		for _, bound := range v.items {
			if broken := c.orderBroken(bound, ofInteger); broken != "" && bound.kind == integer {
				return broken
			}
		}
		return ""
	}
	n := magnitude(v, of)
	var bounds []*big.Rat
	for _, w := range c.values {
		bounds = append(bounds, magnitude(w, of))
	}
	if n == nil {
		return ""
	}
	below := func(i int) bool { return bounds[i] != nil && n.Cmp(bounds[i]) < 0 }
	above := func(i int) bool { return bounds[i] != nil && n.Cmp(bounds[i]) > 0 }
	switch c.operator {
	case "in_range":
		if below(0) || above(1) {
			return fmt.Sprintf("is not between %s and %s", shown(c.values[0]), shown(c.values[1]))
		}
	case "greater_or_equal":
		if below(0) {
			return "is less than " + shown(c.values[0])
		}
	case "greater_than":
		if bounds[0] != nil && !above(0) {
			return "is not more than " + shown(c.values[0])
		}
	case "less_or_equal":
		if above(0) {
			return "is more than " + shown(c.values[0])
		}
	case "less_than":
		if bounds[0] != nil && !below(0) {
			return "is not less than " + shown(c.values[0])
		}
	}
	return ""
}

// units of scalars, as multiples of the smallest (§3.3.6).
var units = map[kindOf]map[string]float64{
	ofSize: {
		"b": 1, "kb": 1e3, "kib": 1 << 10, "mb": 1e6, "mib": 1 << 20, "gb": 1e9, "gib": 1 << 30, "tb": 1e12, "tib": 1 << 40,
	},
	ofTime:      {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400},
	ofFrequency: {"hz": 1, "khz": 1e3, "mhz": 1e6, "ghz": 1e9},
	ofBitrate: {
		"bps": 1, "kbps": 1e3, "kibps": 1 << 10, "mbps": 1e6, "mibps": 1 << 20, "gbps": 1e9, "gibps": 1 << 30, "tbps": 1e12, "tibps": 1 << 40,
	},
}

var scalarUnit = regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$`)

// magnitude is what a number, or a scalar with a unit, is compared by; nil when it is neither.
func magnitude(v *Value, of kindOf) *big.Rat {
	if v.kind == integer || v.kind == float {
		if len(v.text) > maxDigits {
			return nil // an exponent could make a number of any length
		}
		if _, exponent, ok := strings.Cut(strings.ToLower(v.text), "e"); ok && len(exponent) > 3 {
			return nil
		}
		n, ok := new(big.Rat).SetString(v.text)
		if !ok {
			return nil
		}
		return n
	}
	m := scalarUnit.FindStringSubmatch(v.text)
	if v.kind != text || m == nil || len(v.text) > maxDigits {
		return nil
	}
	unit, ok := units[of][strings.ToLower(m[2])]
	n, parsed := new(big.Rat).SetString(m[1])
	if !ok || !parsed {
		return nil
	}
	return n.Mul(n, new(big.Rat).SetFloat64(unit))
}

// maxDigits is more than any number that is compared has.
const maxDigits = 100

// same tells whether two values are equal; 1 and 1.0 are.
func same(v, w *Value) bool {
	if v.kind == unknown || w.kind == unknown {
		return true
	}
	numbers := func(v *Value) bool { return v.kind == integer || v.kind == float }
	if numbers(v) && numbers(w) {
		a, b := magnitude(v, ofFloat), magnitude(w, ofFloat)
		return a != nil && b != nil && a.Cmp(b) == 0
	}
	if v.kind != w.kind || v.text != w.text || len(v.items) != len(w.items) || len(v.fields) != len(w.fields) {
		return false
	}
	for i := range v.items {
		if !same(v.items[i], w.items[i]) {
			return false
		}
	}
	for _, f := range v.fields {
		if other := w.get(f.key); other == nil || !same(f.value, other) {
			return false
		}
	}
	return true
}

// shown is a value of a definition for people.
func shown(v *Value) string {
	switch v.kind {
	case text:
		if v.text == "" {
			return `""`
		}
		return v.text
	case list, object, null, unknown:
		return string(v.kind)
	}
	return v.text
}
