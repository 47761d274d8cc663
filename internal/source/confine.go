package source

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"imagebuilder/internal/fault"
)

// maxListed is how many names an error lists: enough to see what is there, and one screen.
const maxListed = 10

// cleanPath is a path of the document in its shortest form, "." for "". Paths that leave
// what they are relative to, or might, are refused; field names the path in errors.
func cleanPath(field, p string) (string, error) {
	switch {
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fault.New(fault.Invalid, "%s: path %q holds control characters", field, p)
	case strings.HasPrefix(p, "/"):
		return "", fault.New(fault.Invalid, "%s: path %q is absolute", field, p).
			WithHint("give a path from the root of the repository or build context")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", fault.New(fault.Invalid, `%s: path %q has ".." in it`, field, p).
			WithHint("nothing outside the repository or build context is read")
	}
	return path.Clean(p), nil
}

// missing is what a step of walk finds nothing at.
type missing struct{ component string }

func (m *missing) Error() string { return m.component + " does not exist" }

// walk follows p, a clean path, component by component. All must be folders, except that the last is
// a regular file when file is set. Symlinks are refused wherever they lead.
func walk(field, p string, file bool, lstat func(string) (fs.FileMode, error)) error {
	if p == "." && !file {
		return nil
	}
	names := strings.Split(p, "/")
	for i := range names {
		component := strings.Join(names[:i+1], "/")
		mode, err := lstat(component)
		last := i == len(names)-1
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &missing{component}
		case err != nil:
			return fault.New(fault.Invalid, "%s: %w", field, err)
		case mode&fs.ModeSymlink != 0:
			return fault.New(fault.Invalid, "%s: %s: %s is a symlink, and symlinks are not followed", field, p, component).
				WithHint("name the file or folder itself")
		case last && file && !mode.IsRegular():
			return fault.New(fault.Invalid, "%s: %s is not a file", field, p)
		case (!last || !file) && !mode.IsDir():
			return fault.New(fault.Invalid, "%s: %s is not a folder", field, component)
		}
	}
	return nil
}

// rankFiles gives the files that somebody may have meant by a missing Dockerfile: what looks like one
// first, then those of the folder that it was looked for in.
func rankFiles(files []string, want string) []string {
	var likely, near []string
	for _, f := range files {
		base := strings.ToLower(path.Base(f))
		switch {
		case strings.Contains(base, "dockerfile") && base != ".dockerignore", strings.Contains(base, "containerfile"):
			likely = append(likely, f)
		case path.Dir(f) == path.Dir(want):
			near = append(near, f)
		}
	}
	slices.SortFunc(likely, func(a, b string) int {
		if d := strings.Count(a, "/") - strings.Count(b, "/"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	slices.Sort(near)
	return append(likely, near...)
}

// listed is names for an error message, the first few of them.
func listed(names []string) string {
	if len(names) > maxListed {
		return strings.Join(names[:maxListed], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// nearest gives the names that look most like want, the best first; all when none does and there are few.
func nearest(names []string, want string) []string {
	slices.Sort(names)
	type scored struct {
		name  string
		score int
	}
	var near []scored
	for _, n := range names {
		d := levenshtein.Distance(strings.ToLower(n), strings.ToLower(want), nil)
		if d <= max(2, len(want)/3) || strings.Contains(n, want) {
			near = append(near, scored{n, d})
		}
	}
	slices.SortStableFunc(near, func(a, b scored) int { return a.score - b.score })
	out := make([]string, 0, len(near))
	for _, s := range near {
		out = append(out, s.name)
	}
	return out
}

// localContext finds a build context on this machine's disk and gives its real path.
func (j *job) localContext(p, subdir string) (string, error) {
	dir, err := j.absolute(p)
	if err != nil {
		return "", fault.New(fault.Invalid, "source.build_context.path: %w", err)
	}
	root, err := os.OpenRoot(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fault.New(fault.NotFound, "source.build_context.path: folder %s does not exist", dir)
	case errors.Is(err, fs.ErrPermission):
		return "", fault.New(fault.Denied, "source.build_context.path: %w", err)
	case err != nil:
		return "", fault.New(fault.Invalid, "source.build_context.path: %w", err)
	}
	defer root.Close()
	err = walk("source.build_context.subdir", subdir, false, func(name string) (fs.FileMode, error) {
		info, err := root.Lstat(name)
		if err != nil {
			return 0, err
		}
		return info.Mode(), nil
	})
	var gone *missing
	if errors.As(err, &gone) {
		return "", noFolder("source.build_context.subdir", subdir, gone.component, localFolders(root, path.Dir(gone.component)))
	}
	if err != nil {
		return "", err
	}
	return realPath(dir)
}

func localFolders(root *os.Root, dir string) []string {
	entries, _ := fs.ReadDir(root.FS(), dir)
	var folders []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, path.Join(dir, e.Name()))
		}
	}
	return folders
}

// noFolder is the error for a folder of the context that is not there.
func noFolder(field, want, component string, folders []string) error {
	err := fault.New(fault.NotFound, "%s: folder %s does not exist", field, want)
	if component != want {
		err = fault.New(fault.NotFound, "%s: folder %s does not exist: there is no %s", field, want, component)
	}
	if len(folders) == 0 {
		return err
	}
	near := nearest(folders, component)
	for _, f := range folders {
		if !slices.Contains(near, f) {
			near = append(near, f)
		}
	}
	return err.WithHint("folders there: %s", listed(near))
}
