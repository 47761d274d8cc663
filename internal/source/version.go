package source

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"imagebuilder/internal/fault"
)

// hexID matches a full or a short commit id. Seven digits are git's own default for a short one: with fewer,
// even small repositories have two commits that match, if not today then tomorrow.
var hexID = regexp.MustCompile(`^[0-9a-fA-F]{7,40}$`)

// references are a repository's names for commits.
type references struct {
	head   plumbing.Hash            // zero if HEAD names nothing
	refs   map[string]plumbing.Hash // full name → what it points to
	peeled map[string]plumbing.Hash // full name → commit, for annotated tags
}

// resolve finds what a version stands for. In this order: HEAD; a full name such as refs/pull/1/head; a
// branch; a tag; heads/NAME and tags/NAME; a commit id, full or short. So a branch wins over a tag of its name, and
// both over a commit.
//
// want is the object that the name points to, which for an annotated tag is not the commit. Both are zero
// for a short id that only the history can tell; a full id need not be in the repository.
func (r *references) resolve(version string) (commit, want plumbing.Hash, err error) {
	if version == "" || version == "HEAD" {
		if r.head.IsZero() {
			return commit, want, errNoVersion
		}
		return r.head, r.head, nil
	}
	for _, prefix := range []string{"", "refs/heads/", "refs/tags/", "refs/"} {
		name := prefix + version
		hash, ok := r.refs[name]
		if !ok || !strings.HasPrefix(name, "refs/") {
			continue
		}
		if peeled, ok := r.peeled[name]; ok {
			return peeled, hash, nil
		}
		return hash, hash, nil
	}
	if !hexID.MatchString(version) {
		return commit, want, errNoVersion
	}
	version = strings.ToLower(version)
	if len(version) == 40 {
		h := plumbing.NewHash(version)
		return h, r.asks(h), nil
	}
	tips := map[plumbing.Hash]bool{}
	for name, h := range r.refs {
		if peeled, ok := r.peeled[name]; ok {
			h = peeled
		}
		if strings.HasPrefix(h.String(), version) {
			tips[h] = true
		}
	}
	if len(tips) == 1 {
		for h := range tips {
			return h, r.asks(h), nil
		}
	}
	return commit, want, nil
}

// asks is what to ask a server for to get a commit: itself, or an annotated tag on it when nothing else points to it.
func (r *references) asks(commit plumbing.Hash) plumbing.Hash {
	want := commit
	for name, h := range r.refs {
		if h == commit {
			return commit
		}
		if r.peeled[name] == commit {
			want = h
		}
	}
	return want
}

// names are the branches and tags without refs/heads/ and refs/tags/.
func (r *references) names() []string {
	var names []string
	for full := range r.refs {
		for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
			if name, ok := strings.CutPrefix(full, prefix); ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var errNoVersion = errors.New("no such branch, tag or commit")

// references of a server, as it advertised them.
func (r *remote) references() *references {
	refs := &references{refs: map[string]plumbing.Hash{}, peeled: map[string]plumbing.Hash{}}
	if r.refs.Head != nil {
		refs.head = *r.refs.Head
	}
	for name, h := range r.refs.References {
		refs.refs[name] = h
	}
	for name, h := range r.refs.Peeled {
		refs.peeled[name] = h
	}
	return refs
}

// allTips is what all branches and tags point to, for a fetch of the whole history.
func (r *remote) allTips() []plumbing.Hash {
	var tips []plumbing.Hash
	for name, h := range r.refs.References {
		if strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/") {
			tips = append(tips, h)
		}
	}
	return tips
}

// noVersion is the error for a version that the repository does not have.
func (r *repository) noVersion(reason error) error {
	refs := &references{}
	if r.remote != nil && r.remote.refs != nil {
		refs = r.remote.references()
	} else if r.mirror == nil {
		refs, _ = localReferences(r.local, r.local)
	}
	return missingVersion(r.loc, r.version, refs, reason)
}

func missingVersion(loc location, version string, refs *references, reason error) error {
	names := refs.names()
	if version == "" || version == "HEAD" {
		return fault.New(fault.NotFound, "fetch git %s: HEAD names a branch that does not exist", loc).
			WithHint("give a version; branches and tags: %s", listed(names))
	}
	if reason == nil || errors.Is(reason, errNoVersion) {
		reason = errNoVersion
	}
	err := fault.New(fault.NotFound, "fetch git %s: version %s: %w", loc, version, reason)
	switch near := nearest(names, version); {
	case len(near) > 0:
		return err.WithHint("did you mean %s?", strings.Join(near[:min(len(near), maxNear)], ", "))
	case len(names) > 0:
		return err.WithHint("branches and tags: %s", listed(names))
	}
	return err
}

// maxNear is how many names a "did you mean" offers: with more it is no help.
const maxNear = 3
