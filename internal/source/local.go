package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"imagebuilder/internal/fault"
)

// openLocal opens a repository on this machine's disk: bare, with a work tree, or a linked work tree. It
// is read where it is: its hooks, filters and configuration do nothing, and what is not committed is not seen.
func (j *job) openLocal(loc location, version string) (*repository, error) {
	gitDir, err := findGitDir(loc.path)
	if err != nil {
		return nil, err
	}
	common := gitDir
	if text, err := os.ReadFile(filepath.Join(gitDir, "commondir")); err == nil {
		common = from(gitDir, strings.TrimSpace(string(text)))
	}
	config, err := openStorage(common).Config()
	if err != nil {
		return nil, fault.New(fault.NotFound, "repository %s: its configuration cannot be read: %w", loc, err)
	}
	extensions := config.Raw.Section("extensions")
	if format := extensions.Option("objectformat"); format != "" && format != "sha1" {
		return nil, fault.New(fault.Invalid, "repository %s: object format %s is not supported", loc, format)
	}
	if format := extensions.Option("refstorage"); format != "" && format != "files" {
		return nil, fault.New(fault.Invalid, "repository %s: reference storage %s is not supported", loc, format)
	}
	refs, err := localReferences(gitDir, common)
	if err != nil {
		return nil, fault.New(fault.NotFound, "repository %s: its references cannot be read: %w", loc, err)
	}
	if len(refs.refs) == 0 && refs.head.IsZero() {
		return nil, fault.New(fault.NotFound, "repository %s is empty", loc).WithHint("commit something to it")
	}
	repo := &repository{job: j, loc: loc, version: version, local: common}
	commit, _, err := refs.resolve(version)
	if err == nil && commit.IsZero() {
		commit, err = findShort(openStorage(common), strings.ToLower(version))
	}
	if err != nil {
		return nil, missingVersion(loc, version, refs, err)
	}
	if !has(openStorage(common), commit) {
		return nil, missingVersion(loc, version, refs, nil)
	}
	repo.commit = commit
	return repo, nil
}

// findGitDir finds the git folder of a path as git does for the path itself, but not in its parents.
func findGitDir(path string) (string, error) {
	dotGit := filepath.Join(path, ".git")
	info, err := os.Stat(dotGit)
	switch {
	case err == nil && info.IsDir():
		return dotGit, nil
	case err == nil:
		text, err := os.ReadFile(dotGit)
		if target, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: "); err == nil && ok {
			return from(path, target), nil
		}
	case errors.Is(err, fs.ErrPermission):
		return "", fault.New(fault.Denied, "open repository %s: %w", path, fs.ErrPermission)
	}
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			return "", fault.New(fault.NotFound, "open repository %s: there is no git repository", path).
				WithHint("for a folder that is no repository use a Dockerfile with build_context.path")
		}
	}
	return path, nil
}

func from(base, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}

// localReferences reads the references in a git folder. HEAD is the work tree's, the others are common to all.
func localReferences(gitDir, common string) (*references, error) {
	refs := &references{refs: map[string]plumbing.Hash{}, peeled: map[string]plumbing.Hash{}}
	st := openStorage(common)
	iter, err := st.IterReferences()
	if err != nil {
		return refs, err
	}
	err = iter.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() != plumbing.HashReference || ref.Name() == plumbing.HEAD {
			return nil
		}
		name := ref.Name().String()
		refs.refs[name] = ref.Hash()
		if peeled := peel(st, ref.Hash()); peeled != ref.Hash() {
			refs.peeled[name] = peeled
		}
		return nil
	})
	if err != nil {
		return refs, err
	}
	head, err := openStorage(gitDir).Reference(plumbing.HEAD)
	switch {
	case err != nil:
		return refs, err
	case head.Type() == plumbing.HashReference:
		refs.head = head.Hash()
	default:
		refs.head = refs.refs[head.Target().String()]
	}
	return refs, nil
}
