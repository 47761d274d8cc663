package testbed

import (
	"bytes"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// maxGitRequest is the most that a git request's body may hold: CGI needs its length beforehand, so
// that chunked bodies are held in memory. Requests of clients that only fetch are far smaller.
const maxGitRequest = 64 << 20

// GitOptions say how repositories are served. The zero value serves everybody by plain http.
type GitOptions struct {
	User, Password string // if set, nothing is served without them
	TLS            bool   // https with a certificate of its own: GitServer.CertPool trusts it
}

// GitRequests counts what a server was asked.
type GitRequests struct {
	InfoRefs   int // one for each ls-remote, and one at the start of each fetch
	UploadPack int // one or more for each fetch that transfers something
	Denied     int // without credentials, or with wrong ones; these count nowhere else
	Other      int
}

// GitServer is a real git server: git http-backend behind HTTP on a loopback port.
type GitServer struct {
	URL string // without a slash at its end; a repository app.git has URL/app.git

	server   *httptest.Server
	mu       sync.Mutex
	requests GitRequests
}

// StartGit serves the bare repositories below root by smart HTTP, protocol v2 included. It needs the
// git executable, and nothing of the user's git configuration.
func StartGit(root string, opts GitOptions) (*GitServer, error) {
	backend, err := gitBackend()
	if err != nil {
		return nil, err
	}
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &GitServer{}
	handler := s.guard(opts, &cgi.Handler{
		Path:   backend,
		Dir:    root,
		Env:    append(gitEnvironment(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: io.Discard,
	})
	s.server = httptest.NewUnstartedServer(handler)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse its certificate are no news
	if opts.TLS {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	s.URL = s.server.URL
	return s, nil
}

// Close stops the server and waits for what it is doing.
func (s *GitServer) Close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

// Requests tells what was asked since the start or the last Reset.
func (s *GitServer) Requests() GitRequests {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Reset starts counting anew.
func (s *GitServer) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = GitRequests{}
}

// Certificate is what a TLS server shows; nil without TLS.
func (s *GitServer) Certificate() *x509.Certificate { return s.server.Certificate() }

// Client is an HTTP client that trusts the server's certificate.
func (s *GitServer) Client() *http.Client {
	pool := x509.NewCertPool()
	if cert := s.Certificate(); cert != nil {
		pool.AddCert(cert)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func (s *GitServer) guard(opts GitOptions, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if opts.User != "" || opts.Password != "" {
			user, password, _ := r.BasicAuth()
			if subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(opts.User+"\x00"+opts.Password)) != 1 {
				s.count(func(c *GitRequests) { c.Denied++ })
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/info/refs"):
			s.count(func(c *GitRequests) { c.InfoRefs++ })
		case strings.HasSuffix(r.URL.Path, "/git-upload-pack"):
			s.count(func(c *GitRequests) { c.UploadPack++ })
		default:
			s.count(func(c *GitRequests) { c.Other++ })
		}
		if r.ContentLength < 0 {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxGitRequest))
			if err != nil {
				http.Error(w, "too large", http.StatusRequestEntityTooLarge)
				return
			}
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		}
		next.ServeHTTP(w, r)
	})
}

func (s *GitServer) count(add func(*GitRequests)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.requests)
}

func gitBackend() (string, error) {
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return "", fmt.Errorf("find git http-backend: %w (Debian has it in the package git)", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), nil
}

// gitEnvironment keeps the user's and the machine's git configuration out. safe.directory lets
// repositories be served that belong to another user, as they do after a sudo make test.
func gitEnvironment() []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LC_ALL=C",
		"HOME=/nonexistent",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=safe.directory",
		"GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=gc.auto",
		"GIT_CONFIG_VALUE_1=0",
	}
}
