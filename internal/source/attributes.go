package source

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// lfsStart is how a file starts that git-lfs has put in the place of the real one.
const lfsStart = "version https://git-lfs.github.com/spec/v1\n"

// maxPointer is the most that such a file holds, in bytes, by git-lfs's specification.
const maxPointer = 1024

// attributes are what the .gitattributes of a repository say that changes files as they are checked out. Most of
// what people write there does not: text and eol=lf leave a file as it is stored on systems that end lines with LF.
type attributes struct {
	convert string   // the first line that changes content, as ".gitattributes:3: eol=crlf"; "" if there is none
	lfs     bool     // filter=lfs is in use
	filters []string // other filters in use, as git-crypt
}

func (a *attributes) plain() bool { return a.convert == "" }

// readAttributes reads .gitattributes files. It does not ask which files a line is for: that
// is left to git, which is the one to do what the line says.
func readAttributes(st *filesystem.Storage, files []entry) (attributes, error) {
	var found attributes
	for _, e := range files {
		if !e.mode.IsFile() || e.mode == filemode.Symlink {
			continue
		}
		var text bytes.Buffer
		if err := copyObject(st, plumbing.BlobObject, e.hash, &text); err != nil {
			return found, err
		}
		for i, line := range strings.Split(text.String(), "\n") {
			found.line(fmt.Sprintf("%s:%d", e.path, i+1), line)
		}
	}
	return found, nil
}

func (a *attributes) line(where, line string) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return
	}
	for _, word := range strings.Fields(line)[1:] {
		name, value, _ := strings.Cut(word, "=")
		changes := false
		switch name {
		case "eol":
			changes = value == "crlf"
		case "ident":
			changes = true
		case "working-tree-encoding":
			changes = !strings.EqualFold(strings.ReplaceAll(value, "-", ""), "utf8")
		case "filter":
			switch {
			case value == "lfs":
				a.lfs = true
			case value != "" && !slices.Contains(a.filters, value):
				a.filters = append(a.filters, value)
			}
		}
		if changes && a.convert == "" {
			a.convert = where + ": " + word
		}
	}
}

// pointers are the paths of wanted files that git-lfs has the content of.
func (a *attributes) pointers(st *filesystem.Storage, entries []entry) ([]string, error) {
	if !a.lfs {
		return nil, nil
	}
	var found []string
	for _, e := range entries {
		if !e.mode.IsFile() || e.mode == filemode.Symlink {
			continue
		}
		// A size that is not known, as that of an object borrowed from elsewhere, is that of the object itself.
		if size, err := st.EncodedObjectSize(e.hash); err == nil && size > maxPointer {
			continue
		}
		var text bytes.Buffer
		if err := copyObject(st, plumbing.BlobObject, e.hash, &text); err != nil {
			return nil, err
		}
		if text.Len() <= maxPointer && strings.HasPrefix(text.String(), lfsStart) {
			found = append(found, e.path)
		}
	}
	return found, nil
}
