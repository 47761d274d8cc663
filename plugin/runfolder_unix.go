//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package plugin

import (
	"errors"
	"os"
	"syscall"
)

// errLocked says that somebody else has the folder, or has removed it.
var errLocked = errors.New("in use")

// lockFolder locks the folder itself: a lock file in it could be removed and made anew between two
// steps of others. It gives errLocked unless the folder that it locked is the one at path, and nil where
// the file system has no locks.
func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		if errors.Is(err, errLocked) {
			return nil, err
		}
		return nil, nil // a file system without locks, as some network ones: nobody can sweep there
	}
	locked, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(locked, there) {
		f.Close()
		return nil, errLocked
	}
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return err
		}
	}
}

// ownFolder tells whether path is a folder (not a link to one) of this user.
func ownFolder(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
