package buildparams

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// writeYAML writes a node as YAML, indented by two spaces, with a line break at its end. It is written by hand,
// for its bytes are promised: they depend on no library's version, and readers of YAML 1.1 (as PyYAML, which opera
// and Ansible use) and of 1.2 see the same values in them.
func writeYAML(n *node) []byte {
	var b bytes.Buffer
	yamlValue(&b, n, "")
	return b.Bytes()
}

// yamlValue writes a value that begins at the cursor and whose own lines are indented by indent, and ends the line.
func yamlValue(b *bytes.Buffer, n *node, indent string) {
	switch {
	case n.kind == array && len(n.items) > 0:
		for i, item := range n.items {
			if i > 0 {
				b.WriteString(indent)
			}
			b.WriteString("- ")
			yamlValue(b, item, indent+"  ")
		}
	case n.kind == object && len(n.members) > 0:
		for i, m := range n.members {
			if i > 0 {
				b.WriteString(indent)
			}
			b.WriteString(yamlString(m.key) + ":")
			if (m.value.kind == array && len(m.value.items) > 0) || (m.value.kind == object && len(m.value.members) > 0) {
				b.WriteString("\n  " + indent)
			} else {
				b.WriteByte(' ')
			}
			yamlValue(b, m.value, indent+"  ")
		}
	case n.kind == text && blockFits(n.text):
		yamlBlock(b, n.text, indent)
	default:
		b.WriteString(yamlScalar(n) + "\n")
	}
}

func yamlScalar(n *node) string {
	switch n.kind {
	case array:
		return "[]"
	case object:
		return "{}"
	case null:
		return "null"
	case number:
		return yamlNumber(n.text)
	case boolean:
		return n.text
	default:
		return yamlString(n.text)
	}
}

// yamlNumber writes a number of JSON so that YAML 1.1 takes it for one too: there an exponent needs a point before it and a sign.
func yamlNumber(s string) string {
	i := strings.IndexAny(s, "eE")
	if i < 0 {
		return s
	}
	mantissa, exponent := s[:i], s[i+1:]
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	if exponent[0] != '+' && exponent[0] != '-' {
		exponent = "+" + exponent
	}
	return mantissa + "e" + exponent
}

var (
	// plainSafe is narrower than YAML: such a string begins and ends with a letter or the like, and holds nothing that means anything.
	plainSafe = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./@+=-]*([ :][A-Za-z0-9_./@+=-]+)*$`)
	// plainWord are the words that some reader takes for something other than text (YAML 1.1: bool, null).
	plainWord = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)
)

// yamlString writes a string on one line: plain where every reader takes it for text, otherwise in double quotes.
// Numbers, dates and times begin with a digit, a sign or a point, and so are always quoted.
func yamlString(s string) string {
	if plainSafe.MatchString(s) && !plainWord.MatchString(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case printable(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// printable tells what may stand in YAML as it is (§5.1), less what some reader takes for a line break or a byte order mark.
func printable(r rune) bool {
	switch r {
	case 0x85, 0x2028, 0x2029, 0xfeff, 0xfffe, 0xffff:
		return false
	}
	return (r >= 0x20 && r < 0x7f) || r >= 0xa0
}

// blockFits tells whether a string of several lines can be a literal block (|) without any doubt: it ends with one line
// break or none, and no line begins or ends with white space or holds what would need an escape.
func blockFits(s string) bool {
	body := strings.TrimSuffix(s, "\n")
	if !strings.Contains(body, "\n") {
		return false
	}
	for line := range strings.SplitSeq(body, "\n") {
		if strings.HasPrefix(line, "\t") || strings.TrimRight(line, " \t") != line {
			return false
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !printable(r) }) {
			return false
		}
	}
	return body[0] != ' ' && body[0] != '\n' && body[len(body)-1] != '\n'
}

// yamlBlock writes a string of several lines as a literal block.
func yamlBlock(b *bytes.Buffer, s, indent string) {
	// At the top of a document a block needs an indentation too.
	if indent == "" {
		indent = "  "
	}
	head := "|-"
	if strings.HasSuffix(s, "\n") {
		head = "|"
	}
	b.WriteString(head + "\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		if line != "" {
			b.WriteString(indent + line)
		}
		b.WriteByte('\n')
	}
}

// badKey says what is wrong with a key that YAML could not write, or "".
func badKey(key string) string {
	if n := len(yamlString(key)); n > maxKey {
		return fmt.Sprintf("a key is longer than the %d characters that YAML allows", maxKey)
	}
	return ""
}
