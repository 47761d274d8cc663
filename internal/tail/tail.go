// Package tail keeps the end of what a program says: the last lines are those that tell what went wrong.
package tail

// size is how much is kept, in bytes.
const size = 4 << 10

// Tail keeps the end of what is written to it, by one goroutine at a time. The zero value is ready.
type Tail struct{ data []byte }

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-size):]
	return len(p), nil
}

// String is what is kept.
func (t *Tail) String() string { return string(t.data) }
