package testbed

import (
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Site is what builds are made from and where they go: a git server and a registry.
type Site struct {
	Registry *Registry
	Git      *GitServer
	GitRoot  string // folder of the repositories that Git serves
	CacheDir string // for the mirrors of an image-builder
}

// NewSite starts both for as long as a test runs.
func NewSite(t T, options RegistryOptions) *Site {
	t.Helper()
	s := &Site{Registry: NewRegistry(t, options), GitRoot: t.TempDir(), CacheDir: t.TempDir()}
	var err error
	if s.Git, err = StartGit(s.GitRoot, GitOptions{}); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Git.Close)
	return s
}

// Repository makes a git repository of files and gives its URL and commit.
func (s *Site) Repository(t T, name string, files fs.FS) (url, commit string) {
	t.Helper()
	commit, err := InitRepo(files, filepath.Join(s.GitRoot, name), RepoOptions{})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s.Git.URL + "/" + name, commit
}

// Tags are the tags of a repository in the registry, sorted, none when the registry does not know it.
func (s *Site) Tags(t T, repository string) []string {
	t.Helper()
	repo, err := name.NewRepository(s.Registry.Host + "/" + repository)
	if err != nil {
		t.Fatalf("%v", err)
	}
	tags, err := remote.List(repo)
	if err != nil && !strings.Contains(err.Error(), "NAME_UNKNOWN") {
		t.Fatalf("%v", err)
	}
	slices.Sort(tags)
	return tags
}

// OutsideAddress is an address for a server that is not on loopback, though nobody but this machine need reach it.
func OutsideAddress(t T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String() + ":0"
		}
	}
	t.Fatalf("this machine has no address besides loopback")
	return ""
}
