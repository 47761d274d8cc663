package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/tail"
)

// killWait is how long output of a killed git is waited for.
const killWait = 2 * time.Second

// passed are the variables that git gets of our environment: where programs are, and how to reach the network.
var passed = [...]string{
	"PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
}

// gitExecutable runs git on repositories that may be hostile, for what go-git cannot do: neither the
// user's nor the repository's configuration, hooks and filters have a say.
type gitExecutable struct {
	job      *job
	path     string
	settings [][2]string
	env      []string
	dir      string
}

// gitFor is the git executable for a repository on a server, if there is one. Over ssh go-git does all:
// two programs with two ideas of keys and known hosts would be one too many.
func (j *job) gitFor(loc location) (*gitExecutable, bool) {
	if loc.scheme == "ssh" {
		return nil, false
	}
	return j.git()
}

func (j *job) git() (*gitExecutable, bool) {
	file, ok := j.lookPath("git")
	if !ok {
		return nil, false
	}
	g := &gitExecutable{job: j, path: file, dir: j.dir, settings: [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"core.attributesFile", "/dev/null"},
		{"core.autocrlf", "false"},
		{"core.eol", "lf"},
		{"core.symlinks", "true"},
		{"core.fileMode", "true"},
		{"core.askPass", ""},
		{"credential.helper", ""},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"submodule.recurse", "false"},
		{"fetch.recurseSubmodules", "false"},
		{"http.followRedirects", "initial"},
		{"protocol.allow", "never"},
		{"protocol.http.allow", "always"},
		{"protocol.https.allow", "always"},
	}}
	for _, name := range passed {
		if j.Egress.Refuses() && strings.HasSuffix(strings.ToLower(name), "_proxy") {
			continue // connections are led through our own proxy, which knows about that one
		}
		if value := j.env(name); value != "" {
			g.env = append(g.env, name+"="+value)
		}
	}
	if j.Egress.Refuses() {
		g.env = append(g.env, noProtocol) // until guard is called
	}
	if file := j.env("SSL_CERT_FILE"); file != "" {
		g.env = append(g.env, "GIT_SSL_CAINFO="+file)
	}
	g.env = append(g.env,
		"HOME="+j.dir, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_PROTOCOL_FROM_USER=0",
	)
	return g, true
}

// credentials lets git ask for the password when, and only when, it talks to the origin that it is for. It
// stands in the environment of git and what it starts: not in arguments, files or configuration.
func (g *gitExecutable) credentials(origin, username, password string) {
	if username+password == "" {
		return
	}
	g.env = append(g.env, "SOURCE_USERNAME="+username, "SOURCE_PASSWORD="+password)
	helper := `!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$SOURCE_USERNAME" "$SOURCE_PASSWORD"; }; f`
	g.settings = append(g.settings, [2]string{"credential." + origin + ".helper", helper})
}

// run runs git to its end. When ctx ends, git and all that it has started are killed; so they are
// when this process is.
func (g *gitExecutable) run(ctx context.Context, stdin io.Reader, args ...string) error {
	cmd := exec.CommandContext(ctx, g.path, args...)
	cmd.Dir = g.dir
	cmd.Env = append(append([]string{}, g.env...), fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(g.settings)))
	for i, s := range g.settings {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	cmd.Stdin = stdin
	stderr := &tail.Tail{}
	cmd.Stderr = stderr
	endTogether(cmd)
	cmd.WaitDelay = killWait
	// On Linux git is killed when the thread that started it ends, so the thread must not end first.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("git %s: %w: %s", args[0], err, g.job.hidden.Replace(lastLines(stderr.String())))
}

// lastLines are the last lines of what a program said, on one line.
func lastLines(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	lines = lines[max(0, len(lines)-3):]
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// lacks tells whether git said that the server has no such object, so that a fetch of everything would not help either.
func (j *job) lacks(err error) bool {
	return strings.Contains(err.Error(), "upload-pack: not our ref")
}

// fetch gets the commit into the mirror without history, or all history when the commit is not known.
func (g *gitExecutable) fetch(ctx context.Context, r *repository, known bool) error {
	if err := g.guard(); err != nil {
		return err
	}
	g.credentials(r.loc.origin(), r.remote.username, r.remote.password)
	args := []string{"--git-dir=" + r.mirror.dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"}
	if known {
		args = append(args, "--depth=1", "--", r.loc.String(), r.commit.String())
	} else {
		// The greatest depth makes the repository whole, and unlike --unshallow it may be whole already.
		args = append(args, "--depth=2147483647", "--", r.loc.String(), "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	}
	return g.job.proxy.refused(g.run(ctx, nil, args...))
}

// store puts a pack that a server sends into the mirror. go-git does that too, in three times as long.
func (g *gitExecutable) store(ctx context.Context, mirror string, pack io.Reader) error {
	return g.run(ctx, pack, "--git-dir="+mirror, "index-pack", "--stdin", "--fix-thin")
}

// writeWithGit checks the part out with the git executable, which knows .gitattributes and filters.
func (p *part) writeWithGit(ctx context.Context, st *filesystem.Storage, pointers []string, dir string) error {
	at := func(name string) string { return path.Join(p.prefix, name) }
	j := p.repo.job
	g, ok := j.git()
	if !ok && len(pointers) == 0 {
		return fault.New(fault.Invalid, "check out %s: %s needs the git executable, and there is none", p.repo.loc, at(p.hints.convert)).
			WithHint("install git")
	}
	lfs, haveLFS := j.lookPath("git-lfs")
	if len(pointers) > 0 && (!ok || !haveLFS) {
		return fault.New(fault.Invalid, "check out %s: %s is kept in Git LFS, and git-lfs is not installed", p.repo.loc, at(pointers[0])).
			WithHint("install git and git-lfs, or leave the file out of the context")
	}
	// git itself believes what is in a pack; a damaged mirror shows here.
	var files strings.Builder
	for _, e := range p.entries {
		if e.mode == filemode.Dir || e.mode == filemode.Submodule {
			continue
		}
		if err := copyObject(st, plumbing.BlobObject, e.hash, discard{}); err != nil {
			return err
		}
		files.WriteString(e.path + "\x00")
	}
	scratch, err := g.scratch(p.repo.objects(), dir)
	if err != nil {
		return fault.New(fault.Internal, "check out %s: %w", p.repo.loc, err)
	}
	defer os.RemoveAll(scratch)
	if len(pointers) > 0 {
		g.useLFS(lfs, p.repo)
	}
	err = g.run(ctx, nil, "read-tree", p.repo.commit.String())
	if err == nil {
		err = g.run(ctx, strings.NewReader(files.String()), "checkout-index", "--force", "-z", "--stdin")
	}
	if err != nil {
		if ctx.Err() != nil {
			return cancelled(ctx, err)
		}
		return fault.New(fault.Unavailable, "check out %s: %w", p.repo.loc, err)
	}
	for _, e := range p.entries {
		if e.mode == filemode.Submodule {
			if err := os.MkdirAll(filepath.Join(dir, e.path), 0o755); err != nil {
				return fault.New(fault.Internal, "check out %s: %w", p.repo.loc, err)
			}
		}
	}
	return p.checkPointers(pointers, dir)
}

// scratch makes a git folder of our own that borrows the repository's objects, so that nothing else of it counts.
func (g *gitExecutable) scratch(objects, workTree string) (string, error) {
	dir, err := os.MkdirTemp(g.job.dir, "git-")
	if err != nil {
		return "", err
	}
	err = errors.Join(
		os.MkdirAll(filepath.Join(dir, "objects", "info"), 0o700),
		os.MkdirAll(filepath.Join(dir, "refs"), 0o700),
		os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/none\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "objects", "info", "alternates"), []byte(objects+"\n"), 0o600),
	)
	g.env = append(g.env, "GIT_DIR="+dir, "GIT_WORK_TREE="+workTree, "GIT_INDEX_FILE="+filepath.Join(dir, "index"))
	g.dir = workTree
	return dir, err
}

func (g *gitExecutable) useLFS(lfs string, repo *repository) {
	url := repo.loc.String()
	if repo.remote != nil {
		g.credentials(repo.loc.origin(), repo.remote.username, repo.remote.password)
	} else {
		url = "file://" + url
	}
	quoted := "'" + strings.ReplaceAll(lfs, "'", `'\''`) + "'"
	g.settings = append(g.settings,
		[2]string{"filter.lfs.smudge", quoted + " smudge -- %f"},
		[2]string{"filter.lfs.process", quoted + " filter-process"},
		[2]string{"filter.lfs.required", "true"},
		[2]string{"remote.origin.url", url},
		[2]string{"lfs.transfer.maxretries", "2"}, // of 8, with growing pauses: half a minute for a file that is not there
	)
}

func (p *part) checkPointers(pointers []string, dir string) error {
	for _, name := range pointers {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || bytes.HasPrefix(data, []byte(lfsStart)) {
			return fault.New(fault.Unavailable, "check out %s: git-lfs has not put the content of %s there", p.repo.loc, path.Join(p.prefix, name))
		}
	}
	return nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
