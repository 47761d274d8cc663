package source

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// checkoutRequest says which part of which repository is wanted.
type checkoutRequest struct {
	field              string // of the document, for errors
	url, version       string
	username, password string
	context            string // folder to check out, clean
	contextField       string
	dockerfile         string // file to check out besides; "" for none
}

// wants tells whether a path of the repository is needed: what is in the context, the Dockerfile, and
// what leads to them.
func (r *checkoutRequest) wants(p string) bool {
	return within(r.context, p) || within(p, r.context) || r.dockerfile != "" && (within(p, r.dockerfile) || within(p, ignoreFile(r.dockerfile)))
}

// within tells whether p is dir or below it.
func within(dir, p string) bool {
	return dir == "." || p == dir || strings.HasPrefix(p, dir+"/")
}

// checkedOut is a part of a repository on disk.
type checkedOut struct {
	tree   *gitTree
	dir    string       // the repository's root, once write was called
	write  func() error // checks out, the first time it is called
	url    string
	commit string
	time   time.Time // the commit's
}

// checkout fetches a repository and its submodules as far as they are wanted, and checks them out. All files and
// folders get the commit's time, so that layers are the same on every machine.
func (j *job) checkout(ctx context.Context, req checkoutRequest) (*checkedOut, error) {
	loc, err := parseLocation(req.url, j.absolute)
	if err != nil {
		return nil, prefixed(req.field+".url", err)
	}
	req.username, req.password = orDefault(req.username, loc.username), orDefault(req.password, loc.password)
	if strings.ContainsAny(req.username+req.password, "\r\n\x00") {
		return nil, fault.New(fault.Invalid, "%s: username or password holds a line break", req.field)
	}
	j.hide(loc.password, base64.StdEncoding.EncodeToString([]byte(req.username+":"+req.password)))
	if req.password != "" && loc.scheme == "ssh" {
		j.emit.Note(event.Warning, req.field+".password is not used: ssh logs in with keys")
	}
	j.home = &loc
	root, err := j.openRepository(ctx, loc, req.version, "source:git", req.username, req.password)
	if err != nil {
		return nil, err
	}
	tree := &gitTree{job: j, request: req, entries: map[string]*placed{}}
	if err := tree.add(ctx, root, ".", 0); err != nil {
		return nil, err
	}
	if err := tree.check(); err != nil {
		return nil, err
	}
	out := &checkedOut{tree: tree, dir: filepath.Join(j.dir, "checkout"), url: loc.String(), commit: root.commit.String(), time: tree.time}
	if !tree.plain() {
		err := out.writeAll(ctx)
		out.write = func() error { return err }
		return out, err
	}
	// The caller's context may end with the fetch; a checkout that comes later ends with the tree.
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out.write = sync.OnceValue(func() error { return out.writeAll(later) })
	j.tree.close = append(j.tree.close, func() error {
		cancel()
		_ = out.write() // waits for one that is under way; none begins any more
		return nil
	})
	return out, nil
}

// plain tells whether every file is what its object says, so that nothing has to be checked out to know it.
func (t *gitTree) plain() bool {
	for _, p := range t.parts {
		if !p.hints.plain() || p.hints.lfs {
			return false
		}
	}
	return true
}

// writeAll checks the tree out.
func (c *checkedOut) writeAll(ctx context.Context) error {
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return fault.New(fault.Internal, "make checkout: %w", err)
	}
	for _, part := range c.tree.parts {
		if err := part.write(ctx, c.tree, filepath.Join(c.dir, filepath.FromSlash(part.prefix))); err != nil {
			return err
		}
	}
	return c.tree.settle(c.dir)
}

// openRepository finds a repository's commit and gets it. The step tells about it.
func (j *job) openRepository(ctx context.Context, loc location, version, step, username, password string) (repo *repository, err error) {
	started := j.now()
	name := strings.TrimSpace("fetch git " + loc.String() + " " + version)
	j.emit(event.Event{Step: &event.Step{ID: step, Name: name, Started: &started}})
	defer func() {
		completed := j.now()
		done := event.Step{ID: step, Name: name, Started: &started, Completed: &completed}
		if err != nil {
			err = cancelled(ctx, err)
			done.Error = err.Error()
		} else {
			done.Cached = repo.remote != nil && !repo.remote.fetched
		}
		j.emit(event.Event{Step: &done})
	}()
	if j.Egress.Refuses() && loc.scheme != "http" && loc.scheme != "https" {
		return nil, fault.New(fault.Denied, "fetch git %s: this service fetches by http and https only", loc)
	}
	if loc.local() {
		return j.openLocal(loc, version)
	}
	remote := &remote{job: j, loc: loc, username: username, password: password, step: step}
	defer remote.close()
	if err := remote.list(ctx); err != nil {
		return nil, err
	}
	commit, want, err := remote.references().resolve(version)
	if err != nil {
		return nil, missingVersion(loc, version, remote.references(), err)
	}
	if commit.IsZero() {
		version = strings.ToLower(version)
	}
	mirror, err := j.openMirror(loc)
	if err != nil {
		return nil, err
	}
	repo = &repository{job: j, loc: loc, version: version, mirror: mirror, remote: remote, commit: commit, want: want}
	return repo, repo.use(ctx, func(*filesystem.Storage) error { return nil })
}

// prefixed puts a field's name before an error's message.
func prefixed(field string, err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w", field, err)
	}
	return &fault.Error{Kind: f.Kind, Message: field + ": " + f.Message, Hint: f.Hint, Problems: f.Problems, Err: err}
}

// readFile reads a file of the repository, which check has found to be one.
func (c *checkedOut) readFile(ctx context.Context, name string) ([]byte, error) {
	if c.tree.plain() {
		data, err := c.tree.entries[name].read(ctx)
		if err == nil && len(data) > maxDockerfile {
			err = fault.New(fault.Invalid, "Dockerfile %s is larger than %d bytes", name, maxDockerfile)
		}
		return data, err
	}
	if err := c.write(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return nil, fault.New(fault.Internal, "open checkout: %w", err)
	}
	defer root.Close()
	file, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, fault.New(fault.Internal, "read Dockerfile: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxDockerfile+1))
	if err != nil {
		return nil, fault.New(fault.Internal, "read Dockerfile: %w", err)
	}
	if len(data) > maxDockerfile {
		return nil, fault.New(fault.Invalid, "Dockerfile %s is larger than %d bytes", name, maxDockerfile)
	}
	return data, nil
}

// ignoreFile is the ignore file that belongs to a Dockerfile alone and goes before the context's .dockerignore.
func ignoreFile(dockerfile string) string { return dockerfile + ".dockerignore" }

// readIgnoreFile reads the Dockerfile's own ignore file, nil if there is none. It is no link, for what a link
// leads to was not checked.
func (c *checkedOut) readIgnoreFile(ctx context.Context, dockerfile string) ([]byte, error) {
	name := ignoreFile(dockerfile)
	mode, err := c.tree.lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fault.New(fault.Internal, "read %s: %w", name, err)
	case !mode.IsRegular():
		return nil, fault.New(fault.Invalid, "%s is not a regular file", name)
	}
	return c.readFile(ctx, name)
}

// check makes sure that context and Dockerfile are there, and reached without symlinks.
func (t *gitTree) check() error {
	req := t.request
	if err := walk(req.contextField, req.context, false, t.lstat); err != nil {
		var gone *missing
		if errors.As(err, &gone) {
			return noFolder(req.contextField, req.context, gone.component, t.folders(path.Dir(gone.component)))
		}
		return err
	}
	if req.dockerfile == "" {
		return nil
	}
	err := walk(req.field+".dockerfile", req.dockerfile, true, t.lstat)
	var gone *missing
	if !errors.As(err, &gone) {
		return err
	}
	none := fault.New(fault.NotFound, "%s.dockerfile: %s does not exist in %s", req.field, req.dockerfile, t.parts[0].repo.loc)
	if files := rankFiles(t.files(), req.dockerfile); len(files) > 0 {
		return none.WithHint("files there: %s", listed(files))
	}
	return none
}

func (t *gitTree) lstat(name string) (fs.FileMode, error) {
	e, ok := t.entries[name]
	if !ok {
		return 0, fs.ErrNotExist
	}
	switch e.mode {
	case filemode.Dir, filemode.Submodule:
		return fs.ModeDir, nil
	case filemode.Symlink:
		return fs.ModeSymlink, nil
	}
	return 0, nil
}

func (t *gitTree) files() []string {
	var files []string
	for name, e := range t.entries {
		if e.mode.IsFile() && e.mode != filemode.Symlink {
			files = append(files, name)
		}
	}
	return files
}

func (t *gitTree) folders(dir string) []string {
	var folders []string
	for name, e := range t.entries {
		if e.mode == filemode.Dir && path.Dir(name) == dir {
			folders = append(folders, name)
		}
	}
	return folders
}

// saneTime keeps times that no file system or archive can hold out of the checkout: a commit says what it likes.
func saneTime(t time.Time) time.Time {
	if t.Unix() < 0 || t.Year() > 2200 {
		return time.Unix(0, 0)
	}
	return time.Unix(t.Unix(), 0)
}
