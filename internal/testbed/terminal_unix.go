//go:build unix

package testbed

import (
	"io"
	"os"

	"github.com/containerd/console"
)

// NewTerminal opens a terminal of so many columns and rows for a program to write to. Once it is closed, screen gives all that was
// written; it has to be called.
func NewTerminal(t T, width, height uint16) (tty *os.File, screen func() string) {
	t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	t.Cleanup(func() { _ = pty.Close() })
	if err := pty.Resize(console.WinSize{Width: width, Height: height}); err != nil {
		t.Fatalf("resize the terminal: %v", err)
	}
	if tty, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		t.Fatalf("open the terminal: %v", err)
	}
	shown := make(chan string)
	go func() {
		data, _ := io.ReadAll(pty) // ends with an error once the terminal is closed
		shown <- string(data)
	}()
	return tty, func() string { return <-shown }
}
