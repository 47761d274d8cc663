package source_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/egress"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// guardedBed is a bed whose fetcher serves strangers: it may connect to these prefixes, and to no other special address.
func guardedBed(t *testing.T, allow ...string) *bed {
	t.Helper()
	b := newBed(t, testbed.GitOptions{})
	prefixes, err := egress.Parse(allow)
	require.NoError(t, err)
	b.fetcher.Egress = egress.New(true, prefixes)
	return b
}

// inside is a server on an address that is not allowed. It fails the test when it is reached.
func inside(t *testing.T, address string) *httptest.Server {
	t.Helper()
	return serverAt(t, address, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("reached: %s %s", r.Method, r.URL) })
}

func serverAt(t *testing.T, address string, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (b *bed) refused(src buildparams.Source) string {
	b.t.Helper()
	f := b.fails(fault.Denied, src, nil)
	require.ErrorIs(b.t, f, egress.ErrRefused, f.Message)
	require.Contains(b.t, f.Hint, "--allow-egress")
	return f.Message
}

func dockerfileAt(url string) buildparams.Source {
	return buildparams.Source{Dockerfile: &buildparams.Dockerfile{URL: url}}
}

func TestGuardedFetch(t *testing.T) {
	t.Parallel()
	b := guardedBed(t)
	b.init("app.git", app())
	require.Contains(t, b.refused(gitRepo(b.url("app.git"), "")), "fetch git "+b.url("app.git")+": connect to 127.0.0.1:")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(b.server.URL, "http://"))
	require.NoError(t, err)
	for _, host := range []string{"localhost:" + port, "[::ffff:127.0.0.1]:" + port, "[::1]:" + port, "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]"} {
		b.refused(gitRepo("http://"+host+"/app.git", ""))
		require.Contains(t, b.refused(dockerfileAt("http://"+host+"/Dockerfile")), "for the Dockerfile")
		b.refused(buildparams.Source{Dockerfile: &buildparams.Dockerfile{URL: "http://" + host + "/Dockerfile"}, BuildContext: &buildparams.BuildContext{URL: b.url("app.git")}})
	}
	require.Zero(t, b.server.Requests())
	// The same with the address allowed.
	b = guardedBed(t, "127.0.0.0/8")
	b.init("app.git", app())
	require.Equal(t, "one\n", read(t, b.fetch(gitRepo(b.url("app.git"), ""), nil).Context, "main.txt"))
}

// TestGuardedFetchIsByHTTPOnly: ssh has keys of ours, and paths are files of ours.
func TestGuardedFetchIsByHTTPOnly(t *testing.T) {
	t.Parallel()
	b := guardedBed(t, "127.0.0.0/8")
	b.init("app.git", app())
	dockerfile := filepath.Join(t.TempDir(), "Dockerfile")
	require.NoError(t, os.WriteFile(dockerfile, []byte("FROM scratch\n"), 0o600))
	served := serverAt(t, "127.0.0.1:0", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "FROM scratch") })
	for _, src := range []buildparams.Source{
		gitRepo(b.path("app.git"), ""), gitRepo("file://"+b.path("app.git"), ""), gitRepo("ssh://git@127.0.0.1/app.git", ""), gitRepo("git@127.0.0.1:app.git", ""),
		dockerfileAt("file://" + dockerfile),
		{Dockerfile: &buildparams.Dockerfile{URL: served.URL}, BuildContext: &buildparams.BuildContext{Path: b.root}},
	} {
		f := b.fails(fault.Denied, src, nil)
		require.Contains(t, f.Message, "this service")
	}
	b.fails(fault.Invalid, gitRepo("git://127.0.0.1/app.git", ""), nil)
	b.fails(fault.Invalid, gitRepo("ext::sh -c id", ""), nil)
}

func TestGuardedRedirects(t *testing.T) {
	t.Parallel()
	secret := inside(t, "127.0.0.2:0")
	for _, to := range []string{secret.URL, "http://169.254.169.254/latest", "http://[::1]:1", "http://[::ffff:169.254.169.254]"} {
		redirects := serverAt(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to+r.URL.Path, http.StatusFound)
		})
		b := guardedBed(t, "127.0.0.1")
		b.refused(gitRepo(redirects.URL+"/app.git", ""))
		b.refused(dockerfileAt(redirects.URL + "/Dockerfile"))
	}
}

// gitOnly leaves go-git no choice: an older commit, of which the server tells go-git nothing.
func gitOnly(b *bed) (old string) {
	b.t.Helper()
	old = b.init("app.git", app())
	b.commit("app.git", testbed.GitCommit{Files: app(), Message: "another"})
	return old
}

// TestGuardedGitExecutable: what the git executable fetches goes through the guarded proxy.
func TestGuardedGitExecutable(t *testing.T) {
	t.Parallel()
	b := guardedBed(t, "127.0.0.1")
	commit := gitOnly(b)
	tree := b.fetch(gitRepo(b.url("app.git"), commit), nil)
	require.Equal(t, commit, tree.Commit)
	require.Equal(t, "one\n", read(t, tree.Context, "main.txt"))
	require.Equal(t, 1, b.server.Requests().UploadPack, "protocol 2 in one go, and no history")
	require.NoError(t, tree.Close())
}

// TestGuardedGitExecutableIsRefused: go-git is shown the repository, and git is sent elsewhere.
func TestGuardedGitExecutableIsRefused(t *testing.T) {
	t.Parallel()
	secret := inside(t, "127.0.0.2:0")
	b := guardedBed(t, "127.0.0.1")
	commit := gitOnly(b)
	real, err := url.Parse(b.server.URL)
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(real)
	sent := 0
	front := serverAt(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.UserAgent(), "git/2") {
			sent++
			http.Redirect(w, r, secret.URL+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
			return
		}
		r.Host = real.Host
		forward.ServeHTTP(w, r)
	})
	message := b.refused(gitRepo(front.URL+"/app.git", commit))
	require.Contains(t, message, "connect to "+secret.Listener.Addr().String()+" for git")
	require.NotZero(t, sent, "the git executable came by")
}

func TestGuardedSubmodules(t *testing.T) {
	t.Parallel()
	for name, noGit := range map[string]bool{"with git": false, "without git": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := inside(t, "127.0.0.2:0")
			for _, to := range []string{secret.URL + "/sub.git", "http://169.254.169.254/sub.git", "http://10.0.0.1/sub.git", "http://[::1]:1/sub.git"} {
				b := guardedBed(t, "127.0.0.1")
				if noGit {
					b.fetcher.LookPath = withoutGit
				}
				files := app()
				files[".gitmodules"] = file("[submodule \"sub\"]\n\tpath = sub\n\turl = " + to + "\n")
				b.init("app.git", files)
				b.commit("app.git", testbed.GitCommit{Files: files, Message: "sub", Submodules: map[string]string{"sub": strings.Repeat("ab", 20)}})
				message := b.refused(gitRepo(b.url("app.git"), ""))
				require.Contains(t, message, "submodule sub: ")
			}
			b := guardedBed(t, "127.0.0.1")
			files := app()
			files[".gitmodules"] = file("[submodule \"sub\"]\n\tpath = sub\n\turl = ssh://git@127.0.0.1/sub.git\n")
			b.init("app.git", files)
			b.commit("app.git", testbed.GitCommit{Files: files, Message: "sub", Submodules: map[string]string{"sub": strings.Repeat("ab", 20)}})
			require.Contains(t, b.fails(fault.Denied, gitRepo(b.url("app.git"), ""), nil).Message, "by http and https only")
		})
	}
}

// lfsSite is a git server with Git LFS in front of it, on one origin.
func lfsSite(t *testing.T, b *bed, href func(oid string) string, objects map[string]string) *httptest.Server {
	t.Helper()
	real, err := url.Parse(b.server.URL)
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(real)
	return serverAt(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/objects/batch"):
			var answers []string
			for oid, content := range objects {
				answers = append(answers, fmt.Sprintf(`{"oid":%q,"size":%d,"actions":{"download":{"href":%q,"header":{"Authorization":"Bearer one-object"}}}}`, oid, len(content), href(oid)))
			}
			w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
			fmt.Fprintf(w, `{"transfer":"basic","objects":[%s]}`, strings.Join(answers, ","))
		case strings.HasPrefix(r.URL.Path, "/content/"):
			if r.Header.Get("Authorization") != "Bearer one-object" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			fmt.Fprint(w, objects[strings.TrimPrefix(r.URL.Path, "/content/")])
		default:
			r.Host = real.Host
			forward.ServeHTTP(w, r)
		}
	})
}

func pointerTo(content string) (oid, pointer string) {
	sum := sha256.Sum256([]byte(content))
	oid = hex.EncodeToString(sum[:])
	return oid, fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

func TestGuardedLFS(t *testing.T) {
	t.Parallel()
	const content = "large\n"
	oid, pointer := pointerTo(content)
	secret := inside(t, "127.0.0.2:0")
	tests := map[string]struct {
		config  string // .lfsconfig
		objects map[string]string
		href    string // of an object; "" is the server itself
		convert bool   // the checkout needs the git executable, too
		kind    fault.Kind
		says    string
	}{
		"right":               {},
		"with conversion":     {convert: true},
		"endpoint refused":    {config: "[lfs]\n\turl = " + secret.URL + "/lfs\n", kind: fault.Denied, says: "for Git LFS"},
		"endpoint metadata":   {config: "[remote \"origin\"]\n\tlfsurl = http://169.254.169.254/lfs\n", kind: fault.Denied, says: "cloud metadata"},
		"endpoint is ssh":     {config: "[lfs]\n\turl = ssh://git@127.0.0.1/lfs\n", kind: fault.Denied, says: "by http and https only"},
		"endpoint is a file":  {config: "[lfs]\n\turl = file:///etc\n", kind: fault.Denied, says: "by http and https only"},
		"download refused":    {href: secret.URL + "/x", kind: fault.Denied, says: "for Git LFS"},
		"download from files": {href: "file:///etc/passwd", kind: fault.Unavailable, says: "no http or https URL"},
		"other content":       {objects: map[string]string{oid: "LARGE\n"}, kind: fault.Unavailable, says: "other content"},
		"too much content":    {objects: map[string]string{oid: content + "and more"}, kind: fault.Unavailable, says: "says nothing of"},
		"object unknown":      {objects: map[string]string{}, kind: fault.Unavailable, says: "says nothing of src/copy.bin"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := guardedBed(t, "127.0.0.1")
			if test.objects == nil {
				test.objects = map[string]string{oid: content}
			}
			var front *httptest.Server
			front = lfsSite(t, b, func(oid string) string {
				if test.href != "" {
					return test.href
				}
				return front.URL + "/content/" + oid
			}, test.objects)
			files := app()
			files[".gitattributes"] = file("*.bin filter=lfs diff=lfs merge=lfs -text\n")
			if test.convert {
				files[".gitattributes"] = file("*.bin filter=lfs diff=lfs merge=lfs -text\n*.txt eol=crlf\n")
			}
			if test.config != "" {
				files[".lfsconfig"] = file(test.config)
			}
			files["src/model.bin"], files["src/copy.bin"] = file(pointer), file(pointer)
			b.init("app.git", files)
			src := buildparams.Source{GitRepo: &buildparams.GitRepo{URL: front.URL + "/app.git", Workdir: "src"}}
			src.GitRepo.Dockerfile = "docker/Dockerfile"
			b.fetcher.LookPath = withoutLFS
			if test.kind != "" {
				require.Contains(t, b.failsLate(test.kind, src).Message, test.says)
				return
			}
			tree := b.fetch(src, nil)
			require.Equal(t, content, read(t, tree.Context, "model.bin"))
			require.Equal(t, content, read(t, tree.Context, "copy.bin"))
		})
	}
}

// failsLate is fails, where a checkout may come after the fetch.
func (b *bed) failsLate(kind fault.Kind, src buildparams.Source) *fault.Error {
	b.t.Helper()
	tree, err := b.try(src, nil)
	if err == nil {
		b.t.Cleanup(func() { _ = tree.Close() })
		_, err = tree.Context.Open("model.bin")
	}
	f := fault.As(err)
	require.NotNil(b.t, f)
	require.Equal(b.t, kind, f.Kind, f.Message)
	return f
}

// TestUnguardedTransport: a transport that cannot be guarded makes no connection.
func TestUnguardedTransport(t *testing.T) {
	t.Parallel()
	b := guardedBed(t, "127.0.0.1")
	b.init("app.git", app())
	b.fetcher.HTTPClient = &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("used")
		return nil, http.ErrNotSupported
	})}
	b.fails(fault.Internal, gitRepo(b.url("app.git"), ""), nil)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }
