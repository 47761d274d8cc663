package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"imagebuilder/internal/fault"
)

// openContext opens folder dir/sub as a context, such that no symlink, not even one that is
// put there later, leads out of it.
func (j *job) openContext(dir, sub string) (fsutil.FS, error) {
	outer, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.New(fault.Internal, "open context: %w", err)
	}
	defer outer.Close()
	inner, err := outer.OpenRoot(filepath.FromSlash(sub))
	if err != nil {
		return nil, fault.New(fault.Internal, "open context: %w", err)
	}
	root := fsutil.NewRoot(inner)
	j.tree.close = append(j.tree.close, root.Close)
	fsys, err := fsutil.NewFilterFS(fsutil.NewRootFS(root), &fsutil.FilterOpt{Map: ownedByRoot})
	if err != nil {
		return nil, fault.New(fault.Internal, "open context: %w", err)
	}
	return fsys, nil
}

// ownedByRoot makes layers the same whoever builds them.
func ownedByRoot(_ string, stat *types.Stat) fsutil.MapResult {
	stat.Uid, stat.Gid = 0, 0
	return fsutil.MapResultKeep
}

func realPath(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fault.New(fault.NotFound, "source.build_context.path: %w", err)
	}
	return dir, nil
}

// emptyFS is the context of a Dockerfile that has none.
type emptyFS struct{}

func (emptyFS) Walk(context.Context, string, fs.WalkDirFunc) error { return nil }

func (emptyFS) Open(name string) (io.ReadCloser, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// dockerfileName is the name under which a Dockerfile by URL stands in the root of its context.
const dockerfileName = "Dockerfile"

// dockerfileFS shows a Dockerfile in the root of a context, in the place of whatever has its name
// there. The context itself is not written to. (BuildKit's own merge of file systems cannot skip
// folders, which .dockerignore needs.)
type dockerfileFS struct {
	fsutil.FS
	data  []byte
	mtime int64
}

func withDockerfile(below fsutil.FS, data []byte) fsutil.FS {
	return &dockerfileFS{FS: below, data: data, mtime: contentTime(data)}
}

// contentTime is a time in the years 1970 to 2006 made of the content, in nanoseconds. BuildKit takes a file of the same
// size and time for unchanged, so that a fixed time could build the previous Dockerfile.
func contentTime(data []byte) int64 {
	sum := sha256.Sum256(data)
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 4)
}

func (d *dockerfileFS) entry() fs.DirEntry {
	return &fsutil.DirEntryInfo{Stat: &types.Stat{
		Path: dockerfileName, Mode: 0o644, Size: int64(len(d.data)), ModTime: d.mtime,
	}}
}

// Walk visits the context in fsutil's order, that of names in each folder.
func (d *dockerfileFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	switch name := strings.Trim(filepath.Clean(target), "/"); {
	case name == dockerfileName:
		return stopped(fn(dockerfileName, d.entry(), nil))
	case strings.HasPrefix(name, dockerfileName+"/"):
		return nil
	case name != "" && name != ".":
		return d.FS.Walk(ctx, target, fn)
	}
	shown := false
	err := d.FS.Walk(ctx, target, func(name string, entry fs.DirEntry, err error) error {
		first, _, _ := strings.Cut(name, "/")
		if !shown && first >= dockerfileName {
			shown = true
			if err := fn(dockerfileName, d.entry(), nil); err != nil {
				if errors.Is(err, fs.SkipDir) {
					return fs.SkipAll // of a file in the root it means the rest of the root
				}
				return err
			}
		}
		if first == dockerfileName {
			if entry != nil && entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return fn(name, entry, err)
	})
	if err != nil || shown {
		return err
	}
	return stopped(fn(dockerfileName, d.entry(), nil))
}

func stopped(err error) error {
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

// Open opens the Dockerfile or a file of the context.
func (d *dockerfileFS) Open(name string) (io.ReadCloser, error) {
	switch clean := strings.Trim(filepath.Clean(name), "/"); {
	case clean == dockerfileName:
		return io.NopCloser(bytes.NewReader(d.data)), nil
	case strings.HasPrefix(clean, dockerfileName+"/"):
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return d.FS.Open(name)
}
