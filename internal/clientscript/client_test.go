package clientscript_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestSyntax: it is what Python 3.8 reads, and Python finds no warning in it.
func TestSyntax(t *testing.T) {
	t.Parallel()
	check := `
import ast, sys
tree = ast.parse(open(sys.argv[1]).read(), feature_version=(3, 8))
for node in ast.walk(tree):
    for name in [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []:
        if name.split(".")[0] not in sys.stdlib_module_names:
            sys.exit(name + " is not of the standard library")
`
	out, err := exec.Command("python3", "-W", "error", "-c", check, script).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

const quick = "FROM busybox\nRUN echo made >/made\n"

func TestFolder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.json"), s.document(t, "one", quick))
	text, err := yaml.Marshal(s.document(t, "two", quick))
	require.NoError(t, err)
	writeText(t, filepath.Join(dir, "b.yaml"), string(text))
	writeText(t, filepath.Join(dir, "notes.txt"), "not a document")
	c := startClient(t, service.url, dir)
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
	s.requireBuilt(t, c.stdout.String(), "one:1", "two:1")
	require.Contains(t, c.said(), "a.json: success")
}

func TestNoWait(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	file := write(t, "later.json", s.document(t, "later", quick))
	c := startClient(t, service.url, "--no-wait", "--label", "team=shop", file)
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
	name, id, _ := strings.Cut(strings.TrimSpace(c.stdout.String()), " ")
	require.Equal(t, file, name)
	require.Contains(t, builds(t, s.Registry.Host+"/later"), id)
	var build struct{ Labels map[string]string }
	ask(t, "/v1/invocations/"+id, &build)
	require.Equal(t, map[string]string{"team": "shop"}, build.Labels)
	eventually(t, "it is built", func() bool { return builds(t, s.Registry.Host+"/later")[id] == "success" })
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := write(t, "good.json", s.document(t, "good", quick))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	moved := front(t, func(_ http.Handler, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusPermanentRedirect)
		return true
	})
	inside := s.document(t, "inside", quick)
	inside["source"] = map[string]any{"git_repo": map[string]any{"url": "http://127.0.0.2:1/app.git"}}
	redirected := s.document(t, "redirected", quick)
	redirects := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/", http.StatusFound))
	t.Cleanup(redirects.Close)
	redirected["source"] = map[string]any{"git_repo": map[string]any{"url": redirects.URL + "/app.git"}}
	missing := s.document(t, "missing", quick)
	missing["source"].(map[string]any)["git_repo"].(map[string]any)["version"] = "no-such-branch"
	key := []string{"IMAGE_BUILDER_URL=" + service.url, "IMAGE_BUILDER_API_KEY=" + apiKey}
	tests := map[string]struct {
		env  []string
		args []string
		code int
		says string
	}{
		"build failed":      {key, []string{write(t, "f.json", s.document(t, "failing", "FROM busybox\nRUN echo oh no; exit 7\n"))}, fault.ExitFailed, "exit code: 7"},
		"not found":         {key, []string{write(t, "m.json", missing)}, fault.ExitFailed, "no-such-branch"},
		"inside":            {key, []string{write(t, "i.json", inside)}, fault.ExitInvalid, "/source/git_repo/url"},
		"denied by egress":  {key, []string{write(t, "r.json", redirected)}, fault.ExitDenied, "--allow-egress"},
		"invalid":           {key, []string{write(t, "v.json", map[string]any{"source": map[string]any{}, "target": 1})}, fault.ExitInvalid, "/target"},
		"worst comes first": {key, []string{write(t, "w.json", map[string]any{}), good}, fault.ExitInvalid, "good.json: success"},
		"no JSON":           {key, []string{writeText(t, "n.json", "{")}, fault.ExitInvalid, "it is no JSON"},
		"no file":           {key, []string{"/nonexistent.json"}, fault.ExitInvalid, "read /nonexistent.json"},
		"empty folder":      {key, []string{t.TempDir()}, fault.ExitInvalid, "there is no *.json"},
		"usage":             {key, []string{"--compat", "--label", "a=b", good}, fault.ExitInvalid, "usage:"},
		"wrong key":         {[]string{"IMAGE_BUILDER_URL=" + service.url, "IMAGE_BUILDER_API_KEY=x"}, []string{good}, fault.ExitDenied, "status 401"},
		"wrong token":       {[]string{"IMAGE_BUILDER_URL=" + service.url, "IMAGE_BUILDER_TOKEN=x"}, []string{good}, fault.ExitDenied, "status 401"},
		"two lines of key":  {[]string{"IMAGE_BUILDER_URL=" + service.url, "IMAGE_BUILDER_API_KEY=" + apiKey + "\nx"}, []string{good}, fault.ExitInvalid, "characters that none has"},
		"no key":            {[]string{"IMAGE_BUILDER_URL=" + service.url}, []string{good}, fault.ExitDenied, "IMAGE_BUILDER_API_KEY"},
		"no service":        {key, []string{"--url", gone.URL, "--patience", "1", good}, fault.ExitUnavailable, "refused"},
		"redirect":          {key, []string{"--url", moved, good}, fault.ExitInvalid, "https://elsewhere.example.com/"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startClientIn(t, test.env, test.args...)
			require.Equal(t, test.code, c.code(t), c.said())
			require.Contains(t, c.said(), test.says)
			require.NotContains(t, c.said(), "Traceback")
			require.NotContains(t, c.said(), apiKey)
		})
	}
}

func TestKeyFromFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := startClientIn(t, nil, "--url", service.url, "--api-key-file", writeText(t, "key", apiKey+"\n"), write(t, "d.json", s.document(t, "keyed", quick)))
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
}

// TestFollowResumes: the log arrives whole and once, though its connection is cut again and again.
func TestFollowResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const lines = 3000
	file := write(t, "d.json", s.document(t, "logged", fmt.Sprintf("FROM busybox\nRUN : %s; seq 1 %d | sed 's/^/line /'; printf 'tail without end'\n", rand.Text(), lines)))
	cuts := 0
	url := front(t, func(forward http.Handler, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/log") || cuts >= 5 {
			return false
		}
		cuts++
		forward.ServeHTTP(&cutWriter{ResponseWriter: w, left: 9000}, r)
		return true
	})
	c := startClient(t, url, "--follow", file)
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
	require.Equal(t, 5, cuts)
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^#\d+ line (\d+)$`).FindAllStringSubmatch(c.said(), -1) {
		got = append(got, m[1])
	}
	require.Len(t, got, lines)
	for i, number := range got {
		require.Equal(t, fmt.Sprint(i+1), number)
	}
	require.Regexp(t, `(?m)^#\d+ tail without end$`, c.said())
	require.Regexp(t, `(?m)^#\d+ .*RUN : `, c.said())
	s.requireBuilt(t, c.stdout.String(), "logged:1")
}

// cutWriter cuts a connection after so many bytes, in the middle of whatever that is.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) >= c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		return 0, http.ErrAbortHandler // for which the forwarder drops the connection
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func (c *cutWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// TestTriesAgain: a service that is busy, that is not there and whose answer is lost is asked once more, and builds once.
func TestTriesAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	file := write(t, "d.json", s.document(t, "once", quick))
	var mu sync.Mutex
	var keys []string
	begin := time.Now()
	url := front(t, func(forward http.Handler, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		mu.Lock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		n := len(keys)
		mu.Unlock()
		switch n {
		case 1, 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[n-1])
		case 3: // it arrives, and nobody hears of it
			forward.ServeHTTP(httptest.NewRecorder(), r)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		default:
			return false
		}
		return true
	})
	c := startClient(t, url, file)
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
	require.GreaterOrEqual(t, time.Since(begin), 2*time.Second, "Retry-After is honoured")
	require.Len(t, keys, 4)
	require.NotEmpty(t, keys[0])
	for _, key := range keys {
		require.Equal(t, keys[0], key)
	}
	require.Len(t, builds(t, s.Registry.Host+"/once"), 1)
	s.requireBuilt(t, c.stdout.String(), "once:1")
}

// sleeper is a Dockerfile whose RUN takes for ever, with a number of seconds to find the process by.
func sleeper(t *testing.T) (dockerfile, seconds string) {
	t.Helper()
	seconds = fmt.Sprint(100_000 + time.Now().UnixNano()%1_000_000)
	return "FROM busybox\nRUN sleep " + seconds + "\n", seconds
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM} {
		for _, how := range []string{"--follow", "--no-follow"} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				dockerfile, seconds := sleeper(t)
				c := startClient(t, service.url, how, write(t, "a.json", s.document(t, "slow", dockerfile)), write(t, "b.json", s.document(t, "quick", quick)))
				eventually(t, "the step runs", func() bool { return testbed.ProcessRuns(seconds) })
				eventually(t, "the other is built", func() bool { return oneState(builds(t, s.Registry.Host+"/quick")) == "success" })
				require.NoError(t, c.Process.Signal(signal))
				require.Equal(t, fault.ExitCancelled, c.code(t), c.said())
				require.Contains(t, c.said(), "a.json: cancelled")
				require.Equal(t, "cancelled", oneState(builds(t, s.Registry.Host+"/slow")))
				require.Equal(t, "success", oneState(builds(t, s.Registry.Host+"/quick")))
				eventually(t, "the step is gone", func() bool { return !testbed.ProcessRuns(seconds) })
			})
		}
	}
}

func oneState(states map[string]string) string {
	for _, state := range states {
		return state
	}
	return ""
}

// TestInterruptWhileSending: the answer to the submission is on its way when the user gives up; nothing is left behind.
func TestInterruptWhileSending(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dockerfile, _ := sleeper(t)
	arrived, first := make(chan struct{}), sync.Once{}
	url := front(t, func(forward http.Handler, _ http.ResponseWriter, r *http.Request) bool {
		held := false
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/invocations") {
			first.Do(func() {
				forward.ServeHTTP(httptest.NewRecorder(), r)
				close(arrived)
				held = true
				<-r.Context().Done()
			})
		}
		return held
	})
	c := startClient(t, url, write(t, "a.json", s.document(t, "held", dockerfile)))
	<-arrived
	require.NoError(t, c.Process.Signal(syscall.SIGINT))
	require.Equal(t, fault.ExitCancelled, c.code(t), c.said())
	states := builds(t, s.Registry.Host+"/held")
	require.Len(t, states, 1)
	require.Equal(t, "cancelled", oneState(states))
}

func TestSecondInterruptLeavesAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dockerfile, _ := sleeper(t)
	asked := make(chan struct{})
	url := front(t, func(_ http.Handler, _ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/cancel") {
			return false
		}
		close(asked)
		<-r.Context().Done() // a service that does not answer
		return true
	})
	c := startClient(t, url, "--no-follow", write(t, "a.json", s.document(t, "stuck", dockerfile)))
	c.says(t, "in_progress")
	require.NoError(t, c.Process.Signal(syscall.SIGINT))
	<-asked
	require.NoError(t, c.Process.Signal(syscall.SIGINT))
	require.Equal(t, fault.ExitCancelled, c.code(t), c.said())
	for id := range builds(t, s.Registry.Host+"/stuck") { // for the tests after this one
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, service.url+"/v1/invocations/"+id+"/cancel", nil)
		require.NoError(t, err)
		request.Header.Set("X-API-Key", apiKey)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
	}
}

// TestCompat: with the two endpoints of the original.
func TestCompat(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var mu sync.Mutex
	paths := map[string]bool{}
	url := front(t, func(_ http.Handler, _ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		paths[strings.Join(strings.SplitN(r.URL.Path, "/", 3)[:2], "/")] = true
		return false
	})
	c := startClient(t, url, "--compat", write(t, "a.json", s.document(t, "compat", quick)))
	require.Equal(t, fault.ExitOK, c.code(t), c.said())
	require.NotEmpty(t, c.stdout.String())
	require.Equal(t, map[string]bool{"/build": true, "/status": true}, paths)
	require.Equal(t, []string{"1"}, s.Tags(t, "compat"))
	c = startClient(t, url, "--compat", write(t, "a.json", s.document(t, "broken", "FROM busybox\nRUN exit 7\n")))
	require.Equal(t, fault.ExitFailed, c.code(t), c.said())
	require.Contains(t, c.said(), "exit code: 7")
	c = startClient(t, url, "--compat", writeText(t, "a.yaml", "source: {}"))
	require.Equal(t, fault.ExitInvalid, c.code(t), c.said())
}
