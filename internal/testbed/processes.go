package testbed

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Arguments are the command lines of all processes of this machine, as long as they are watched.
type Arguments struct {
	seen map[string]bool // guarded by watch
}

// watch is the one look at processes for all that watch them: each takes milliseconds.
var watch struct {
	sync.Mutex
	running bool
	by      map[*Arguments]bool
	old     bool // somebody has not seen the processes that are there for long
}

// WatchArguments begins to look at processes. One that lives for less than some 30 ms may be missed.
func WatchArguments() *Arguments {
	a := &Arguments{seen: map[string]bool{}}
	watch.Lock()
	defer watch.Unlock()
	if !watch.running {
		watch.running, watch.by = true, map[*Arguments]bool{}
		go watchProcesses()
	}
	watch.by[a], watch.old = true, true
	return a
}

// watchProcesses looks until nobody watches any more.
func watchProcesses() {
	const (
		pause = 30 * time.Millisecond
		young = 30 // looks: a process may start another program at first
		all   = 60 // looks: then at the old ones too
	)
	ages := map[string]int{}
	for look := 1; lookAtProcesses(ages, young, look%all == 0); look++ {
		time.Sleep(pause)
	}
}

// lookAtProcesses looks once at those that were there for no more than so many looks, or also at the old ones. It is false when nobody watches.
func lookAtProcesses(ages map[string]int, young int, old bool) bool {
	watch.Lock()
	defer watch.Unlock()
	if len(watch.by) == 0 {
		watch.running = false
		return false
	}
	old, watch.old = old || watch.old, false
	now := processes()
	maps.DeleteFunc(ages, func(pid string, _ int) bool { return !now[pid] })
	for pid := range now {
		ages[pid]++
		if ages[pid] > young && !old {
			continue
		}
		data, err := commandLine(pid)
		if err != nil { // it has ended
			continue
		}
		for a := range watch.by {
			a.seen[string(data)] = true
		}
	}
	return true
}

// processes are the ids of all processes. Without a /proc there are none.
func processes() map[string]bool {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = folder.Close() }()
	names, _ := folder.Readdirnames(-1) // what it could read
	ids := map[string]bool{}
	for _, name := range names {
		if name[0] >= '0' && name[0] <= '9' {
			ids[name] = true
		}
	}
	return ids
}

// commandLine is a process's, with NUL after each argument.
func commandLine(pid string) ([]byte, error) {
	return os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
}

// All ends it, and gives all command lines that there were, with NUL between arguments.
func (a *Arguments) All() []string {
	watch.Lock()
	defer watch.Unlock()
	delete(watch.by, a)
	return slices.Collect(maps.Keys(a.seen))
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
	for _, pid := range slices.Sorted(maps.Keys(processes())) {
		if data, err := commandLine(pid); err == nil { // it may have ended
			all = append(all, strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"))
		}
	}
	return all
}
