package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/service"
	"imagebuilder/internal/service/auth"
	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/service/telemetry"
	"imagebuilder/internal/testbed"
)

var pluginPath string

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		pluginPath = filepath.Join(folder, "image-builder-plugin")
		return m.Run()
	}, "image-builder-plugin"))
}

// loopback is where the tests' registries and git servers are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

const testKey = "test-key-0123456789abcdef"

// running is a service in this process.
type running struct {
	url  string
	out  *testbed.Words // what it printed for people
	logs *testbed.Words
	stop func() error // ends it in order; the second time it does nothing
}

// config is that of a service of one process, with the tests' engine.
func config(t *testing.T) service.Config {
	t.Helper()
	return service.Config{
		Listen: "127.0.0.1:0", DataDir: filepath.Join(t.TempDir(), "data"), Plugins: []string{pluginPath}, Egress: loopback,
		Settings: result.Settings{Engine: "buildkit", BuildKitHost: testbed.NewEngine(t), CacheDir: t.TempDir()},
		Auth:     auth.Config{APIKey: testKey}, PlainRegistries: []string{"*"}, Version: "v1.2.3",
		LookupEnv: func(string) (string, bool) { return "", false }, Environ: os.Environ(), Now: time.Now,
	}
}

// run starts a service, and ends it with the test.
func run(t *testing.T, c service.Config) *running {
	t.Helper()
	r := &running{out: &testbed.Words{}, logs: &testbed.Words{}}
	c.Out, c.Logger = r.out, telemetry.NewLogger(r.logs, nil)
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan string, 1), make(chan error, 1)
	c.Ready = func(address string) { up <- address }
	go func() { ended <- service.Run(ctx, c) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { require.NoError(t, r.stop()) })
	select {
	case address := <-up:
		r.url = "http://" + address
	case err := <-ended:
		ended <- nil
		require.NoError(t, err, r.logs)
	case <-time.After(time.Minute):
		require.Fail(t, "the service does not come up", r.logs)
	}
	return r
}

// request makes a request with a key.
func (r *running) request(t *testing.T, method, path, key string, body any) *http.Request {
	t.Helper()
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		require.NoError(t, err)
		payload = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, payload)
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("X-API-Key", key)
	}
	return request
}

// ask sends a request and gives the status and the body.
func (r *running) ask(t *testing.T, method, path, key string, body any) (int, []byte) {
	t.Helper()
	return send(t, r.request(t, method, path, key, body))
}

func send(t *testing.T, request *http.Request) (int, []byte) {
	t.Helper()
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, text
}

// submit submits a document by the original's route and gives the invocation's id.
func (r *running) submit(t *testing.T, key string, doc any) string {
	t.Helper()
	return accepted(t, r.request(t, http.MethodPost, "/build/", key, doc))
}

func accepted(t *testing.T, request *http.Request) string {
	t.Helper()
	status, text := send(t, request)
	require.Equal(t, http.StatusAccepted, status, "%s", text)
	var answer map[string]string
	require.NoError(t, json.Unmarshal(text, &answer))
	return answer["invocation_id"]
}

// await waits until a build has ended, and gives what the original's route tells of it.
func (r *running) await(t *testing.T, key, id string) map[string]any {
	t.Helper()
	var invocation map[string]any
	require.Eventually(t, func() bool {
		status, text := r.ask(t, http.MethodGet, "/status/"+id, key, nil)
		require.Equal(t, http.StatusOK, status, "%s", text)
		invocation = nil
		require.NoError(t, json.Unmarshal(text, &invocation))
		return invocation["state"] == "success" || invocation["state"] == "failed"
	}, 2*time.Minute, 50*time.Millisecond, "build %s does not end", id)
	return invocation
}

// document is what builds a repository with a Dockerfile into a registry.
func document(t *testing.T, site *testbed.Site, dockerfile, tag string) map[string]any {
	t.Helper()
	_, err := testbed.PushBases(t.Context(), site.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	name := tag + ".git"
	url, _ := site.Repository(t, name, fstest.MapFS{"Dockerfile": {Data: []byte("FROM " + site.Registry.Host + "/base/busybox:1\n" + dockerfile)}})
	return map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": url}},
		"target": map[string]any{
			"registry": map[string]any{"url": site.Registry.Host}, "images": []any{map[string]any{"image": "service", "tag": tag}}},
	}
}

// TestAlone is a service without any configuration: it makes its key, builds, and goes on with what it has after a new start.
func TestAlone(t *testing.T) {
	t.Parallel()
	site := testbed.NewSite(t, testbed.RegistryOptions{})
	c := config(t)
	c.Auth = auth.Config{}
	first := run(t, c)
	found := regexp.MustCompile(`API key \(shown only now\): (\S+)\n`).FindStringSubmatch(first.out.String())
	require.NotNil(t, found, "no key was printed: %s", first.out)
	key := found[1]
	require.NotContains(t, first.logs.String(), key)
	info, err := os.Stat(c.DataDir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	stored, err := os.ReadFile(filepath.Join(c.DataDir, "api-keys.yaml"))
	require.NoError(t, err)
	require.NotContains(t, string(stored), key)

	status, _ := first.ask(t, http.MethodGet, "/v1/invocations", "", nil)
	require.Equal(t, http.StatusUnauthorized, status)
	id := first.submit(t, key, document(t, site, "RUN echo hello from the build\n", "alone"))
	invocation := first.await(t, key, id)
	require.Equal(t, "success", invocation["state"], "%v", invocation["response"])
	require.Contains(t, site.Tags(t, "service"), "alone")
	_, log := first.ask(t, http.MethodGet, "/v1/invocations/"+id+"/log", key, nil)
	require.Contains(t, string(log), "hello from the build")
	status, metrics := first.ask(t, http.MethodGet, "/metrics", "", nil)
	require.Equal(t, http.StatusOK, status)
	for _, line := range []string{`imagebuilder_builds_total{reason="",state="success"} 1`, `imagebuilder_queue_length{state="pending"} 0`,
		`imagebuilder_queue_up 1`, `imagebuilder_build_phase_seconds_count{phase="build"} 1`, `imagebuilder_info{version="v1.2.3"} 1`} {
		require.Contains(t, string(metrics), line+"\n")
	}
	status, ready := first.ask(t, http.MethodGet, "/readyz", "", nil)
	require.Equal(t, http.StatusOK, status, "%s", ready)

	other := c
	other.Ready, other.Out = nil, nil
	err = service.Run(t.Context(), other)
	require.ErrorContains(t, err, "another process uses it")
	require.Equal(t, fault.Unavailable, fault.KindOf(err))

	require.NoError(t, first.stop())
	second := run(t, c)
	require.Empty(t, second.out.String(), "a second key was made")
	require.Equal(t, invocation, second.await(t, key, id))
}

// TestRoles has an API and a worker apart, on PostgreSQL: the API cannot read the documents back, the worker answers no requests.
func TestRoles(t *testing.T) {
	t.Parallel()
	site := testbed.NewSite(t, testbed.RegistryOptions{})
	identity, recipient, err := seal.GenerateKey()
	require.NoError(t, err)
	db := testbed.Postgres(t)
	base := config(t)
	base.DataDir = ""
	base.Postgres = &store.Postgres{Host: db.Host, Port: db.Port, Name: db.Name, User: db.User, Password: db.Password}

	early := base
	early.Role, early.SealTo = service.RoleAPI, []string{recipient}
	err = service.Run(t.Context(), early)
	require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "schema")

	front := early
	front.Migrate, front.Plugins = true, nil
	served := run(t, front)
	id := served.submit(t, testKey, document(t, site, "RUN echo apart\n", "roles"))
	status, text := served.ask(t, http.MethodGet, "/status/"+id, testKey, nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, string(text), `"pending"`)

	back := base
	back.Role, back.Identities = service.RoleWorker, filepath.Join(t.TempDir(), "identities.txt")
	require.NoError(t, os.WriteFile(back.Identities, []byte("# the workers'\n"+identity+"\n"), 0o600))
	worker := run(t, back)
	require.Equal(t, "success", served.await(t, testKey, id)["state"])
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/v1/invocations": 404, "/": 404} {
		status, _ := worker.ask(t, http.MethodGet, path, testKey, nil)
		require.Equal(t, want, status, path)
	}
	status, text = served.ask(t, http.MethodPost, "/v1/plan", testKey, map[string]any{"build_params": document(t, site, "RUN true\n", "plan")})
	require.Equal(t, http.StatusServiceUnavailable, status, "%s", text)
}

// TestWrongConfigurations are refused before anything is touched.
func TestWrongConfigurations(t *testing.T) {
	t.Parallel()
	postgres := &store.Postgres{Host: "db.invalid"}
	for what, c := range map[string]service.Config{
		"role":                     {Role: "half", DataDir: "/nowhere", Plugins: []string{"x"}},
		"needs PostgreSQL":         {Role: service.RoleAPI, DataDir: "/nowhere"},
		"sealed to the workers":    {Role: service.RoleAPI, Postgres: postgres},
		"a worker needs":           {Role: service.RoleWorker, Postgres: postgres, Plugins: []string{"x"}},
		"no plugin":                {DataDir: "/nowhere"},
		"--tls-cert and --tls-key": {DataDir: "/nowhere", Plugins: []string{"x"}, TLSCert: "x"},
		"--public-url":             {DataDir: "/nowhere", Plugins: []string{"x"}, PublicURL: "builds.example.com"},
		"--listen not an address":  {DataDir: "/nowhere", Plugins: []string{"x"}, Listen: "not an address"},
		"a data folder is needed":  {Plugins: []string{"x"}},
	} {
		err := service.Run(t.Context(), c)
		require.ErrorContains(t, err, what)
		require.Contains(t, []fault.Kind{fault.Invalid, fault.NotFound}, fault.KindOf(err), what)
	}
}
