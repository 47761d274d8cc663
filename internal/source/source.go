// Package source fetches what a document says to build: a git repository, a Dockerfile by URL, or a
// Dockerfile with a build context. What it returns is a file system of the context, the Dockerfile's
// bytes, and what identifies both.
//
// Nothing outside the checkout is ever read, and a tree that cannot be had as git would check it out is
// an error, never a tree that is silently wrong. It builds nothing, parses no Dockerfile, and keeps
// credentials in memory only.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/egress"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// Fetcher fetches sources. Its zero value works for the process's own user, without a cache.
// It may be used by several goroutines at once, and by several processes with the same CacheDir.
type Fetcher struct {
	// CacheDir holds mirrors of repositories, one folder for each URL; it is made with mode 0700 and
	// never holds credentials. "" keeps no mirrors.
	CacheDir string
	// WorkDir is what relative paths of the document are relative to; "" is the working directory.
	WorkDir string
	// LookPath finds the executables git and git-lfs, which do what go-git cannot. nil means exec.LookPath.
	LookPath func(file string) (string, error)
	// HTTPClient gives the Transport for http(s); nil takes one with this package's timeouts and the proxies of
	// the environment. Its CheckRedirect and Jar are not used.
	HTTPClient *http.Client
	// Env looks a variable of the environment up, "" when it is not set: HOME, SSH_AUTH_SOCK,
	// SSH_KNOWN_HOSTS, PATH, SSL_CERT_FILE and proxies. nil means os.Getenv.
	Env func(name string) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Egress bounds what is connected to; nil is everywhere. Where it refuses anything, sources come by http and https
	// only: not by ssh, which has the keys of whoever runs this, and not from this machine's disk.
	Egress *egress.Guard
}

// Credentials are the revealed secrets of a document's source. The user names stand in the document.
type Credentials struct {
	GitPassword        string // source.git_repo.password
	DockerfilePassword string // source.dockerfile.password
	ContextPassword    string // source.build_context.password
}

// Tree is a fetched source.
type Tree struct {
	// Context is what the build sees: workdir of a repository, subdir of a build context, or nothing.
	// User and group of all files are 0, as docker build has it.
	Context fsutil.FS
	// Outline, if not nil, stands for Context where only the question is whether anything in it has changed: it has the same
	// paths, modes and links, and files that differ where those of Context do. Context is then checked out when it is
	// first walked, and what goes wrong with that is an error of Walk.
	Outline fsutil.FS
	// ContextKey identifies Context for BuildKit's SharedKey: two contexts with different content, of
	// which one could be taken for the other by sizes and times, never share it. It is never "".
	ContextKey string
	// Dockerfile is the Dockerfile's content.
	Dockerfile []byte
	// Dockerignore is the Dockerfile's own ignore file (NAME.dockerignore), nil if it has none. It goes before the
	// context's .dockerignore.
	Dockerignore []byte
	// DockerfileName is what the user calls it, for error messages: a path in the repository or a URL.
	DockerfileName string
	// URL is the repository's, or else the Dockerfile's, without credentials and query.
	URL string
	// Commit is the full id of what was checked out of git_repo or build_context; "" if there is no repository.
	Commit string
	// CommitTime is when that commit was made; zero if there is none.
	CommitTime time.Time

	close []func() error
}

// Close lets go of the context and removes what Fetch made. It may be called more than once.
func (t *Tree) Close() error {
	var errs []error
	for i := len(t.close) - 1; i >= 0; i-- {
		errs = append(errs, t.close[i]())
	}
	t.close = nil
	return errors.Join(errs...)
}

// Fetch fetches src. dir is an existing private folder of the caller; what Fetch makes there is
// gone after Tree.Close, or when Fetch fails. secrets may be nil.
//
// Errors are faults: Invalid for paths and URLs that are refused, Denied for credentials, NotFound for what is not
// there, Unavailable for what does not answer, Cancelled when ctx ends.
func (f *Fetcher) Fetch(ctx context.Context, src buildparams.Source, secrets *Credentials, dir string, emit event.Sink) (*Tree, error) {
	if secrets == nil {
		secrets = &Credentials{}
	}
	if emit == nil {
		emit = event.Discard
	}
	tmp, err := os.MkdirTemp(dir, "source-")
	if err != nil {
		return nil, fault.New(fault.Internal, "make a folder for the source: %w", err)
	}
	j := &job{
		Fetcher: f,
		dir:     tmp,
		emit:    emit,
	}
	// In reverse order: the proxy ends after what may use it.
	j.tree = &Tree{close: []func() error{func() error { return os.RemoveAll(tmp) }, j.proxy.close}}
	j.hide(secrets.GitPassword, secrets.DockerfilePassword, secrets.ContextPassword)
	switch {
	case src.GitRepo != nil && src.Dockerfile == nil && src.BuildContext == nil:
		err = j.fromRepository(ctx, *src.GitRepo, secrets.GitPassword)
	case src.Dockerfile != nil && src.GitRepo == nil:
		err = j.fromDockerfile(ctx, src, secrets)
	default:
		err = fault.New(fault.Invalid, "source: exactly one of git_repo and dockerfile is needed, and build_context goes with dockerfile")
	}
	if err != nil {
		err = errors.Join(cancelled(ctx, err), j.tree.Close())
		return nil, fault.As(err)
	}
	return j.tree, nil
}

// job is one Fetch.
type job struct {
	*Fetcher
	dir     string
	emit    event.Sink
	secrets []string
	hidden  *strings.Replacer // takes secrets out of text that others wrote
	tree    *Tree
	home    *location // where the document's credentials for git may go
	proxy   gitProxy
}

// fromRepository is source.git_repo: code, Dockerfile and context of one repository.
func (j *job) fromRepository(ctx context.Context, repo buildparams.GitRepo, password string) error {
	dockerfile, err := cleanPath("source.git_repo.dockerfile", orDefault(repo.Dockerfile, "Dockerfile"))
	if err != nil {
		return err
	}
	workdir, err := cleanPath("source.git_repo.workdir", repo.Workdir)
	if err != nil {
		return err
	}
	out, err := j.checkout(ctx, checkoutRequest{
		field: "source.git_repo", url: repo.URL, version: repo.Version, username: repo.Username, password: password,
		context: workdir, contextField: "source.git_repo.workdir", dockerfile: dockerfile,
	})
	if err != nil {
		return err
	}
	if j.tree.Dockerfile, err = out.readFile(ctx, dockerfile); err != nil {
		return err
	}
	if j.tree.Dockerignore, err = out.readIgnoreFile(ctx, dockerfile); err != nil {
		return err
	}
	if err := j.setContext(ctx, out, workdir); err != nil {
		return err
	}
	j.tree.DockerfileName = dockerfile
	j.tree.URL, j.tree.Commit, j.tree.CommitTime = out.url, out.commit, out.time
	j.tree.ContextKey = contextKey("git", out.url, out.commit, workdir)
	return nil
}

// fromDockerfile is source.dockerfile, alone or on a build context.
func (j *job) fromDockerfile(ctx context.Context, src buildparams.Source, secrets *Credentials) error {
	name, data, err := j.fetchDockerfile(ctx, *src.Dockerfile, secrets.DockerfilePassword)
	if err != nil {
		return err
	}
	j.tree.Dockerfile, j.tree.DockerfileName, j.tree.URL = data, name, name
	bc := src.BuildContext
	if bc == nil {
		j.tree.Context, j.tree.ContextKey = emptyFS{}, contextKey("empty")
		return nil
	}
	subdir, err := cleanPath("source.build_context.subdir", bc.Subdir)
	if err != nil {
		return err
	}
	var fsys fsutil.FS
	switch {
	case bc.URL != "" && bc.Path == "":
		out, err := j.checkout(ctx, checkoutRequest{
			field: "source.build_context", url: bc.URL, version: bc.Version, username: bc.Username,
			password: secrets.ContextPassword, context: subdir, contextField: "source.build_context.subdir",
		})
		if err != nil {
			return err
		}
		if err := j.setContext(ctx, out, subdir); err != nil {
			return err
		}
		fsys = j.tree.Context
		j.tree.URL, j.tree.Commit, j.tree.CommitTime = out.url, out.commit, out.time
		j.tree.ContextKey = contextKey("git+dockerfile", out.url, out.commit, subdir, string(data))
	case bc.Path != "" && bc.URL == "":
		if err := j.refuseLocal("source.build_context.path"); err != nil {
			return err
		}
		root, err := j.localContext(bc.Path, subdir)
		if err != nil {
			return err
		}
		if fsys, err = j.openContext(root, subdir); err != nil {
			return err
		}
		j.tree.ContextKey = contextKey("folder", root, subdir, machine())
	default:
		return fault.New(fault.Invalid, "source.build_context: exactly one of url and path is needed")
	}
	if subdir == "." {
		fsys = withDockerfile(fsys, data)
		if j.tree.Outline != nil {
			j.tree.Outline = withDockerfile(j.tree.Outline, data)
		}
	}
	j.tree.Context = fsys
	return nil
}

// setContext makes a folder of a repository the context. Where attributes or git-lfs change files as they are checked
// out, only the checkout tells what is in them.
func (j *job) setContext(ctx context.Context, out *checkedOut, sub string) error {
	lazy := j.gitContext(ctx, out, sub)
	j.tree.Context = lazy
	if !out.tree.plain() {
		_, err := lazy.below()
		return err
	}
	var err error
	j.tree.Outline, err = newOutline(lazy)
	return err
}

// contextKey hashes parts such that no two lists of parts give the same text to hash.
func contextKey(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return "imagebuilder-" + hex.EncodeToString(h.Sum(nil))
}

// machine tells this machine from others that use the same BuildKit, and containers on it from each other.
func machine() string {
	id, _ := os.ReadFile("/etc/machine-id")
	host, _ := os.Hostname()
	return strings.TrimSpace(string(id)) + "/" + host
}

// cancelled makes an error Cancelled when ctx was cancelled, whatever the part that noticed says about it.
func cancelled(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fault.New(fault.Cancelled, "fetch source: %w", context.Canceled)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault.New(fault.Unavailable, "fetch source: time is up: %w", context.DeadlineExceeded)
	}
	return err
}

// hide adds secrets to those that are taken out of text that others wrote.
func (j *job) hide(secrets ...string) {
	for _, s := range secrets {
		if s != "" {
			j.secrets = append(j.secrets, s, "****")
		}
	}
	j.hidden = strings.NewReplacer(j.secrets...)
}

func (f *Fetcher) env(name string) string {
	if f.Env == nil {
		return os.Getenv(name)
	}
	return f.Env(name)
}

func (f *Fetcher) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

func (f *Fetcher) lookPath(file string) (string, bool) {
	look := f.LookPath
	if look == nil {
		look = exec.LookPath
	}
	path, err := look(file)
	if err != nil {
		return "", false
	}
	path, err = filepath.Abs(path)
	return path, err == nil
}

// absolute makes a path of the document absolute.
func (f *Fetcher) absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	return filepath.Abs(filepath.Join(f.WorkDir, path))
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
