// Package secret holds values that must not be seen: passwords, tokens, build secrets.
//
// A Value is a literal or a reference, "env:NAME" or "file:PATH", that is looked up only
// where the value is used. Whatever prints, marshals or logs a Value gets "****".
package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Mask is what every formatted form of a secret shows.
const Mask = "****"

// maxFile is the most that a file: reference may hold. Credentials and keys are small;
// the limit keeps a mistaken path (a device, a log) from being read whole.
const maxFile = 1 << 20

// Value is a secret as it stands in a document: a literal or a reference.
// The zero Value is absent.
type Value struct {
	// raw is behind a pointer because package fmt prints unexported fields of a struct around it without
	// asking any method of ours: it then prints an address.
	raw *string
}

// New makes a Value of a document's text: a literal, "env:NAME" or "file:PATH".
func New(text string) Value {
	if text == "" {
		return Value{}
	}
	return Value{raw: &text}
}

// text is the value as it stands in the document.
func (v Value) text() string {
	if v.raw == nil {
		return ""
	}
	return *v.raw
}

// IsZero tells whether the value is absent.
func (v Value) IsZero() bool { return v.raw == nil }

// IsReference tells whether the value is env: or file: and so holds nothing secret itself.
func (v Value) IsReference() bool {
	return strings.HasPrefix(v.text(), "env:") || strings.HasPrefix(v.text(), "file:")
}

// Reference is the reference as written, which is no secret, or "" for a literal.
func (v Value) Reference() string {
	if v.IsReference() {
		return v.text()
	}
	return ""
}

// Table has references and what they stand for, looked up beforehand for a process on another machine. A literal in a document
// stays one, whatever it begins with. It prints as the mask; its JSON is in clear, for that process alone.
type Table map[string]string

// Format writes the mask whatever the verb is.
func (t Table) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, Mask) }

// LogValue is the mask, for log/slog.
func (t Table) LogValue() slog.Value { return slog.StringValue(Mask) }

// Resolver looks references up. Its fields are injected, so that a service can refuse
// references of strangers by giving neither.
type Resolver struct {
	LookupEnv func(name string) (string, bool) // nil: env: references are refused
	Dir       string                           // what a relative file: path is relative to
	NoFiles   bool                             // file: references are refused
	Given     Table                            // unless it is nil, references are looked up here and nowhere else
	Found     Table                            // unless it is nil, every reference that was looked up is added to it
}

// Host is the resolver of a process that acts for its own user: its environment and its files,
// relative paths from dir.
func Host(dir string) Resolver { return Resolver{LookupEnv: os.LookupEnv, Dir: dir} }

// Reveal gives the secret itself. For a file, one trailing line break is cut off, as editors add it.
// Errors name the reference, never a value.
func (r Resolver) Reveal(v Value) (string, error) {
	text, err := r.lookUp(v)
	if err == nil && r.Found != nil && v.IsReference() {
		r.Found[v.text()] = text
	}
	return text, err
}

func (r Resolver) lookUp(v Value) (string, error) {
	text := v.text()
	switch {
	case v.IsReference() && r.Given != nil:
		s, ok := r.Given[text]
		if !ok {
			return "", fmt.Errorf("what %s stands for was not given", text)
		}
		return s, nil
	case strings.HasPrefix(text, "env:"):
		name := strings.TrimPrefix(text, "env:")
		if r.LookupEnv == nil {
			return "", fmt.Errorf("env: references are not allowed here")
		}
		s, ok := r.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("environment variable %s is not set", name)
		}
		return s, nil
	case strings.HasPrefix(text, "file:"):
		if r.NoFiles {
			return "", fmt.Errorf("file: references are not allowed here")
		}
		return r.readFile(strings.TrimPrefix(text, "file:"))
	default:
		return text, nil
	}
}

func (r Resolver) readFile(path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.Dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	return string(bytes.TrimSuffix(data, []byte("\r"))), nil
}

// String is the mask, or "" for an absent value.
func (v Value) String() string {
	if v.IsZero() {
		return ""
	}
	return Mask
}

// GoString is the mask, for %#v.
func (v Value) GoString() string { return "secret.Value(" + v.String() + ")" }

// Format writes the mask whatever the verb is.
func (v Value) Format(s fmt.State, verb rune) {
	if verb == 'v' && s.Flag('#') {
		_, _ = io.WriteString(s, v.GoString())
		return
	}
	_, _ = io.WriteString(s, v.String())
}

// LogValue is the mask, for log/slog.
func (v Value) LogValue() slog.Value { return slog.StringValue(v.String()) }

// MarshalText is the mask, for JSON, YAML and everything else that encodes text.
func (v Value) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalJSON is the mask as a JSON string.
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal(v.String()) }

// UnmarshalJSON reads a literal or a reference.
func (v *Value) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*v = New(text)
	return nil
}
