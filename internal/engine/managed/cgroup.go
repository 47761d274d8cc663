//go:build linux

package managed

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// removeCgroups removes the cgroups below a name at the top of every hierarchy. They are empty:
// the daemon's PID namespace has ended.
func removeCgroups(name string) {
	for _, top := range cgroupMounts() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(top, name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) { // children first
			_ = os.Remove(dir)
		}
	}
}

// cgroupMounts are the mount points of the hierarchies, of either version.
func cgroupMounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		left, right, _ := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if kind := strings.Fields(right); len(fields) > 4 && len(kind) > 0 && (kind[0] == "cgroup" || kind[0] == "cgroup2") {
			out = append(out, fields[4])
		}
	}
	return out
}
