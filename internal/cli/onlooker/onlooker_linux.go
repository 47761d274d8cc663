package onlooker

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/console"
)

// find opens what the nearest opera above this process has as standard error; nil when there is none, or none that
// could be written to without harm.
func find() io.WriteCloser {
	if pid := opera(); pid != 0 {
		return standardError(pid)
	}
	return nil
}

// opera is the nearest opera above this process; 0 when there is none.
func opera() int {
	for pid := os.Getppid(); pid > 1; pid = parent(pid) {
		if isOpera(arguments(pid)) {
			return pid
		}
	}
	return 0
}

// lookEvery is how often Gone looks whether opera is still there.
const lookEvery = time.Second

// Gone is closed when the opera above this process has ended. Ansible goes on then, for nobody. It is nil where there is none.
func Gone() <-chan struct{} {
	pid := opera()
	if pid == 0 {
		return nil
	}
	gone := make(chan struct{})
	go func() {
		for isOpera(arguments(pid)) {
			time.Sleep(lookEvery)
		}
		close(gone)
	}()
	return gone
}

// arguments are a process's; none when they cannot be read.
func arguments(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
}

// parent is the process above another; 0 when it is not known.
func parent(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field, in brackets, may hold anything; the fourth is the parent (proc_pid_stat(5)).
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	above, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return above
}

// isOpera tells whether a process with these arguments is opera: its script, run by Python, or its module.
func isOpera(args []string) bool {
	const name = "opera"
	if len(args) == 0 {
		return false
	}
	if path.Base(args[0]) == name {
		return true
	}
	if !strings.HasPrefix(path.Base(args[0]), "python") {
		return false
	}
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-m":
			return i+1 < len(args) && (args[i+1] == name || strings.HasPrefix(args[i+1], name+"."))
		case arg == "-W" || arg == "-X": // which take a value
			i++
		case !strings.HasPrefix(arg, "-"):
			return path.Base(arg) == name
		}
	}
	return false
}

// standardError opens a process's standard error a second time. A file that it does not append to is left alone: what we
// write, it would overwrite. A socket cannot be opened so.
func standardError(pid int) io.WriteCloser {
	name := fmt.Sprintf("/proc/%d/fd/2", pid)
	info, err := os.Stat(name)
	if err != nil {
		return nil
	}
	flags := os.O_WRONLY | os.O_APPEND | syscall.O_NOCTTY
	switch mode := info.Mode(); {
	case mode&os.ModeNamedPipe != 0 || mode&os.ModeCharDevice != 0:
		flags |= syscall.O_NONBLOCK // so that a write can be ended
	case !mode.IsRegular() || !appends(pid):
		return nil
	}
	file, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil
	}
	if info.Mode()&os.ModeCharDevice != 0 {
		if _, err := console.ConsoleFromFile(file); err != nil { // as /dev/null
			_ = file.Close()
			return nil
		}
	}
	return file
}

// appends tells whether a process writes at the end of its standard error's file, wherever that is.
func appends(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/2", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseInt(strings.TrimSpace(value), 8, 64)
			return err == nil && flags&int64(os.O_APPEND) != 0
		}
	}
	return false
}
