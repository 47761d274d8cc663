package source_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/source"
	"imagebuilder/internal/testbed"
)

const fromScratch = "FROM scratch\nCOPY . /\n"

func dockerfile(url string) buildparams.Source {
	return buildparams.Source{Dockerfile: &buildparams.Dockerfile{URL: url}}
}

// site serves a handler and remembers the Authorization headers that it got.
type site struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newSite(t *testing.T, tls bool, handler http.HandlerFunc) *site {
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Header.Get("Authorization")+r.Header.Get("Referer"))
		s.mu.Unlock()
		handler(w, r)
	}))
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func TestDockerfileByURL(t *testing.T) {
	t.Parallel()
	const password = "canary-Passw0rd"
	s := newSite(t, false, func(w http.ResponseWriter, r *http.Request) {
		user, given, _ := r.BasicAuth()
		switch r.URL.Path {
		case "/open":
			_, _ = w.Write([]byte(fromScratch))
		case "/closed":
			if user != "ann" || given != password {
				http.Error(w, "you sent "+given, http.StatusUnauthorized)
				return
			}
			_, _ = w.Write([]byte(fromScratch))
		case "/forbidden":
			w.WriteHeader(http.StatusForbidden)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/odd":
			w.WriteHeader(http.StatusTeapot)
		case "/page/blob/main/Dockerfile", "/o/r/-/blob/main/Dockerfile":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("\n\n<!DOCTYPE html><html></html>"))
		case "/binary":
			_, _ = w.Write([]byte("\x7fELF\x00"))
		case "/fits":
			_, _ = w.Write(bytes.Repeat([]byte("#"), 1<<20))
		case "/large":
			_, _ = w.Write(bytes.Repeat([]byte("#"), 1<<20+1))
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	})
	b := newBed(t, testbed.GitOptions{})
	tree := b.fetch(dockerfile(s.URL+"/open?token=canary-token#x"), nil)
	require.Equal(t, fromScratch, string(tree.Dockerfile))
	require.Equal(t, s.URL+"/open", tree.DockerfileName)
	require.Equal(t, s.URL+"/open", tree.URL)
	require.Empty(t, tree.Commit)
	require.Empty(t, walkTree(t, tree.Context))
	require.NotEmpty(t, tree.ContextKey)
	b.fetch(dockerfile(s.URL+"/fits"), nil)

	src := dockerfile(s.URL + "/closed")
	b.fails(fault.Denied, src, nil)
	src.Dockerfile.Username = "ann"
	f := b.fails(fault.Denied, src, &source.Credentials{DockerfilePassword: "wrong " + password})
	require.NotContains(t, f.Error(), password)
	b.fetch(src, &source.Credentials{DockerfilePassword: password})
	tree = b.fetch(dockerfile(strings.Replace(s.URL, "://", "://ann:"+password+"@", 1)+"/closed"), nil)
	require.Equal(t, s.URL+"/closed", tree.URL)

	for path, want := range map[string]struct {
		kind fault.Kind
		says string
	}{
		"/forbidden":                  {fault.Denied, "status 403"},
		"/none":                       {fault.NotFound, "status 404"},
		"/busy":                       {fault.Unavailable, "status 503"},
		"/odd":                        {fault.Invalid, "status 418"},
		"/page/blob/main/Dockerfile":  {fault.Invalid, "HTML page"},
		"/o/r/-/blob/main/Dockerfile": {fault.Invalid, s.URL + "/o/r/-/raw/main/Dockerfile"},
		"/binary":                     {fault.Invalid, "binary"},
		"/large":                      {fault.Invalid, "larger than 1048576 bytes"},
		"/loop":                       {fault.Unavailable, "redirects"},
	} {
		f := b.fails(want.kind, dockerfile(s.URL+path), nil)
		require.Contains(t, f.Message+" "+f.Hint, want.says)
	}
	require.NotContains(t, b.events.text(), "canary")
	b.fails(fault.Unavailable, dockerfile("http://127.0.0.1:1/Dockerfile"), nil)
	b.fails(fault.Invalid, dockerfile("ftp://example.com/Dockerfile"), nil)
	b.fails(fault.Invalid, dockerfile("http:///Dockerfile"), nil)
	f = b.fails(fault.Invalid, dockerfile("http://ann:canary%zz@example.com/Dockerfile"), nil)
	require.NotContains(t, f.Error(), "canary")
}

func TestDockerfileOverTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(fromScratch)) })
	b := newBed(t, testbed.GitOptions{})
	f := b.fails(fault.Unavailable, dockerfile(s.URL+"/Dockerfile"), nil)
	require.Contains(t, f.Message, "TLS: the server's certificate is not trusted")
	plain := newSite(t, false, func(http.ResponseWriter, *http.Request) {})
	f = b.fails(fault.Unavailable, dockerfile(strings.Replace(plain.URL, "http:", "https:", 1)), nil)
	require.Contains(t, f.Message, "TLS")
	b.fetcher.HTTPClient = s.Client()
	b.fetch(dockerfile(s.URL+"/Dockerfile"), nil)
}

func TestRedirectsCarryNoCredentials(t *testing.T) {
	t.Parallel()
	const password = "canary-Passw0rd"
	other := newSite(t, false, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(fromScratch)) })
	here := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/there":
			http.Redirect(w, r, other.URL+"/x", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/final", http.StatusTemporaryRedirect)
		default:
			_, _ = w.Write([]byte(fromScratch))
		}
	}
	first, secure := newSite(t, false, here), newSite(t, true, here)
	b := newBed(t, testbed.GitOptions{})
	b.fetcher.HTTPClient = secure.Client()
	fetch := func(url string) buildparams.Source {
		src := dockerfile(url)
		src.Dockerfile.Username = "ann"
		return src
	}
	b.fetch(fetch(first.URL+"/there"), credentials(password))
	require.Equal(t, []string{""}, other.seen, "neither password nor Referer")
	require.Len(t, first.seen, 1)
	require.NotEmpty(t, first.seen[0])
	b.fetch(fetch(first.URL+"/here"), credentials(password))
	require.Len(t, first.seen, 3)
	require.NotEmpty(t, first.seen[2], "the same host and port gets them again")
	f := b.fails(fault.Denied, fetch(secure.URL+"/there"), credentials(password))
	require.Contains(t, f.Message, "from https to http")
	require.Len(t, other.seen, 1)
}

func TestGitRedirectsCarryNoCredentials(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(string) (string, error){"with git": nil, "without git": withoutGit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.GitOptions{})
			b.fetcher.LookPath = look
			old := b.init("app.git", app())
			b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("two\n")}})
			asked := newSite(t, false, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, b.server.URL+r.URL.String(), http.StatusMovedPermanently)
			})
			proxy := newSite(t, false, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, asked.URL+r.URL.String(), http.StatusMovedPermanently)
			})
			src := gitRepo(proxy.URL+"/app.git", old)
			src.GitRepo.Username = "ann"
			tree := b.fetch(src, credentials("canary"))
			require.Equal(t, "one\n", read(t, tree.Context, "main.txt"))
			for _, header := range asked.seen {
				require.Empty(t, header)
			}
		})
	}
}

func TestDockerfileOfThisMachine(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	dir := t.TempDir()
	name := filepath.Join(dir, "Docker file")
	require.NoError(t, os.WriteFile(name, []byte(fromScratch), 0o600))
	tree := b.fetch(dockerfile("file://"+strings.ReplaceAll(name, " ", "%20")), nil)
	require.Equal(t, fromScratch, string(tree.Dockerfile))
	b.fails(fault.NotFound, dockerfile("file://"+dir+"/none"), nil)
	b.fails(fault.Invalid, dockerfile("file://"+dir), nil)
	b.fails(fault.Invalid, dockerfile("file:///dev/zero"), nil)
	b.fails(fault.Invalid, dockerfile("file://elsewhere/x"), nil)
	b.fails(fault.Invalid, dockerfile("file:Dockerfile"), nil)
}

func TestContextFromGit(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	id := b.init("app.git", app())
	name := filepath.Join(t.TempDir(), "Dockerfile")
	keys := map[string]bool{}
	for _, text := range []string{"FROM scratch\nCOPY main.txt /a\n", "FROM scratch\nCOPY main.txt /b\n"} {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		src := dockerfile("file://" + name)
		src.BuildContext = &buildparams.BuildContext{URL: b.url("app.git"), Version: "main"}
		tree := b.fetch(src, nil)
		require.Equal(t, id, tree.Commit)
		require.Equal(t, b.url("app.git"), tree.URL)
		require.Equal(t, text, string(tree.Dockerfile))
		got := walkTree(t, tree.Context)
		require.Equal(t, "644 "+text, got["Dockerfile"], "it stands in the place of the repository's own")
		require.Equal(t, "644 one\n", got["main.txt"])
		keys[tree.ContextKey] = true
		src.BuildContext.Subdir = "docker"
		got = walkTree(t, b.fetch(src, nil).Context)
		require.Equal(t, "644 FROM scratch\nCOPY a /\n", got["Dockerfile"], "the root's, not subdir's, is replaced")
		require.Len(t, got, 3)
		src.BuildContext.Subdir = "linked"
		b.fails(fault.Invalid, src, nil)
	}
	require.Len(t, keys, 2)
}

func TestContextFromFolder(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	work := t.TempDir()
	b.fetcher.WorkDir = work
	for name, text := range map[string]string{
		"ctx/a.txt": "a", "ctx/Dockerfile": "old", "ctx/Zed": "z", "ctx/sub/Dockerfile": "sub", "ctx/.dockerignore": "sub\n", "outside": "secret",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(work, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o644))
	}
	require.NoError(t, os.Symlink("../outside", filepath.Join(work, "ctx/escape")))
	require.NoError(t, os.Symlink(work, filepath.Join(work, "ctx/up")))
	require.NoError(t, os.WriteFile(filepath.Join(work, "D"), []byte(fromScratch), 0o600))
	src := dockerfile("file://" + filepath.Join(work, "D"))
	src.BuildContext = &buildparams.BuildContext{Path: "./ctx"}
	tree := b.fetch(src, nil)
	require.Equal(t, map[string]string{
		".dockerignore": "644 sub\n", "Dockerfile": "644 " + fromScratch, "Zed": "644 z", "a.txt": "644 a",
		"sub": "dir 755", "sub/Dockerfile": "644 sub", "escape": "-> ../outside", "up": "-> " + work,
	}, walkTree(t, tree.Context))
	for _, name := range []string{"escape", "up/outside", "../outside", "sub/../../outside"} {
		_, err := tree.Context.Open(name)
		require.Error(t, err, name)
	}
	data, err := os.ReadFile(filepath.Join(work, "ctx/Dockerfile"))
	require.NoError(t, err)
	require.Equal(t, "old", string(data), "a folder is never written to")
	require.Equal(t, tree.ContextKey, b.fetch(src, nil).ContextKey, "BuildKit transfers what has changed only")

	src.BuildContext.Subdir = "sub"
	other := b.fetch(src, nil)
	require.Equal(t, map[string]string{"Dockerfile": "644 sub"}, walkTree(t, other.Context))
	require.NotEqual(t, tree.ContextKey, other.ContextKey)
	for sub, kind := range map[string]fault.Kind{
		"up": fault.Invalid, "up/ctx": fault.Invalid, "..": fault.Invalid, "/etc": fault.Invalid, "sup": fault.NotFound, "a.txt": fault.Invalid,
	} {
		src.BuildContext.Subdir = sub
		b.fails(kind, src, nil)
	}
	src.BuildContext = &buildparams.BuildContext{Path: "none"}
	b.fails(fault.NotFound, src, nil)
	src.BuildContext = &buildparams.BuildContext{Path: "D"}
	b.fails(fault.Invalid, src, nil)
	src.BuildContext = &buildparams.BuildContext{}
	b.fails(fault.Invalid, src, nil)
	b.fails(fault.Invalid, buildparams.Source{}, nil)
}

// TestDockerfileInAnyFolder holds the overlay against fsutil's own idea of a folder, with filters as .dockerignore makes them.
func TestDockerfileInAnyFolder(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	for i, names := range [][]string{
		{}, {"A"}, {"a"}, {"A", "z/y"}, {"Dockerfile"}, {"Dockerfile/in/it", "E"}, {"Dockerfile.dev", "Dockerfil"}, {"C/x", "E/x"},
	} {
		dir := t.TempDir()
		for _, name := range names {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644))
		}
		name := filepath.Join(t.TempDir(), "D")
		require.NoError(t, os.WriteFile(name, []byte(fromScratch), 0o644))
		src := dockerfile("file://" + name)
		src.BuildContext = &buildparams.BuildContext{Path: dir}
		got := b.fetch(src, nil).Context

		require.NoError(t, os.RemoveAll(filepath.Join(dir, "Dockerfile")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(fromScratch), 0o644))
		want, err := fsutil.NewFS(dir)
		require.NoError(t, err)
		for _, filter := range []*fsutil.FilterOpt{
			nil, {ExcludePatterns: []string{"C", "z"}}, {ExcludePatterns: []string{"Dockerfile"}}, {ExcludePatterns: []string{"*", "!Dockerfile"}},
			{IncludePatterns: []string{"Dockerfile"}}, {FollowPaths: []string{"Dockerfile", "z"}},
		} {
			require.Equal(t, filtered(t, want, filter), filtered(t, got, filter), "case %d", i)
		}
		for _, target := range []string{"", "/", ".", "Dockerfile", "/Dockerfile", "C"} {
			if _, err := os.Stat(filepath.Join(dir, target)); err == nil {
				require.Equal(t, visited(t, want, target), visited(t, got, target), "case %d, target %s", i, target)
			}
		}
	}
}

func filtered(t *testing.T, fsys fsutil.FS, filter *fsutil.FilterOpt) []string {
	fsys, err := fsutil.NewFilterFS(fsys, filter)
	require.NoError(t, err)
	return visited(t, fsys, "")
}

func visited(t *testing.T, fsys fsutil.FS, target string) []string {
	var got []string
	err := fsys.Walk(context.Background(), target, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		got = append(got, fmt.Sprintf("%s %s %v", name, d.Name(), info.Mode()))
		return err
	})
	require.NoError(t, err)
	return got
}
