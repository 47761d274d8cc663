package endtoend_test

import (
	"os"
	"path/filepath"
	"strings"
)

// processRuns tells whether a process of this machine has the argument.
func processRuns(argument string) bool {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains("\x00"+string(data), "\x00"+argument+"\x00") {
			return true
		}
	}
	return false
}
