package queue

import (
	"bytes"
	"strings"
)

const (
	tailLines = 20      // as many as the plugin's own message shows
	tailSize  = 8 << 10 // bytes, of which they are taken
)

// tail keeps the last lines of a step's output.
type tail struct{ data []byte }

func (t *tail) write(data []byte) {
	t.data = append(t.data, data[max(0, len(data)-tailSize):]...)
	if len(t.data) > 2*tailSize { // moved now and then, not each time
		t.data = append(t.data[:0], t.data[len(t.data)-tailSize:]...)
	}
}

func (t *tail) lines() []string {
	data := t.data[max(0, len(t.data)-tailSize):]
	if len(data) < len(t.data) { // the first line has lost its beginning
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	text := strings.TrimRight(strings.ToValidUTF8(string(data), "\uFFFD"), "\r\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	return lines
}
