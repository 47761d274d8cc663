package testbed

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ProcessRuns tells whether a process of this machine has the argument.
func ProcessRuns(argument string) bool {
	return slices.ContainsFunc(commandLines(), func(argv []string) bool { return slices.Contains(argv, argument) })
}

// ManagedEngines are the state folders of the managed engines on this machine that executables of a folder have
// started. An engine outlives whoever started it, with nothing of that process's environment, so this is what it is known by.
func ManagedEngines(folder string) []string {
	var states []string
	for _, argv := range commandLines() {
		// EXECUTABLE engine-supervisor run STATE
		if len(argv) == 4 && argv[1] == "engine-supervisor" && filepath.Dir(argv[0]) == folder {
			states = append(states, argv[3])
		}
	}
	return states
}

// commandLines are the arguments of all processes. Where there is no /proc there are none.
func commandLines() [][]string {
	var all [][]string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil { // it may have ended
			all = append(all, strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"))
		}
	}
	return all
}
