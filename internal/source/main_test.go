package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/source"
	"imagebuilder/internal/testbed"
)

// bed is a git server with one repository, app.git, and a fetcher with a cache.
type bed struct {
	t       *testing.T
	root    string
	server  *testbed.GitServer
	fetcher *source.Fetcher
	dir     string
	events  *recorder
}

// app is what the repository has at first.
func app() fstest.MapFS {
	return fstest.MapFS{
		"Dockerfile":         file("FROM scratch\nCOPY . /\n"),
		"main.txt":           file("one\n"),
		"run.sh":             &fstest.MapFile{Data: []byte("#!/bin/sh\n"), Mode: 0o755},
		"src/grüße 世界.txt":   file("unicode\n"),
		"src/deep/er/a.txt":  file("deep\n"),
		"docker/Dockerfile":  file("FROM scratch\nCOPY a /\n"),
		"abs":                link("/etc/passwd"),
		"src/rel":            link("../main.txt"),
		"linked":             link("src"),
		"docker/dockerlink":  link("Dockerfile"),
		"docker/prod.docker": file("x"),
	}
}

func file(data string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(data), Mode: 0o644} }

func link(target string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

func newBed(t *testing.T, opts testbed.GitOptions) *bed {
	t.Helper()
	root := t.TempDir()
	server, err := testbed.StartGit(root, opts)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	b := &bed{t: t, root: root, server: server, dir: t.TempDir(), events: &recorder{}}
	b.fetcher = &source.Fetcher{CacheDir: filepath.Join(t.TempDir(), "cache")}
	return b
}

// withoutGit is a LookPath for a machine on which there is no git.
func withoutGit(string) (string, error) { return "", errors.New("not found") }

func (b *bed) init(name string, files fs.FS) string {
	b.t.Helper()
	id, err := testbed.InitRepo(files, b.path(name), testbed.RepoOptions{})
	require.NoError(b.t, err)
	return id
}

func (b *bed) path(name string) string { return filepath.Join(b.root, name) }
func (b *bed) url(name string) string  { return b.server.URL + "/" + name }

func (b *bed) commit(name string, c testbed.GitCommit) string {
	b.t.Helper()
	id, err := testbed.CommitTo(b.path(name), c)
	require.NoError(b.t, err)
	return id
}

func (b *bed) try(src buildparams.Source, secrets *source.Credentials) (*source.Tree, error) {
	return b.fetcher.Fetch(b.t.Context(), src, secrets, b.dir, b.events.sink)
}

func (b *bed) fetch(src buildparams.Source, secrets *source.Credentials) *source.Tree {
	b.t.Helper()
	tree, err := b.try(src, secrets)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, tree.Close()) })
	return tree
}

func (b *bed) fails(kind fault.Kind, src buildparams.Source, secrets *source.Credentials) *fault.Error {
	b.t.Helper()
	before, err := os.ReadDir(b.dir)
	require.NoError(b.t, err)
	_, err = b.try(src, secrets)
	require.Error(b.t, err)
	f := fault.As(err)
	require.Equal(b.t, kind, f.Kind, "%s (%s)", f.Message, f.Hint)
	left, err := os.ReadDir(b.dir)
	require.NoError(b.t, err)
	require.Len(b.t, left, len(before), "a failed fetch leaves nothing behind")
	return f
}

func gitRepo(url, version string) buildparams.Source {
	return buildparams.Source{GitRepo: &buildparams.GitRepo{URL: url, Version: version}}
}

// walkTree is the context as text: mode, path, content or target; folders too.
func walkTree(t *testing.T, fsys fsutil.FS) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fsys.Walk(context.Background(), "", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.(*fsutil.StatInfo).Stat
		require.Zero(t, stat.Uid+stat.Gid)
		switch {
		case info.IsDir():
			out[name] = fmt.Sprintf("dir %o", info.Mode().Perm())
		case info.Mode()&fs.ModeSymlink != 0:
			out[name] = "-> " + stat.Linkname
		default:
			out[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), read(t, fsys, name))
		}
		return nil
	})
	require.NoError(t, err)
	return out
}

func read(t *testing.T, fsys fsutil.FS, name string) string {
	t.Helper()
	r, err := fsys.Open(name)
	require.NoError(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(data)
}

type recorder struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *recorder) sink(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, e := range r.events {
		switch {
		case e.Step != nil:
			fmt.Fprintf(&b, "%+v\n", *e.Step)
		case e.Log != nil:
			fmt.Fprintf(&b, "%s\n", e.Log.Data)
		case e.Note != nil:
			fmt.Fprintf(&b, "%+v\n", *e.Note)
		}
	}
	return b.String()
}

// requireNowhere looks for a secret in all files below dirs.
func requireNowhere(t *testing.T, secret string, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			require.False(t, bytes.Contains(data, []byte(secret)), "%s holds the secret", name)
			return nil
		})
		require.NoError(t, err)
	}
}

func credentials(password string) *source.Credentials {
	return &source.Credentials{GitPassword: password, DockerfilePassword: password, ContextPassword: password}
}

// withoutLFS is a LookPath for a machine with git and without git-lfs.
func withoutLFS(name string) (string, error) {
	if name == "git-lfs" {
		return "", errors.New("not found")
	}
	return exec.LookPath(name)
}
