//go:build linux

package managed

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// lockPoll is how often a lock that is taken is tried again: often enough that nobody notices, and
// without a thread that cannot be cancelled.
const lockPoll = 10 * time.Millisecond

// openLock opens a lock file, creating it. Lock files are never removed: whoever waits on a removed
// file would hold a lock that nobody else sees.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// tryLock takes the lock at once or says that someone else has it. how is syscall.LOCK_SH or LOCK_EX.
func tryLock(f *os.File, how int) (bool, error) {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		default:
			return false, &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// lock opens and takes a lock, waiting for it until ctx ends. Closing the file gives it back.
func lock(ctx context.Context, path string, how int) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, lockPoll, func() (bool, error) { return tryLock(f, how) })
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// held tells whether somebody holds the lock.
func held(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	free, err := tryLock(f, syscall.LOCK_EX)
	return !free, err
}

// poll calls done every interval, at once first, until it is true, fails, or ctx ends.
func poll(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}
