package lifecycle_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// closedPort is an address of this machine where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func document(url, more string) string {
	return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"%s}]}}`, url, more)
}

// TestBadSources: whatever is wrong is said before anything is built, with its kind, and nothing is left in the registry.
func TestBadSources(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	const canary = "canary-git-password"
	private, err := testbed.StartGit(b.gitRoot, testbed.GitOptions{User: "u", Password: "p"})
	require.NoError(t, err)
	t.Cleanup(private.Close)
	good, _ := b.repository(t, "good.git", map[string]string{"Dockerfile": "FROM busybox\n", "Containerfile": "x", "src/a": "x"})
	broken, _ := b.repository(t, "broken.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY a /\n\nRUNN make\n"})

	tests := []struct {
		name, document string
		kind           fault.Kind
		says           []string
	}{
		{"unreachable git host", document("http://"+closedPort(t)+"/x.git", ""), fault.Unavailable, []string{"connection refused"}},
		{"wrong git password", fmt.Sprintf(`{"source":{"git_repo":{"url":"%s/good.git","username":"u","password":%q}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"app","tag":"1"}]}}`, private.URL, canary), fault.Denied, []string{"good.git"}},
		{"no git password", document(private.URL+"/good.git", ""), fault.Denied, []string{"good.git"}},
		{"missing repository", document(b.git.URL+"/absent.git", ""), fault.NotFound, []string{"absent.git"}},
		{"missing branch", fmt.Sprintf(`{"source":{"git_repo":{"url":%q,"version":"mian"}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"app","tag":"1"}]}}`, good), fault.NotFound, []string{"mian", "main"}},
		{"missing Dockerfile", fmt.Sprintf(`{"source":{"git_repo":{"url":%q,"dockerfile":"docker/Dockerfile"}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"app","tag":"1"}]}}`, good), fault.NotFound, []string{"docker/Dockerfile", "Dockerfile", "Containerfile"}},
		{"missing workdir", fmt.Sprintf(`{"source":{"git_repo":{"url":%q,"workdir":"source"}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"app","tag":"1"}]}}`, good), fault.NotFound, []string{"source", "src"}},
		{"Dockerfile that does not parse", document(broken, ""), fault.Invalid, []string{"Dockerfile:4", "RUNN"}},
		{"base without the platform", document(good, `,"platforms":["linux/amd64","linux/s390x"]`), fault.NotFound,
			[]string{"base/busybox:1", "linux/s390x", "linux/amd64"}},
		{"missing base", strings.Replace(document(good, ""), "busybox:1", "busybox:none", 1), fault.NotFound, []string{"base/busybox:none"}},
		{"missing stage", document(good, `,"stage":"relase"`), fault.Invalid, []string{"relase"}},
		{"missing Dockerfile by URL", `{"source":{"dockerfile":{"url":"` + b.git.URL + `/nothing"}},"target":{"registry":{"url":"@REG"},
			"images":[{"image":"app","tag":"1"}]}}`, fault.NotFound, []string{"/nothing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, seen, err := b.create(t, t.Context(), tt.document)
			require.Equal(t, tt.kind, fault.KindOf(err), "%v", err)
			for _, text := range tt.says {
				require.Contains(t, err.Error()+"\n"+fault.As(err).Hint, text)
			}
			require.NotContains(t, err.Error()+fault.As(err).Hint+seen.text(t), canary)
			require.Nil(t, out)
		})
	}
	t.Cleanup(func() { require.Empty(t, b.tags(t, "app")) })
}

// switchable is a registry's front that a test can make misbehave.
type switchable struct {
	bad  atomic.Pointer[func(w http.ResponseWriter, r *http.Request) (handled bool)]
	next http.Handler
}

func (s *switchable) middleware(next http.Handler) http.Handler {
	s.next = next
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bad := s.bad.Load(); bad != nil && (*bad)(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *switchable) misbehave(f func(w http.ResponseWriter, r *http.Request) bool) { s.bad.Store(&f) }

// TestRegistryMisbehaves: a tag that was there stays what it was, whenever the registry gives up.
func TestRegistryMisbehaves(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter)
		on     func(r *http.Request) bool
		kind   fault.Kind
	}{
		{"blobs are refused for good", status(http.StatusInternalServerError), func(r *http.Request) bool {
			return r.Method != http.MethodGet && r.Method != http.MethodHead && strings.Contains(r.URL.Path, "/app/blobs/uploads/")
		}, fault.Unavailable},
		{"manifests are refused for good", status(http.StatusServiceUnavailable), func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/app/manifests/")
		}, fault.Unavailable},
		{"tags may not be moved", status(http.StatusForbidden), func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/app/manifests/1")
		}, fault.Denied},
		{"pushes are forbidden", status(http.StatusForbidden), func(r *http.Request) bool {
			return r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/app/blobs/uploads")
		}, fault.Denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			front := &switchable{}
			b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
			b.pushBases(t)
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo one >/n\n"})
			before, _, err := b.create(t, t.Context(), document(url, ""))
			require.NoError(t, err)

			_, err = testbed.CommitTo(filepath.Join(b.gitRoot, "app.git"), testbed.GitCommit{
				Files: mapFS(map[string]string{"Dockerfile": "FROM busybox\nRUN echo two >/n\n"})})
			require.NoError(t, err)
			front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if tt.on(r) {
					tt.answer(w)
					return true
				}
				return false
			})
			_, _, err = b.create(t, t.Context(), document(url, ""))
			require.Equal(t, tt.kind, fault.KindOf(err), "%v", err)
			front.misbehave(func(http.ResponseWriter, *http.Request) bool { return false })
			digest, err := b.pull(t, "@REG/app:1", "linux", "amd64").Digest()
			require.NoError(t, err)
			require.Equal(t, before.Images[0].Digest, digest.String(), "the tag is what it was")
		})
	}
}

func TestPassingTroubleIsGotOver(t *testing.T) {
	t.Parallel()
	front := &switchable{}
	b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo one >/n\n"})
	var manifests atomic.Int32
	front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/app/manifests/") && manifests.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	_, _, err := b.create(t, t.Context(), document(url, ""))
	require.NoError(t, err)
	require.Greater(t, manifests.Load(), int32(1))
}

// TestServedIsNotWhatWasBuilt: success is said only of what the registry serves.
func TestServedIsNotWhatWasBuilt(t *testing.T) {
	t.Parallel()
	front := &switchable{}
	b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo one >/n\n"})
	front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut && strings.HasSuffix(r.URL.Path, "/app/manifests/1") {
			r.URL.Path = "/v2/base/busybox/manifests/1" // somebody else's image
			front.next.ServeHTTP(w, r)
			return true
		}
		return false
	})
	_, _, err := b.create(t, t.Context(), document(url, ""))
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	require.ErrorContains(t, err, "the registry serves sha256:")
}

func TestRegistryDown(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":%q},
		"images":[{"image":"a","tag":"1"}]}}`, url, closedPort(t)))
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	require.ErrorContains(t, err, "connection refused")
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{TLS: true})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, b.registry.CAPEM, 0o600))
	build := func(more string) error {
		_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"%s},
			"images":[{"image":"a","tag":"1","platforms":["linux/amd64","linux/arm64"]}]}}`, url, more))
		return err
	}
	err := build("")
	require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "certificate")
	require.Contains(t, fault.As(err).Hint, "ca_cert")
	require.NoError(t, build(`,"insecure":true`))
	require.NoError(t, build(fmt.Sprintf(`,"ca_cert":"file:%s"`, ca)))
}

func TestBasicAuthentication(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Basic: map[string]string{"robot": "right-pass"}})
	requireAuthentication(t, b, "robot", "right-pass")
}

func TestTokenAuthentication(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: map[string]testbed.TokenUser{
		"robot":  {Password: "right-pass", Access: map[string][]string{"team/*": {"pull", "push"}}},
		"reader": {Password: "reader-pass", Access: map[string][]string{"team/*": {"pull"}}},
	}}})
	requireAuthentication(t, b, "robot", "right-pass")
	_, seen, err := b.create(t, t.Context(), authenticated(b, t, "reader", "reader-pass"))
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.NotContains(t, seen.text(t), "Step", "nothing was built")
}

// TestTokenExpiresDuringPush: a token lives a second, and the blobs take longer than that.
func TestTokenExpiresDuringPush(t *testing.T) {
	t.Parallel()
	var late atomic.Int32
	slow := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/") {
				late.Add(1)
				time.Sleep(1500 * time.Millisecond) // longer than a token lives; the registry looks at it afterwards
			}
			next.ServeHTTP(w, r)
		})
	}
	b := newBed(t, testbed.RegistryOptions{Middleware: slow, Tokens: &testbed.TokenOptions{
		Lifetime: time.Second, Users: map[string]testbed.TokenUser{
			"robot": {Password: "right-pass", Access: map[string][]string{"team/*": {"pull", "push"}}},
		}}})
	_, _, err := b.create(t, t.Context(), authenticated(b, t, "robot", "right-pass"))
	require.NoError(t, err)
	require.Positive(t, late.Load())
}

func authenticated(b *bed, t *testing.T, user, password string) string {
	t.Helper()
	url := b.git.URL + "/auth.git"
	if _, err := os.Stat(filepath.Join(b.gitRoot, "auth.git")); err != nil {
		url, _ = b.repository(t, "auth.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	}
	credentials := ""
	if user != "" {
		credentials = fmt.Sprintf(`,"username":%q,"password":%q`, user, password)
	}
	return fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"%s},
		"images":[{"image":"team/app","tag":"1"}]}}`, url, credentials)
}

func requireAuthentication(t *testing.T, b *bed, user, password string) {
	t.Helper()
	const canary = "canary-registry-password"
	out, seen, err := b.create(t, t.Context(), authenticated(b, t, user, canary))
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "team/app")
	require.NotContains(t, err.Error()+fault.As(err).Hint+seen.text(t), canary)
	require.Nil(t, out)

	_, _, err = b.create(t, t.Context(), authenticated(b, t, "", ""))
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)

	out, seen, err = b.create(t, t.Context(), authenticated(b, t, user, password))
	require.NoError(t, err)
	require.NotEmpty(t, out.Images[0].Digest)
	require.NotContains(t, seen.text(t), password)
}

// TestCancel: a cancelled build ends soon, its step is ended in the engine, and its tag is not there.
func TestCancel(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN echo started; exec sleep 31415926\n"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for !testbed.ProcessRuns("31415926") && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	_, _, err := b.create(t, ctx, document(url, ""))
	require.Equal(t, fault.Cancelled, fault.KindOf(err), "%v", err)
	require.Eventually(t, func() bool { return !testbed.ProcessRuns("31415926") }, 10*time.Second, 20*time.Millisecond, "the step goes on")
	require.Empty(t, b.tags(t, "app"))
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 2718281\n"})
	_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"app","tag":"1","base":"@REG/base/busybox:1"}]},"options":{"timeout":"3s"}}`, url))
	require.Equal(t, fault.BuildFailed, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "3s of options.timeout")
}
