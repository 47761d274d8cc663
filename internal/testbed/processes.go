package testbed

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Arguments are the command lines of all processes of this machine, as long as they are watched.
type Arguments struct {
	stop chan struct{}
	done chan []string
}

// WatchArguments begins to look at processes. One that lives for less than some 30 ms may be missed.
func WatchArguments() *Arguments {
	const (
		pause = 30 * time.Millisecond
		young = 30 // looks: a process may start another program at first
		all   = 60 // looks: then at the old ones too
	)
	a := &Arguments{stop: make(chan struct{}), done: make(chan []string, 1)}
	go func() {
		seen, ages := map[string]bool{}, map[string]int{}
		for look := 0; ; look++ {
			now := map[string]int{}
			entries, _ := os.ReadDir("/proc") // without one there are no processes
			for _, entry := range entries {
				pid := entry.Name()
				if pid[0] < '0' || pid[0] > '9' {
					continue
				}
				now[pid] = ages[pid] + 1
				if now[pid] <= young || look%all == 0 {
					if data, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); err == nil { // it may have ended
						seen[string(data)] = true
					}
				}
			}
			ages = now
			select {
			case <-a.stop:
				a.done <- slices.Collect(maps.Keys(seen))
				return
			case <-time.After(pause):
			}
		}
	}()
	return a
}

// All ends it, and gives all command lines that there were, with NUL between arguments.
func (a *Arguments) All() []string {
	close(a.stop)
	return <-a.done
}

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
