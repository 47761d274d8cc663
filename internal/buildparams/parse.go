package buildparams

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"imagebuilder/internal/fault"
)

// What a document may hold at most. Real ones have a few hundred bytes to some kilobytes.
const (
	// maxSize in bytes leaves room for a whole bundle of certificates in ca_cert (about 220 kB) and
	// keeps well under the 4 MiB that a gRPC message may have.
	maxSize = 1 << 20
	// maxDepth of nesting; a valid document has 6. More only serves to exhaust a parser's stack.
	maxDepth = 32
	// maxValues bounds what aliases of YAML may expand to, and the time that a parser takes: a thousand
	// variants have about so many.
	maxValues = 20_000
	// maxFields of one map bounds the YAML parser, whose time grows by the square of it (and whose stack
	// grows with it): a second for 5 000, minutes for 50 000.
	maxFields = 1000
	// maxKey is YAML's limit for a key on one line, in characters as written.
	maxKey = 1024
	// maxProblems is how many problems are told at once; nobody reads more.
	maxProblems = 100
)

// Format is how a document is written.
type Format string

// The formats.
const (
	JSON Format = "json"
	YAML Format = "yaml"
)

// syntaxError is one place where a document's text is wrong. Line and column count from 1, the column in
// characters; line 0 is the whole document.
type syntaxError struct {
	line, column  int
	message, hint string
}

func (e *syntaxError) Error() string {
	if e.line == 0 {
		return e.message
	}
	return position(e.line, e.column) + ": " + e.message
}

func (e *syntaxError) problem() fault.Problem { return fault.Problem{Message: e.Error(), Hint: e.hint} }

// parse reads a document's text. The name's extension decides what it is, and where it says nothing the text does.
// The problems are about syntax, duplicate keys and limits; with one of those the node is nil.
func parse(data []byte, name string) (*node, []fault.Problem) {
	data, err := plainText(data)
	if err != nil {
		return nil, []fault.Problem{err.problem()}
	}
	extension := strings.ToLower(filepath.Ext(name))
	if extension == ".json" {
		return parseJSON(data)
	}
	if !looksLikeJSON(data) {
		return parseYAML(data)
	}
	n, problems := parseJSON(data)
	if problems != nil && (extension == ".yaml" || extension == ".yml") {
		// JSON with a comma too many or with comments is YAML all the same.
		if n, yamlProblems := parseYAML(data); yamlProblems == nil {
			return n, nil
		}
	}
	return n, problems
}

// plainText refuses what is no text and takes off a byte order mark.
func plainText(data []byte) ([]byte, *syntaxError) {
	if len(data) > maxSize {
		return nil, &syntaxError{message: fmt.Sprintf("the document is larger than %d kB", maxSize>>10)}
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, &syntaxError{message: "the document is UTF-16 text", hint: "save it as UTF-8"}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	const binary = "the document is not text but binary data"
	const hint = "a build_params document is JSON or YAML in UTF-8"
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, &syntaxError{message: binary, hint: hint}
	}
	if !utf8.Valid(data) {
		i := 0
		for i < len(data) {
			r, size := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			i += size
		}
		line, column := lineColumn(data, i)
		return nil, &syntaxError{line, column, "not valid UTF-8", hint}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &syntaxError{message: "the document is empty", hint: `"image-builder example" has documents to start from`}
	}
	return data, nil
}

// looksLikeJSON tells JSON from YAML's own map in braces, {a: 1}, whose keys are mostly not quoted.
func looksLikeJSON(data []byte) bool {
	rest := bytes.TrimSpace(data)
	if len(rest) == 0 || (rest[0] != '{' && rest[0] != '[') {
		return false
	}
	inside := bytes.TrimSpace(rest[1:])
	return len(inside) == 0 || bytes.IndexByte([]byte(`"{}[]`), inside[0]) >= 0
}

// lineColumn turns an offset into line and column, both from 1.
func lineColumn(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}
