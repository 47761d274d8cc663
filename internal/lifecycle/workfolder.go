package lifecycle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"imagebuilder/internal/fault"
)

// folder is a job's own, for temporary files.
type folder struct {
	path string
	made []string // those above it that were missing, the innermost first
}

const (
	// folderPattern is the name of a job's folder, as os.MkdirTemp takes it.
	folderPattern = "image-builder-*"
	// maxFolderTries bounds how often a job makes a folder again that another job, which had made it, has removed just then.
	maxFolderTries = 100
)

// makeFolder makes a folder in another one, which is made if it is missing; "" is the system's for temporary files.
func makeFolder(in string) (*folder, error) {
	f := &folder{}
	var err error
	if in == "" {
		if f.path, err = os.MkdirTemp("", folderPattern); err != nil {
			return nil, fault.New(fault.Unavailable, "make a temporary folder: %w", err)
		}
		return f, nil
	}
	for range maxFolderTries {
		err = f.makeParents(filepath.Clean(in))
		if err == nil {
			f.path, err = os.MkdirTemp(in, folderPattern)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		f.remove()
		return nil, fault.New(fault.Invalid, "make the folder for temporary files: %w", err).WithHint("custom_workdir names it")
	}
	return f, nil
}

// makeParents makes a folder and those above it, remembering which were not there.
func (f *folder) makeParents(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := f.makeParents(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	switch {
	case err == nil:
		f.made = append([]string{dir}, f.made...)
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil // should it be no folder, the next step says so
	}
	return err
}

// remove removes the folder, and what was made for it, unless somebody has put something there meanwhile.
func (f *folder) remove() {
	if f.path != "" {
		_ = os.RemoveAll(f.path)
	}
	for _, dir := range f.made {
		_ = os.Remove(dir)
	}
}
