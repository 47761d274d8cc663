package opera_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// request is what the executable gets on standard input.
type request struct {
	Node   string         `json:"node"`
	Folder string         `json:"folder"`
	Inputs map[string]any `json:"inputs"`
}

// recorder takes the place of image-builder: it keeps what it is given and does nothing. What is tested with it is what
// stands before it: opera, Ansible and the library.
type recorder struct{ folder string }

func (p *project) record(t *testing.T) recorder {
	t.Helper()
	r := recorder{folder: t.TempDir()}
	executable := filepath.Join(r.folder, "image-builder")
	require.NoError(t, os.WriteFile(executable, []byte("#!/bin/sh\nexec 3>'"+r.folder+"'/\"$2.$$\"\nprintf '%s\\n' \"$*\" >&3\ncat >&3\necho '{\"attributes\": {}}'\n"), 0o700))
	p.env = append(p.env, "IMAGE_BUILDER="+executable)
	return r
}

// requests are those for an operation, by the node.
func (r recorder) requests(t *testing.T, operation string) map[string]request {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(r.folder, operation+".*"))
	require.NoError(t, err)
	requests := map[string]request{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		arguments, stdin, _ := bytes.Cut(data, []byte("\n"))
		require.Equal(t, "lifecycle "+operation, string(arguments), "inputs go to standard input and nowhere else")
		var one request
		require.NoError(t, decode(stdin, &one), "%s", stdin)
		require.NotContains(t, requests, one.Node, "%s of %s was called twice", operation, one.Node)
		requests[one.Node] = one
	}
	return requests
}

// decode reads JSON and keeps numbers as they are written.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}

// escapedInputs writes inputs as YAML: JSON is almost that, but for characters that YAML wants escaped.
func (p *project) escapedInputs(t *testing.T, file string, values map[string]any) {
	t.Helper()
	data, err := json.Marshal(values)
	require.NoError(t, err)
	var b strings.Builder
	for _, r := range string(data) {
		switch {
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		case r >= 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	p.write(t, file, b.String())
}
