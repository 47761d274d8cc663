package source

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// largeObject is from which size on, in bytes, a blob is streamed and not held in memory.
	largeObject = 8 << 20
	// maxPathLength is Linux's PATH_MAX: what is longer cannot be checked out, and a tree that nests that deep is an attack.
	maxPathLength = 4096
)

// damage is an error of objects that should be there, and are not, or not as they were.
type damage struct{ err error }

func (d *damage) Error() string { return "damaged repository: " + d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// openStorage opens a git folder. Absolute symlinks and paths in it are not followed out of it, but for
// the objects that it borrows from other repositories.
func openStorage(dir string) *filesystem.Storage {
	return filesystem.NewStorageWithOptions(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRUDefault(), filesystem.Options{
		LargeObjectThreshold: largeObject,
		AlternatesFS:         osfs.New("/", osfs.WithBoundOS()),
	})
}

// copyObject writes an object's content and makes sure that it is what its hash says. What goes wrong
// with reading is damage, a panic of go-git over a broken pack included; what goes wrong with writing is not.
func copyObject(st *filesystem.Storage, kind plumbing.ObjectType, hash plumbing.Hash, w io.Writer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &damage{fmt.Errorf("object %s: %v", hash, p)}
		}
	}()
	obj, err := st.EncodedObject(kind, hash)
	if err != nil {
		return &damage{fmt.Errorf("object %s: %w", hash, err)}
	}
	r, err := obj.Reader()
	if err != nil {
		return &damage{fmt.Errorf("object %s: %w", hash, err)}
	}
	defer r.Close()
	hasher := plumbing.NewHasher(kind, obj.Size())
	out := &sinkWriter{w: io.MultiWriter(w, hasher)}
	if _, err := io.Copy(out, r); err != nil {
		if out.err != nil {
			return out.err
		}
		return &damage{fmt.Errorf("object %s: %w", hash, err)}
	}
	if got := hasher.Sum(); got != hash {
		return &damage{fmt.Errorf("object %s has the content of %s", hash, got)}
	}
	return nil
}

// has tells whether an object is there, as far as an index can tell.
func has(st *filesystem.Storage, hash plumbing.Hash) (ok bool) {
	defer func() {
		if recover() != nil { // go-git, over a broken index
			ok = false
		}
	}()
	if st.HasEncodedObject(hash) == nil {
		return true
	}
	_, err := st.EncodedObject(plumbing.AnyObject, hash) // looks where objects are borrowed from, too
	return err == nil
}

// sinkWriter remembers that it was writing that failed.
type sinkWriter struct {
	w   io.Writer
	err error
}

func (s *sinkWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func readObject(st *filesystem.Storage, kind plumbing.ObjectType, hash plumbing.Hash) (*plumbing.MemoryObject, error) {
	obj := &plumbing.MemoryObject{}
	obj.SetType(kind)
	if err := copyObject(st, kind, hash, obj); err != nil {
		return nil, err
	}
	return obj, nil
}

func readCommit(st *filesystem.Storage, hash plumbing.Hash) (*object.Commit, error) {
	obj, err := readObject(st, plumbing.CommitObject, hash)
	if err != nil {
		return nil, err
	}
	commit := &object.Commit{}
	if err := commit.Decode(obj); err != nil {
		return nil, &damage{err}
	}
	return commit, nil
}

// peel follows annotated tags to what they are on.
func peel(st *filesystem.Storage, hash plumbing.Hash) plumbing.Hash {
	for {
		obj, err := st.EncodedObject(plumbing.TagObject, hash)
		if err != nil {
			return hash
		}
		tag := &object.Tag{}
		if tag.Decode(obj) != nil {
			return hash
		}
		hash = tag.Target
	}
}

// entry is a file, symlink, folder or submodule of a repository.
type entry struct {
	path string // from the root of its repository
	mode filemode.FileMode
	hash plumbing.Hash
}

// listTree lists all of a tree, folders before what is in them. Names that no checkout can have, or that are
// there twice, are refused: a tree made by hand could otherwise write through its own symlinks.
func listTree(st *filesystem.Storage, hash plumbing.Hash, prefix string, into []entry) ([]entry, error) {
	obj, err := readObject(st, plumbing.TreeObject, hash)
	if err != nil {
		return nil, err
	}
	tree := &object.Tree{}
	if err := tree.Decode(obj); err != nil {
		return nil, &damage{err}
	}
	seen := make(map[string]bool, len(tree.Entries))
	for _, e := range tree.Entries {
		full := path.Join(prefix, e.Name)
		switch {
		case e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") || strings.EqualFold(e.Name, ".git"):
			return nil, fmt.Errorf("the tree has an entry named %q in %q, which git refuses", e.Name, prefix)
		case seen[e.Name]:
			return nil, fmt.Errorf("the tree has two entries named %q", full)
		case len(full) > maxPathLength:
			return nil, errors.New("the tree has paths that are longer than any system allows")
		}
		seen[e.Name] = true
		into = append(into, entry{full, e.Mode, e.Hash})
		if e.Mode == filemode.Dir {
			if into, err = listTree(st, e.Hash, full, into); err != nil {
				return nil, err
			}
		}
	}
	return into, nil
}
