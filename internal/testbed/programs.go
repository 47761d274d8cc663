package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// WithPrograms compiles commands of this module, named as the folders of cmd/, into a folder that is there while run runs, and gives
// run's exit code: it is for TestMain. The go command does little when it has compiled them before.
func WithPrograms(run func(folder string) int, names ...string) int {
	folder, err := os.MkdirTemp("", "programs-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	args := []string{"build", "-o", folder + string(os.PathSeparator)}
	for _, name := range names {
		args = append(args, "imagebuilder/cmd/"+name)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil { //nolint:gosec // G204: our own names
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return run(folder)
}

// Words keeps what is written, by any number of goroutines at once, as the outputs of a process.
type Words struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (w *Words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// String is all that was written.
func (w *Words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}
