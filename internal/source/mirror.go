package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/gofrs/flock"

	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
)

const (
	// lockPoll is how often a mirror's lock is tried while another run has it; flock itself cannot be cancelled.
	lockPoll = 50 * time.Millisecond
	// maxPacks is how many packs a mirror may have. Each fetch adds one, and each slows reading a
	// little; beyond this a new shallow fetch is cheaper than looking through them all.
	maxPacks = 50
	// mirrorFolder is the folder in CacheDir; the number changes when what is in it does.
	mirrorFolder = "git-1"
)

// mirror is a bare repository in the cache that has the commits that were asked for, without history
// where that can be helped. It belongs to whoever holds its lock.
type mirror struct {
	dir string
}

// openMirror gives the mirror of a URL. Without a cache it is one of this run.
func (j *job) openMirror(loc location) (*mirror, error) {
	sum := sha256.Sum256([]byte(loc.String()))
	parent := filepath.Join(j.dir, "mirrors")
	if j.CacheDir != "" {
		parent = filepath.Join(j.CacheDir, mirrorFolder)
	}
	// Repositories may be private: nobody else reads their mirrors.
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fault.New(fault.Internal, "make the cache of repositories: %w", err)
	}
	return &mirror{dir: filepath.Join(parent, hex.EncodeToString(sum[:]))}, nil
}

// locked runs fn while no other run, of this or another process, uses the mirror.
func (m *mirror) locked(ctx context.Context, fn func() error) error {
	lock := flock.New(m.dir+".lock", flock.SetPermissions(0o600))
	if ok, err := lock.TryLockContext(ctx, lockPoll); !ok {
		if ctx.Err() != nil {
			return cancelled(ctx, err)
		}
		return fault.New(fault.Internal, "lock mirror: %w", err)
	}
	defer lock.Close()
	return fn()
}

// open opens the mirror and makes it, or makes it anew, if it is not usable.
func (m *mirror) open() (*filesystem.Storage, error) {
	st := openStorage(m.dir)
	if _, err := st.Reference(plumbing.HEAD); err == nil {
		return st, nil
	}
	if err := m.wipe(); err != nil {
		return nil, err
	}
	if err := st.Init(); err != nil {
		return nil, fault.New(fault.Internal, "make mirror: %w", err)
	}
	// The git executable wants a configuration; ours says nothing of the URL or who asks for it.
	config := []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
	err := errors.Join(
		os.Chmod(m.dir, 0o700),
		os.WriteFile(filepath.Join(m.dir, "config"), config, 0o600),
		st.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, "refs/heads/none")),
	)
	if err != nil {
		return nil, fault.New(fault.Internal, "make mirror: %w", err)
	}
	return st, nil
}

func (m *mirror) wipe() error {
	if err := os.RemoveAll(m.dir); err != nil {
		return fault.New(fault.Internal, "remove damaged mirror: %w", err)
	}
	return nil
}

// tidy removes what fetches that were killed left behind, and tells whether the mirror has grown too many packs.
func (m *mirror) tidy() (full bool) {
	packs := filepath.Join(m.dir, "objects", "pack")
	leftovers, _ := filepath.Glob(filepath.Join(packs, "tmp_*"))
	locks, _ := filepath.Glob(filepath.Join(m.dir, "*.lock"))
	for _, name := range append(leftovers, locks...) {
		_ = os.Remove(name)
	}
	files, _ := filepath.Glob(filepath.Join(packs, "*.pack"))
	return len(files) > maxPacks
}

// sound tells whether the mirror may be built upon: a server that is told what the mirror has does not
// send it again. What is inside the packs shows when it is read.
func (m *mirror) sound(st *filesystem.Storage) (ok bool) {
	defer func() {
		if recover() != nil { // go-git, over a broken index
			ok = false
		}
	}()
	packs, _ := filepath.Glob(filepath.Join(m.dir, "objects", "pack", "*.pack"))
	indexes, _ := filepath.Glob(filepath.Join(m.dir, "objects", "pack", "*.idx"))
	if len(packs) != len(indexes) {
		return false
	}
	if _, err := st.HashesWithPrefix([]byte{0}); err != nil { // reads every index
		return false
	}
	known, err := st.Shallow()
	for _, h := range known {
		if !has(st, h) {
			return false
		}
	}
	return err == nil
}

// repository is a repository at a commit: a mirror, or one on this machine's disk.
type repository struct {
	job     *job
	loc     location
	version string
	mirror  *mirror
	remote  *remote       // of a mirror
	local   string        // git folder of a repository on disk
	commit  plumbing.Hash // zero until it is known
	want    plumbing.Hash // what to ask the server for: the commit, or an annotated tag on it
}

// objects is the folder with the repository's objects, for the git executable.
func (r *repository) objects() string {
	if r.mirror != nil {
		return filepath.Join(r.mirror.dir, "objects")
	}
	return filepath.Join(r.local, "objects")
}

// use runs fn on the repository with the commit in it. A mirror is locked meanwhile, so that fn uses
// no other repository; where fn finds it damaged, it is fetched anew and fn is run once more.
func (r *repository) use(ctx context.Context, fn func(*filesystem.Storage) error) error {
	if r.mirror == nil {
		err := fn(openStorage(r.local))
		var broken *damage
		if errors.As(err, &broken) {
			return fault.New(fault.NotFound, "repository %s: %w", r.loc, broken.err).
				WithHint("it is damaged, or a partial clone: run git fsck there")
		}
		return err
	}
	return r.mirror.locked(ctx, func() error {
		err := r.once(ctx, fn)
		var broken *damage
		if !errors.As(err, &broken) || ctx.Err() != nil {
			return err
		}
		if err := r.mirror.wipe(); err != nil {
			return err
		}
		if err = r.once(ctx, fn); errors.As(err, &broken) {
			return fault.New(fault.NotFound, "fetch git %s: what the server sends is damaged: %w", r.loc, broken.err)
		}
		return err
	})
}

func (r *repository) once(ctx context.Context, fn func(*filesystem.Storage) error) error {
	st, err := r.mirror.open()
	if err != nil {
		return err
	}
	if st, err = r.ensure(ctx, st); err != nil {
		return err
	}
	return fn(st)
}

// abbreviation is the reference that remembers what a short commit id stood for.
func abbreviation(short string) plumbing.ReferenceName {
	return plumbing.ReferenceName("refs/abbreviations/" + short)
}

// ensure gets the commit into the mirror, in the cheapest way that the server allows.
func (r *repository) ensure(ctx context.Context, st *filesystem.Storage) (*filesystem.Storage, error) {
	if r.commit.IsZero() {
		if ref, err := st.Reference(abbreviation(r.version)); err == nil {
			r.commit, r.want = ref.Hash(), ref.Hash()
		}
	}
	if !r.commit.IsZero() && has(st, r.commit) {
		return st, nil
	}
	if r.mirror.tidy() || !r.mirror.sound(st) {
		if err := r.mirror.wipe(); err != nil {
			return nil, err
		}
		fresh, err := r.mirror.open()
		if err != nil {
			return nil, err
		}
		st = fresh
	}
	if err := r.get(ctx, st); err != nil {
		return nil, err
	}
	st = openStorage(r.mirror.dir)
	if r.commit.IsZero() {
		found, err := findShort(st, r.version)
		if err != nil {
			return nil, r.noVersion(err)
		}
		r.commit, r.want = found, found
		ref := plumbing.NewHashReference(abbreviation(r.version), found)
		if err := st.SetReference(ref); err != nil {
			return nil, fmt.Errorf("write mirror of %s: %w", r.loc, err)
		}
	}
	if !has(st, r.commit) {
		return nil, r.noVersion(nil)
	}
	return st, nil
}

func (r *repository) get(ctx context.Context, st *filesystem.Storage) error {
	if !r.commit.IsZero() && r.remote.refs == nil {
		if err := r.remote.list(ctx); err != nil {
			return err
		}
	}
	known := !r.commit.IsZero()
	if known && r.remote.serves(r.want) {
		return r.remote.fetch(ctx, st, []plumbing.Hash{r.want}, false)
	}
	if git, ok := r.job.gitFor(r.loc); ok {
		err := git.fetch(ctx, r, known)
		if err == nil || ctx.Err() != nil {
			r.remote.fetched = true
			return cancelled(ctx, err)
		}
		if known && r.job.lacks(err) {
			return r.noVersion(nil)
		}
		if refused := egress.Refusal(err); refused != nil {
			return fault.Wrap(refused, "fetch git %s", r.loc)
		}
	}
	return r.remote.fetch(ctx, st, r.remote.allTips(), true)
}

// findShort finds the one commit whose id starts with short.
func findShort(st *filesystem.Storage, short string) (hash plumbing.Hash, err error) {
	defer func() {
		if p := recover(); p != nil { // go-git, over a broken index
			err = &damage{fmt.Errorf("look for %s: %v", short, p)}
		}
	}()
	even, err := hex.DecodeString(short[:len(short)&^1])
	if err != nil {
		return plumbing.ZeroHash, err
	}
	hashes, err := st.HashesWithPrefix(even)
	if err != nil {
		return plumbing.ZeroHash, &damage{err}
	}
	found := map[plumbing.Hash]bool{}
	for _, h := range hashes {
		if len(h.String()) < len(short) || h.String()[:len(short)] != short {
			continue
		}
		if _, err := st.EncodedObject(plumbing.CommitObject, h); err == nil {
			found[h] = true
		}
	}
	if len(found) > 1 {
		return plumbing.ZeroHash, fmt.Errorf("%d commits start with it", len(found))
	}
	for h := range found {
		return h, nil
	}
	return plumbing.ZeroHash, errors.New("no commit starts with it")
}
