package plugin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"imagebuilder/internal/fault"
)

const (
	// runPrefix begins the name of every run folder.
	runPrefix = "image-builder-run-"

	// maxSocketDir is the most bytes that a run folder's path may have for go-plugin's socket in it
	// (/plugin-dir1234567890/plugin1234567890) to stay below 100; the systems' limits are 104 and 108.
	maxSocketDir = 100 - 40

	// newFolderTries bounds how often a new folder is made when a sweeping host takes it for a dead one,
	// which needs that host to come by between two adjacent system calls.
	newFolderTries = 20
)

// runFolder is a folder that belongs to one plugin process. As long as the host lives it holds a lock
// on it, which goes with the host, however that dies.
type runFolder struct {
	path string
	lock *os.File // nil where there are no such locks
}

// newRunFolder makes a run folder in dir, or in /tmp when sockets in dir would have too long a path.
func newRunFolder(dir string) (*runFolder, error) {
	dir = socketBase(dir)
	for range newFolderTries {
		path, err := os.MkdirTemp(dir, runPrefix) // mode 0700
		if err != nil {
			return nil, fault.New(Unavailable, "make a folder for the plugin: %w", err)
		}
		lock, err := lockFolder(path)
		if errors.Is(err, errLocked) {
			continue // taken by a sweep, which removes it
		}
		if err != nil {
			_ = os.Remove(path)
			return nil, fault.New(Unavailable, "lock %s: %w", path, err)
		}
		return &runFolder{path: path, lock: lock}, nil
	}
	return nil, fault.New(Unavailable, "make a folder for the plugin in %s: other processes removed it %d times",
		dir, newFolderTries)
}

// socketBase is dir where a socket's path stays short enough, else /tmp.
func socketBase(dir string) string {
	if len(filepath.Join(dir, runPrefix))+len("1234567890") > maxSocketDir && os.PathSeparator == '/' {
		return "/tmp"
	}
	return dir
}

// remove removes the folder and gives up the lock, in this order: nobody else may take it in between.
func (f *runFolder) remove() error {
	err := removeAll(f.path)
	if f.lock != nil {
		_ = f.lock.Close()
	}
	return err
}

// Sweep removes the run folders in dir whose hosts are dead, as they remain when host and plugin were
// killed at once. Folders in use, of other users, or not to be read are left alone. Start sweeps the
// folder that it uses, so that few have a reason to call it.
func Sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), runPrefix) {
			removeDeadFolder(filepath.Join(dir, e.Name()))
		}
	}
}

// removeDeadFolder removes a run folder whose lock nobody holds, and tells whether it did.
func removeDeadFolder(path string) bool {
	if !strings.HasPrefix(filepath.Base(path), runPrefix) || !ownFolder(path) {
		return false
	}
	lock, err := lockFolder(path)
	if err != nil || lock == nil {
		return false
	}
	defer lock.Close() // after the removal, so that its maker cannot take hold of a half removed folder
	return removeAll(path) == nil
}

// removeAll is os.RemoveAll that is not stopped by folders without write permission.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(path)
}
