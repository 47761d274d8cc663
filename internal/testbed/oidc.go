package testbed

import (
	"bufio"
	"bytes"
	_ "embed" // the provider's program
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

//go:embed oidc.mjs
var openIDProgram string

// openIDStart is how long the provider has to come up: half a second, and on a busy machine many times that.
const openIDStart = time.Minute

// OpenID is a running OpenID provider: npm's oidc-provider behind a proxy that counts. Programs among its clients are
// image-builder, ci, deployer (group team-a, role builds:read:all) and short, whose tokens live for two seconds; the secret of each
// is its name and "-secret". Browsers' clients are web, without a secret, and web-secret. Any name signs in; alice is in
// team-a, bob in team-b and may see everybody's builds, carol is an administrator.
//
// Resources: urn:image-builder and urn:image-builder:es256 get JWTs for the audience urn:image-builder, urn:image-builder:opaque
// an opaque token for it, urn:other a JWT for another audience. Without a resource tokens are opaque and for nobody.
type OpenID struct {
	Issuer string // http://127.0.0.1:PORT, the same through restarts

	redirects []string
	server    *http.Server

	mu      sync.Mutex
	backend *url.URL // nil: down
	process *exec.Cmd
	input   io.Closer
	counts  map[string]int // by path
}

// OpenIDProvider starts a provider for as long as the test runs. redirects are where its browsers' clients may return to.
func OpenIDProvider(t T, redirects ...string) *OpenID {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start OpenID provider: %v", err)
	}
	o := &OpenID{Issuer: "http://" + listener.Addr().String(), redirects: redirects, counts: map[string]int{}}
	if redirects == nil {
		o.redirects = []string{} // not null in JSON
	}
	o.server = &http.Server{Handler: o, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = o.server.Serve(listener) }()
	t.Cleanup(func() {
		_ = o.server.Close()
		o.Stop()
	})
	if err := o.Start(); err != nil {
		t.Fatalf("start OpenID provider: %v", err)
	}
	return o
}

// Start starts the provider again after Stop, with new keys and no memory of tokens.
func (o *OpenID) Start() error {
	root, err := RepoRoot()
	if err != nil {
		return err
	}
	folder := filepath.Join(root, ".work", "node")
	architecture := runtime.GOARCH
	if architecture == "amd64" {
		architecture = "x64" // as Node.js calls it
	}
	node := filepath.Join(folder, "node_modules", "node-linux-"+architecture, "bin", "node")
	if _, err := os.Stat(node); err != nil {
		return fmt.Errorf("%w; `scripts/setup.sh node` gets it", err)
	}
	settings, err := json.Marshal(map[string]any{"issuer": o.Issuer, "redirects": o.redirects})
	if err != nil {
		return err
	}
	process := exec.Command(node, "--input-type=module", "--eval", openIDProgram)
	process.Dir = folder // where its packages are looked for
	process.Env = []string{"OPENID=" + string(settings), "PATH=" + os.Getenv("PATH"), "NODE_ENV=test"}
	var complaints bytes.Buffer
	process.Stderr = &complaints
	input, err := process.StdinPipe()
	if err != nil {
		return err
	}
	output, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return err
	}
	giveUp := time.AfterFunc(openIDStart, func() { _ = process.Process.Kill() })
	defer giveUp.Stop()
	var ready struct{ Port int }
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		_ = process.Process.Kill()
		_ = process.Wait()
		return fmt.Errorf("it did not say where it listens: %w\n%s", err, complaints.Bytes())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.process, o.input = process, input
	o.backend = &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ready.Port)}
	return nil
}

// Stop ends the provider: connections to it are cut from now on.
func (o *OpenID) Stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.process == nil {
		return
	}
	_ = o.input.Close()
	_ = o.process.Process.Kill()
	_ = o.process.Wait() // reports the signal
	o.process, o.backend = nil, nil
}

// Count is how many requests there were for a path: /jwks for its keys, /token/introspection for questions about tokens.
func (o *OpenID) Count(path string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[path]
}

// ServeHTTP counts a request and hands it on.
func (o *OpenID) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.counts[r.URL.Path]++
	backend := o.backend
	o.mu.Unlock()
	if backend == nil {
		panic(http.ErrAbortHandler) // cuts the connection
	}
	proxy := httputil.ReverseProxy{
		// The host stays that of the issuer, which the provider makes addresses with.
		Rewrite:      func(p *httputil.ProxyRequest) { p.SetURL(backend); p.Out.Host = p.In.Host },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	proxy.ServeHTTP(w, r)
}

// IntrospectionURL is where tokens are asked about.
func (o *OpenID) IntrospectionURL() string { return o.Issuer + "/token/introspection" }

// Token gets an access token for a program. resource may be "".
func (o *OpenID) Token(t T, client, resource string, scopes ...string) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {strings.Join(scopes, " ")}}
	if resource != "" {
		form.Set("resource", resource)
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	body := o.post(t, client, "/token", form)
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" {
		t.Fatalf("get a token for %s: %v: %s", client, err, body)
	}
	return answer.Token
}

// Revoke takes a program's token back.
func (o *OpenID) Revoke(t T, client, token string) {
	t.Helper()
	o.post(t, client, "/token/revocation", url.Values{"token": {token}})
}

func (o *OpenID) post(t T, client, path string, form url.Values) []byte {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, o.Issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatalf("ask the OpenID provider: %v", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(client, client+"-secret")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("ask the OpenID provider: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("ask the OpenID provider: POST %s: status %d, %v: %s", path, response.StatusCode, err, body)
	}
	return body
}

// SignIn fills the provider's forms in, as a browser with the client's cookies does from address on, and gives where it
// sends the browser back to: an address of redirects that begins with back, which is not opened.
func (o *OpenID) SignIn(t T, browser *http.Client, address, back, name string) string {
	t.Helper()
	client := *browser
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	request, err := http.NewRequest(http.MethodGet, address, nil)
	for range 20 { // two forms, and some redirects
		if err != nil {
			t.Fatalf("sign in as %s: %v", name, err)
		}
		response, failure := client.Do(request)
		if failure != nil {
			t.Fatalf("sign in as %s: %v", name, failure)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		here := request.URL
		if location := response.Header.Get("Location"); location != "" {
			next, failure := here.Parse(location)
			if failure != nil {
				t.Fatalf("sign in as %s: %v", name, failure)
			}
			if strings.HasPrefix(next.String(), back) {
				return next.String()
			}
			request, err = http.NewRequest(http.MethodGet, next.String(), nil)
			continue
		}
		form := url.Values{"prompt": {"consent"}}
		if bytes.Contains(body, []byte(`value="login"`)) {
			form = url.Values{"prompt": {"login"}, "login": {name}, "password": {"any"}}
		}
		_, rest, found := bytes.Cut(body, []byte(`action="`))
		action, _, _ := bytes.Cut(rest, []byte(`"`))
		if !found {
			t.Fatalf("sign in as %s: status %d without a form: %s", name, response.StatusCode, body)
		}
		next, failure := here.Parse(string(action))
		if failure != nil {
			t.Fatalf("sign in as %s: %v", name, failure)
		}
		request, err = http.NewRequest(http.MethodPost, next.String(), strings.NewReader(form.Encode()))
		if err == nil {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	t.Fatalf("sign in as %s: the provider goes round in circles", name)
	return ""
}
