//go:build blueprints

package blueprints_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// service is a deployed service, whatever it is deployed on.
type service struct {
	*project
	values       map[string]any // inputs
	site         *site
	api          string // URL
	registry     string // as builds name it
	registryHere string // as this machine reaches it
	gateway      string // this machine, as builds reach it
	slowBuilds   int
}

// with changes inputs; nil takes one away.
func (s *service) with(t *testing.T, changes map[string]any) {
	t.Helper()
	for name, value := range changes {
		if value == nil {
			delete(s.values, name)
		} else {
			s.values[name] = value
		}
	}
	s.inputs(t, "inputs.yaml", s.values)
}

// deploy deploys with changed inputs. After the first time every node is looked at again, and what is as it should be stays.
func (s *service) deploy(t *testing.T, changes map[string]any) string {
	t.Helper()
	s.with(t, changes)
	return s.opera(t, "deploy", "--clean-state", "--force", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
}

// deployFails deploys with changed inputs, from the first node (--clean-state) or from where it had failed (--resume).
func (s *service) deployFails(t *testing.T, how, node string, causes []string, changes map[string]any) string {
	t.Helper()
	s.with(t, changes)
	return s.operaFails(t, node, causes, "deploy", how, "--force", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
}

// update changes inputs of a service that runs, as the version of opera can.
func (s *service) update(t *testing.T, changes map[string]any) string {
	t.Helper()
	if s.version.Version == "0.6.6" { // which has no update that works
		return s.deploy(t, changes)
	}
	s.with(t, changes)
	return s.opera(t, "update", "--workers", "3", "-i", "inputs.yaml", "service.yaml")
}

// secret is a file of the folder secrets.
func (s *service) secret(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.folder, "secrets", name))
	require.NoError(t, err)
	return strings.TrimSpace(string(data))
}

// client runs scripts/client.py as the output first_build says.
func (s *service) client(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	r := s.startClient(t, args...)
	r.wait()
	return r.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String()
}

type clientRun struct {
	*exec.Cmd
	stdout bytes.Buffer
	stderr testbed.Words
	done   chan struct{}
}

func (s *service) startClient(t *testing.T, args ...string) *clientRun {
	t.Helper()
	argv := append([]string{filepath.Join(root, "scripts", "client.py"), "--url", s.api, "--ca-cert", "secrets/ca.crt", "--api-key-file", "secrets/api-key"}, args...)
	r := &clientRun{Cmd: exec.CommandContext(t.Context(), "/usr/bin/python3", argv...), done: make(chan struct{})}
	r.Dir, r.Env, r.Stdout, r.Stderr = s.folder, s.env, &r.stdout, &r.stderr
	require.NoError(t, r.Start())
	go func() {
		_ = r.Wait() // the code says it
		close(r.done)
	}()
	return r
}

func (r *clientRun) wait() { <-r.done }

// builds asks the API for the states of all builds, by id.
func (s *service) builds(t *testing.T) map[string]string {
	t.Helper()
	var list struct {
		Invocations []struct {
			ID    string `json:"id"`
			State string `json:"state"`
		} `json:"invocations"`
	}
	s.ask(t, "/v1/invocations", &list)
	states := map[string]string{}
	for _, one := range list.Invocations {
		states[one.ID] = one.State
	}
	return states
}

func (s *service) ask(t *testing.T, path string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.api+path, nil)
	require.NoError(t, err)
	request.Header.Set("X-API-Key", s.secret(t, "api-key"))
	answer, err := (&http.Client{Transport: s.trust(t)}).Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.NoError(t, json.NewDecoder(answer.Body).Decode(into))
}

// trust trusts the service's authority, and no other.
func (s *service) trust(t *testing.T) *http.Transport {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(s.secret(t, "ca.crt"))))
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
}

// serial is the serial number of the certificate that the API shows.
func (s *service) serial(t *testing.T) string {
	t.Helper()
	conn, err := (&tls.Dialer{Config: s.trust(t).TLSClientConfig}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.api, "https://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// site is what builds reach of this machine, at the address that it has in the service's network: a git server, and a gate that RUNs wait at.
type site struct {
	git  string // folder of repositories
	url  string
	open atomic.Bool
	seen atomic.Int32 // requests at the gate
}

// newSite needs the address to be this machine's by now.
func newSite(t *testing.T, gateway string) *site {
	t.Helper()
	w := &site{git: t.TempDir()}
	git, err := testbed.StartGit(w.git, testbed.GitOptions{})
	require.NoError(t, err)
	behind, err := url.Parse(git.URL)
	require.NoError(t, err)
	front := httputil.NewSingleHostReverseProxy(behind)
	front.ErrorLog = log.New(io.Discard, "", 0) // that a worker is killed is what tests are about
	mux := http.NewServeMux()
	mux.Handle("/", front)
	mux.HandleFunc("/gate", func(answer http.ResponseWriter, _ *http.Request) {
		w.seen.Add(1)
		if !w.open.Load() {
			answer.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", gateway+":0")
	require.NoError(t, err)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); git.Close() })
	w.url = "http://" + listener.Addr().String()
	return w
}

const platforms = "linux/amd64,linux/arm64"

// pushBases puts base images into the service's registry, from this machine.
func (s *service) pushBases(t *testing.T) {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), s.registryHere, testbed.BaseOptions{
		Platforms: strings.Split(platforms, ","),
		Options:   []remote.Option{remote.WithAuth(&authn.Basic{Username: "image-builder", Password: s.secret(t, "registry-password")}), remote.WithTransport(s.trust(t))},
	})
	require.NoError(t, err)
}

// document writes a document for two variants on two platforms of a repository with these last steps, and gives its path.
func (s *service) document(t *testing.T, image string, steps ...string) string {
	t.Helper()
	dockerfile := "FROM --platform=$BUILDPLATFORM busybox AS made\nRUN echo \"it is made\" && echo " + image + " >/made\n" + strings.Join(steps, "\n") +
		"\nFROM busybox\nCOPY --from=made /made /made\nCMD [\"/bin/cat\", \"/made\"]\n"
	_, err := testbed.InitRepo(fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}}, filepath.Join(s.site.git, image+".git"), testbed.RepoOptions{})
	require.NoError(t, err)
	variant := func(tag, base string) map[string]any {
		return map[string]any{"image": image, "tag": tag, "base": s.registry + "/base/" + base + ":1", "platforms": strings.Split(platforms, ",")}
	}
	data, err := json.Marshal(map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": s.site.url + "/" + image + ".git"}},
		"target": map[string]any{
			"registry": map[string]any{"url": s.registry, "username": "image-builder", "password": s.secret(t, "registry-password")},
			"images":   []any{variant("1", "busybox"), variant("other", "other")},
		},
	})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), image+".json")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// wait is a step that ends once the site's gate is open.
func (s *site) wait() string {
	return "RUN echo waiting; until wget -q -O /dev/null " + s.url + "/gate; do sleep 0.2; done"
}

// slow starts a build that waits at the gate, and returns when it does.
func (s *service) slow(t *testing.T, image string) *clientRun {
	t.Helper()
	s.site.open.Store(false)
	s.site.seen.Store(0)
	s.slowBuilds++
	image += strconv.Itoa(s.slowBuilds) // one that was built before is not built again
	r := s.startClient(t, "--follow", s.document(t, image, s.site.wait()))
	eventually(t, image+" waits at the gate", func() bool {
		select {
		case <-r.done:
			t.Fatalf("it has ended: %s", &r.stderr)
		default:
		}
		return s.site.seen.Load() > 0
	})
	return r
}

// succeeds opens the gate; the build must end well.
func (s *service) succeeds(t *testing.T, r *clientRun) {
	t.Helper()
	s.site.open.Store(true)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	select {
	case <-r.done:
	case <-ctx.Done():
		t.Fatalf("the build does not end: %s", &r.stderr)
	}
	require.Zero(t, r.ProcessState.ExitCode(), &r.stderr)
	require.Len(t, strings.Fields(r.stdout.String()), 4, "two variants with their digests")
}
