package service

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/seal"
)

// Files of a data folder.
const (
	databaseFile   = "service.db"
	lockFile       = "lock"
	identitiesFile = "identities.txt" // of the worker: with it, sealed documents can be read
	keysFile       = "api-keys.yaml"  // hashes of API keys
)

const (
	dataFolderMode = 0o700
	dataFileMode   = 0o600
)

// DatabaseFile is where the database of a data folder is, where there is no PostgreSQL.
func DatabaseFile(folder string) string { return filepath.Join(folder, databaseFile) }

// LockDataFolder keeps every service from using a folder until unlock is called, for who changes what is in it. A folder that is in
// use is Unavailable.
func LockDataFolder(folder string) (unlock func(), err error) {
	d, err := openDataFolder(folder)
	if err != nil {
		return nil, err
	}
	return d.close, nil
}

// dataFolder is a data folder that this process alone uses.
type dataFolder struct {
	path string
	lock *flock.Flock
}

// openDataFolder makes the folder if it is not there, and locks it.
func openDataFolder(path string) (*dataFolder, error) {
	if err := os.MkdirAll(path, dataFolderMode); err != nil {
		return nil, fault.New(fault.Invalid, "data folder: %w", err).WithHint("choose another one with --data-dir")
	}
	d := &dataFolder{path: path}
	d.lock = flock.New(d.file(lockFile), flock.SetPermissions(dataFileMode))
	locked, err := d.lock.TryLock()
	if err != nil {
		return nil, fault.New(fault.Invalid, "lock the data folder: %w", err).WithHint("choose another one with --data-dir")
	}
	if !locked {
		return nil, fault.New(fault.Unavailable, "data folder %s: another process uses it", path).
			WithHint("one SQLite database serves one process; several need PostgreSQL")
	}
	return d, nil
}

func (d *dataFolder) file(name string) string { return filepath.Join(d.path, name) }

func (d *dataFolder) close() { _ = d.lock.Unlock() }

// identities gives the file with the worker's identities, made if it is not there.
func (d *dataFolder) identities() (string, error) {
	path := d.file(identitiesFile)
	identity, recipient, err := seal.GenerateKey()
	if err != nil {
		return "", err
	}
	_, err = createOnce(path, fmt.Sprintf("# recipient: %s\n%s\n", recipient, identity))
	return path, err
}

// apiKeys gives the file with API keys. Where there is none, it is made with one key, which is given too: nobody will ever see
// it again.
func (d *dataFolder) apiKeys() (path, generated string, err error) {
	path = d.file(keysFile)
	if _, err := os.Stat(path); err == nil {
		return path, "", nil
	}
	key, entry, err := auth.NewKey(rand.Reader, auth.KeyEntry{Name: "admin", Scopes: []string{auth.ScopeAdmin}})
	if err != nil {
		return "", "", err
	}
	created, err := createOnce(path, entry.Line())
	if err != nil || !created {
		return path, "", err
	}
	return path, key, nil
}

// createOnce writes a file that only we may read, unless it is there already.
func createOnce(path, text string) (created bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, dataFileMode)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.New(fault.Invalid, "data folder: %w", err)
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = os.Remove(path) // half a key is none
		return false, fault.New(fault.Unavailable, "data folder: %w", err)
	}
	return true, nil
}
