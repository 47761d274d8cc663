package datatypes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// writer collects lines of YAML.
type writer struct{ buf bytes.Buffer }

func (w *writer) text(s string) { w.buf.WriteString(s) }

func (w *writer) line(depth int, format string, args ...any) {
	fmt.Fprintf(&w.buf, strings.Repeat("  ", depth)+format+"\n", args...)
}

func (w *writer) bytes() []byte { return w.buf.Bytes() }

// plain matches text that every reader of YAML 1.1 and 1.2 takes for that very text without quotes: it begins with a
// letter and has more than a word, so that it is no boolean, null, number or date, and nothing in it begins a
// comment or a mapping.
var plain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]* [A-Za-z0-9_ ,.;/()*|=+-]+$`)

// scalar writes a value so that every reader of YAML takes it for what it is. JSON's strings are YAML's double-quoted ones.
func scalar(value any) string {
	if text, ok := value.(string); ok && plain.MatchString(text) {
		return text
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(err) // what came out of a JSON document goes into one
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// flow writes a value, or a list of values, on one line.
func flow(value any) string {
	list, ok := value.([]any)
	if !ok {
		return scalar(value)
	}
	items := make([]string, len(list))
	for i, item := range list {
		items[i] = scalar(item)
	}
	return "[" + strings.Join(items, ", ") + "]"
}
