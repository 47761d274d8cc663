package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// gitContext is a folder of a repository. It is checked out when it is first walked: a build whose inputs are those of
// the last one never does.
type gitContext struct {
	below func() (fsutil.FS, error) // checks out
	ready atomic.Bool
	tree  *gitTree
	sub   string
	ctx   context.Context // of single reads: its values only, it does not end
}

func (j *job) gitContext(ctx context.Context, out *checkedOut, sub string) *gitContext {
	c := &gitContext{tree: out.tree, sub: sub, ctx: context.WithoutCancel(ctx)}
	c.below = sync.OnceValues(func() (fsutil.FS, error) {
		if err := out.write(); err != nil {
			return nil, err
		}
		below, err := j.openContext(out.dir, sub)
		c.ready.Store(err == nil)
		return below, err
	})
	return c
}

// Walk visits the folder, after it was checked out.
func (c *gitContext) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	below, err := c.below()
	if err != nil {
		return err
	}
	return below.Walk(ctx, target, fn)
}

// Open opens a file: from the checkout, or its object while there is none. A link is followed in the checkout only.
func (c *gitContext) Open(name string) (io.ReadCloser, error) {
	if !c.ready.Load() {
		e, ok := c.tree.entries[path.Join(c.sub, filepath.ToSlash(name))]
		switch {
		case !ok && c.tree.plain():
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		case ok && c.tree.plain() && e.mode.IsFile() && e.mode != filemode.Symlink:
			data, err := e.read(c.ctx)
			return io.NopCloser(bytes.NewReader(data)), err
		}
	}
	below, err := c.below()
	if err != nil {
		return nil, err
	}
	return below.Open(name)
}

// read reads the object of a file or link.
func (p *placed) read(ctx context.Context) ([]byte, error) {
	var data bytes.Buffer
	err := p.part.repo.use(ctx, func(st *filesystem.Storage) error {
		data.Reset()
		return copyObject(st, plumbing.BlobObject, p.hash, &data)
	})
	return data.Bytes(), err
}

// outline is a folder of a repository in which a file holds its object's id, and not what it will hold: enough to tell
// whether anything in it has changed. The root's .dockerignore is there as it is.
type outline struct {
	context  *gitContext
	children map[string][]string // names, sorted, by folder
	links    map[string]string   // targets, by path
}

func newOutline(c *gitContext) (*outline, error) {
	o := &outline{context: c, children: map[string][]string{}, links: map[string]string{}}
	for full, e := range c.tree.entries {
		name, ok := relative(c.sub, full)
		if !ok {
			continue
		}
		dir := path.Dir(name)
		o.children[dir] = append(o.children[dir], path.Base(name))
		if e.mode == filemode.Symlink {
			target, err := e.read(c.ctx)
			if err != nil {
				return nil, err
			}
			o.links[name] = string(target)
		}
	}
	for _, names := range o.children {
		slices.Sort(names)
	}
	return o, nil
}

// relative is full as seen from sub, if it is below it.
func relative(sub, full string) (string, bool) {
	if sub == "." {
		return full, true
	}
	return strings.CutPrefix(full, sub+"/")
}

// Walk visits what is at and below target, names in order.
func (o *outline) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	target = path.Clean(strings.Trim(filepath.ToSlash(target), "/"))
	err := o.walk(ctx, target, fn)
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

func (o *outline) walk(ctx context.Context, name string, fn fs.WalkDirFunc) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if name != "." {
		e, ok := o.context.tree.entries[path.Join(o.context.sub, name)]
		if !ok {
			return nil
		}
		entry := o.entry(name, e.mode)
		err := fn(filepath.FromSlash(name), entry, nil)
		if err != nil || !entry.IsDir() {
			if errors.Is(err, fs.SkipDir) && entry.IsDir() {
				return nil
			}
			return err
		}
	}
	for _, child := range o.children[name] {
		if err := o.walk(ctx, path.Join(name, child), fn); err != nil {
			if errors.Is(err, fs.SkipDir) { // of a file: the rest of its folder
				return nil
			}
			return err
		}
	}
	return nil
}

func (o *outline) entry(name string, mode filemode.FileMode) *fsutil.DirEntryInfo {
	stat := &types.Stat{Path: filepath.FromSlash(name), Linkname: o.links[name]}
	switch mode {
	case filemode.Dir, filemode.Submodule:
		stat.Mode = uint32(os.ModeDir | 0o755)
	case filemode.Symlink:
		stat.Mode = uint32(os.ModeSymlink | 0o777)
	case filemode.Executable:
		stat.Mode = 0o755
	default:
		stat.Mode = 0o644
	}
	return &fsutil.DirEntryInfo{Stat: stat}
}

// Open gives a file's object id.
func (o *outline) Open(name string) (io.ReadCloser, error) {
	clean := path.Clean(strings.Trim(filepath.ToSlash(name), "/"))
	e, ok := o.context.tree.entries[path.Join(o.context.sub, clean)]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if clean == dockerignoreName {
		return o.context.Open(clean)
	}
	return io.NopCloser(strings.NewReader(e.hash.String())), nil
}

// dockerignoreName is the context's own ignore file.
const dockerignoreName = ".dockerignore"
