package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// maxSubmoduleDepth is how deep submodules may nest. Real projects nest two or three; a server that makes
// trees up as it is asked could go on for ever.
const maxSubmoduleDepth = 10

// gitTree is a repository with the submodules that are wanted.
type gitTree struct {
	job     *job
	request checkoutRequest
	parts   []*part
	entries map[string]*placed // by path from the root of it all
	time    time.Time          // the commit's
}

// placed is an entry with where it belongs.
type placed struct {
	entry
	part *part
}

// part is one repository of the tree: the root, or a submodule.
type part struct {
	repo    *repository
	prefix  string  // where it stands in the tree; "." for the root
	entries []entry // what is wanted of it, folders before what is in them
	hints   attributes
}

// add reads a repository's tree in at prefix, and its wanted submodules after it.
func (t *gitTree) add(ctx context.Context, repo *repository, prefix string, depth int) error {
	p := &part{repo: repo, prefix: prefix}
	var modules map[string]string
	err := repo.use(ctx, func(st *filesystem.Storage) error {
		commit, err := readCommit(st, repo.commit)
		if err != nil {
			return err
		}
		if depth == 0 {
			t.time = saneTime(commit.Committer.When)
		}
		all, err := listTree(st, commit.TreeHash, "", nil)
		if err != nil {
			return err
		}
		if p.entries, err = t.place(p, all); err != nil {
			return err
		}
		if p.hints, err = readAttributes(st, t.attributesFor(p, all)); err != nil {
			return err
		}
		modules, err = readModules(st, all)
		return err
	})
	var known *fault.Error
	switch {
	case err != nil && ctx.Err() == nil && !errors.As(err, &known):
		return fault.New(fault.Invalid, "check out %s: %w", repo.loc, err)
	case err != nil:
		return err
	}
	for _, filter := range p.hints.filters {
		t.job.emit.Note(event.Warning, fmt.Sprintf("files of %s with the git filter %s are used as they are stored", repo.loc, filter))
	}
	t.parts = append(t.parts, p)
	for _, e := range p.entries {
		if e.mode == filemode.Submodule {
			if err := t.addSubmodule(ctx, p, e, modules[e.path], depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// place enters all into the tree and gives those that are wanted.
func (t *gitTree) place(p *part, all []entry) ([]entry, error) {
	var wanted []entry
	for _, e := range all {
		full := path.Join(p.prefix, e.path)
		if len(full) > maxPathLength {
			return nil, errors.New("the tree has paths that are longer than any system allows")
		}
		t.entries[full] = &placed{entry: e, part: p}
		if t.request.wants(full) {
			wanted = append(wanted, e)
		}
	}
	return wanted, nil
}

// attributesFor are the .gitattributes in the folders that are wanted and in those that lead to them.
func (t *gitTree) attributesFor(p *part, all []entry) []entry {
	var found []entry
	for _, e := range all {
		if path.Base(e.path) == ".gitattributes" && t.request.wants(path.Join(p.prefix, path.Dir(e.path))) {
			found = append(found, e)
		}
	}
	return found
}

func (t *gitTree) addSubmodule(ctx context.Context, parent *part, e entry, url string, depth int) error {
	at := path.Join(parent.prefix, e.path)
	field := "submodule " + at
	if url == "" {
		return fault.New(fault.NotFound, "%s: .gitmodules has no URL for it", field)
	}
	if depth > maxSubmoduleDepth {
		return fault.New(fault.Invalid, "%s: submodules nest deeper than %d", field, maxSubmoduleDepth)
	}
	loc, err := parent.repo.loc.submodule(url)
	if err != nil {
		return prefixed(field, err)
	}
	// Whoever writes .gitmodules must not be able to send the user's password elsewhere.
	var username, password string
	if loc.origin() == t.job.home.origin() {
		username, password = t.request.username, t.request.password
	}
	loc.username, loc.password = "", ""
	repo, err := t.job.openRepository(ctx, loc, e.hash.String(), "source:git:"+at, username, password)
	if err != nil {
		return prefixed(field, err)
	}
	return prefixedOrNil(field, t.add(ctx, repo, at, depth))
}

func prefixedOrNil(field string, err error) error {
	if err == nil {
		return nil
	}
	return prefixed(field, err)
}

// readModules reads .gitmodules: path → URL.
func readModules(st *filesystem.Storage, all []entry) (map[string]string, error) {
	i := slices.IndexFunc(all, func(e entry) bool { return e.path == ".gitmodules" })
	if i < 0 || !all[i].mode.IsFile() || all[i].mode == filemode.Symlink {
		return nil, nil
	}
	var text bytes.Buffer
	if err := copyObject(st, plumbing.BlobObject, all[i].hash, &text); err != nil {
		return nil, err
	}
	modules := config.NewModules()
	if err := modules.Unmarshal(text.Bytes()); err != nil {
		return nil, fmt.Errorf(".gitmodules: %w", err)
	}
	urls := map[string]string{}
	for _, m := range modules.Submodules {
		urls[path.Clean(m.Path)] = m.URL
	}
	return urls, nil
}

// write checks the part out into dir.
func (p *part) write(ctx context.Context, t *gitTree, dir string) error {
	return p.repo.use(ctx, func(st *filesystem.Storage) error {
		pointers, err := p.hints.pointers(st, p.entries)
		if err != nil {
			return err
		}
		fetched := pointers
		if p.repo.job.Egress.Refuses() {
			pointers = nil // git-lfs is not to be guarded: their content is ours to fetch
		}
		switch {
		case p.hints.plain() && len(pointers) == 0:
			err = writeEntries(ctx, st, p.entries, dir)
		default:
			err = p.writeWithGit(ctx, st, pointers, dir)
		}
		if err != nil || len(fetched) == len(pointers) {
			return err
		}
		return p.fetchLFS(ctx, st, t, fetched, dir)
	})
}

// writeEntries checks entries out as git does where no attribute changes a file: symlinks stay as they are, absolute ones too.
func writeEntries(ctx context.Context, st *filesystem.Storage, entries []entry, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.New(fault.Internal, "open checkout: %w", err)
	}
	defer root.Close()
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeEntry(st, root, e); err != nil {
			var broken *damage
			if errors.As(err, &broken) {
				return err
			}
			return fault.New(fault.Internal, "check out %s: %w", e.path, err)
		}
	}
	return nil
}

func writeEntry(st *filesystem.Storage, root *os.Root, e entry) error {
	name := filepath.FromSlash(e.path)
	switch e.mode {
	case filemode.Dir, filemode.Submodule:
		if err := root.Mkdir(name, 0o755); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case filemode.Symlink:
		var target bytes.Buffer
		if err := copyObject(st, plumbing.BlobObject, e.hash, &target); err != nil {
			return err
		}
		_ = root.Remove(name)
		return root.Symlink(target.String(), name)
	}
	_ = root.Remove(name)
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := copyObject(st, plumbing.BlobObject, e.hash, file); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

// settle gives files and folders the modes that git knows, whatever the umask is, and the commit's time.
func (t *gitTree) settle(dir string) error {
	osRoot, err := os.OpenRoot(dir)
	if err != nil {
		return fault.New(fault.Internal, "open checkout: %w", err)
	}
	root := fsutil.NewRoot(osRoot)
	defer root.Close()
	for _, p := range t.parts {
		// What is in a folder comes after it in entries, so that backwards its time is set last.
		for _, e := range slices.Backward(p.entries) {
			if err := settleEntry(root, filepath.Join(p.prefix, filepath.FromSlash(e.path)), e.mode, t.time); err != nil {
				return fault.New(fault.Internal, "check out %s: %w", e.path, err)
			}
		}
	}
	return nil
}

func settleEntry(root fsutil.Root, name string, mode filemode.FileMode, at time.Time) error {
	perm := os.FileMode(0o644)
	switch mode {
	case filemode.Symlink:
		return root.LChtimes(name, at)
	case filemode.Dir, filemode.Submodule, filemode.Executable:
		perm = 0o755
	}
	if err := root.Chmod(name, perm); err != nil {
		return err
	}
	return root.Chtimes(name, at, at)
}
