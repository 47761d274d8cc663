//go:build soak

package load

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/testbed"
)

const (
	apiKey     = "load-key-0123456789abcdef"
	attackTime = 20 * time.Second
	submitRate = 500  // submissions a second
	statusRate = 3000 // looks at a status a second
	lookedAt   = 1000 // builds whose status is looked at, in turn
	starts     = 40   // builds on an idle worker, one after the other
	followers  = 1000 // of one log
	logLines   = 300
)

var bin string // folder of the executables

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		bin = folder
		return m.Run()
	}, "image-builder-api", "image-builder-plugin"))
}

// service is an API and, when it is asked for, a worker, each a process, on PostgreSQL.
type service struct {
	url    string
	env    []string
	site   *testbed.Site
	repo   string
	engine string
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{site: testbed.NewSite(t, testbed.RegistryOptions{}), engine: testbed.NewEngine(t)}
	identity, _, err := seal.GenerateKey()
	require.NoError(t, err)
	identities := filepath.Join(t.TempDir(), "identities.txt")
	require.NoError(t, os.WriteFile(identities, []byte(identity), 0o600))
	db := testbed.NewPostgresServer(t).Database(t)
	s.env = append(os.Environ(), "IMAGEBUILDER_DATABASE_IP="+db.Host, "IMAGEBUILDER_DATABASE_PORT="+strconv.Itoa(db.Port),
		"IMAGEBUILDER_DATABASE_NAME="+db.Name, "IMAGEBUILDER_DATABASE_USER="+db.User, "IMAGEBUILDER_DATABASE_PASSWORD="+db.Password,
		"IMAGE_BUILDER_IDENTITIES="+identities, "AUTH_API_KEY="+apiKey, "BUILDKIT_HOST="+s.engine, "IMAGE_BUILDER_LOG_LEVEL=warn")
	_, err = testbed.PushBases(t.Context(), s.site.Registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64"}})
	require.NoError(t, err)
	s.repo, _ = s.site.Repository(t, "app.git", fstest.MapFS{"Dockerfile": {Data: fmt.Appendf(nil, `FROM %s/base/busybox:1
ARG N LINES
RUN i=0; while [ $i -lt $LINES ]; do i=$((i+1)); echo "line $i"; sleep 0.02; done; echo $N >/n
`, s.site.Registry.Host)}})
	s.url = "http://" + s.start(t, "api")
	return s
}

// start starts a process of the service, ends it with the test, and gives its address.
func (s *service) start(t *testing.T, role string) string {
	t.Helper()
	address := "127.0.0.1:" + strconv.Itoa(18100+len(role)) // api and worker differ in length
	cmd := exec.Command(filepath.Join(bin, "image-builder-api"), "serve", "--role", role, "--migrate", "--listen", address, "--engine", "buildkit",
		"--max-queued", "-1", "--rate-limit", "-1", "--allow-egress", "127.0.0.0/8,::1", "--plain-registry", "*")
	cmd.Env, cmd.Stderr = s.env, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		answer, err := http.Get("http://" + address + "/healthz")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	return address
}

// body is a document whose image no other has.
func (s *service) body(t *testing.T, n string, lines int) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"source": map[string]any{"git_repo": map[string]any{"url": s.repo}},
		"target": map[string]any{"registry": map[string]any{"url": s.site.Registry.Host}, "images": []any{
			map[string]any{"image": "load", "tag": n, "build_args": map[string]any{"N": n, "LINES": strconv.Itoa(lines)}}}},
	})
	require.NoError(t, err)
	return data
}

func (s *service) submit(t *testing.T, n string, lines int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/build/", bytes.NewReader(s.body(t, n, lines)))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", apiKey)
	var accepted map[string]string
	decode(t, request, http.StatusAccepted, &accepted)
	return accepted["invocation_id"]
}

func decode(t *testing.T, request *http.Request, status int, into any) {
	t.Helper()
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, status, answer.StatusCode)
	require.NoError(t, json.NewDecoder(answer.Body).Decode(into))
}

func (s *service) status(t *testing.T, id string) map[string]string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/status/"+id, nil)
	require.NoError(t, err)
	request.Header.Set("X-API-Key", apiKey)
	var all map[string]any
	decode(t, request, http.StatusOK, &all)
	texts := map[string]string{}
	for name, value := range all {
		texts[name], _ = value.(string)
	}
	return texts
}

func (s *service) awaitEnd(t *testing.T, id string) map[string]string {
	t.Helper()
	var last map[string]string
	require.Eventually(t, func() bool {
		last = s.status(t, id)
		return last["state"] == "success" || last["state"] == "failed"
	}, 5*time.Minute, 20*time.Millisecond)
	require.Equal(t, "success", last["state"], last["response"])
	return last
}

// report is the part of vegeta's report that is of interest. Times are nanoseconds.
type report struct {
	Latencies   map[string]float64 `json:"latencies"`
	Rate        float64            `json:"rate"`
	Throughput  float64            `json:"throughput"`
	Success     float64            `json:"success"`
	StatusCodes map[string]int     `json:"status_codes"`
	Errors      []string           `json:"errors"`
}

func (r report) String() string {
	ms := func(name string) float64 { return r.Latencies[name] / 1e6 }
	return fmt.Sprintf("%.0f/s asked, %.0f/s answered, p50 %.1f ms, p95 %.1f ms, p99 %.1f ms, max %.0f ms, %.2f%% as they should be %v",
		r.Rate, r.Throughput, ms("50th"), ms("95th"), ms("99th"), ms("max"), 100*r.Success, r.StatusCodes)
}

// attack sends requests at a fixed rate, whether or not those before are answered.
func attack(t *testing.T, rate int, targets []byte) report {
	t.Helper()
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	program := filepath.Join(root, ".work", "bench", "vegeta")
	require.FileExists(t, program, "scripts/bench.sh makes it")
	results := filepath.Join(t.TempDir(), "results")
	send := exec.Command(program, "attack", "-format=json", "-lazy", "-rate", strconv.Itoa(rate), "-duration", attackTime.String(), "-output", results)
	send.Stdin, send.Stderr = bytes.NewReader(targets), os.Stderr
	require.NoError(t, send.Run())
	out, err := exec.Command(program, "report", "-type=json", results).Output()
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(out, &r))
	return r
}

// target is one request as vegeta reads it.
func target(t *testing.T, method, url string, body []byte) []byte {
	t.Helper()
	line, err := json.Marshal(map[string]any{"method": method, "url": url, "body": body,
		"header": http.Header{"X-Api-Key": {apiKey}, "Content-Type": {"application/json"}}})
	require.NoError(t, err)
	return append(line, '\n')
}

func TestLoad(t *testing.T) {
	s := newService(t)
	count := int(attackTime/time.Second) * submitRate

	var looked []byte
	for n := range lookedAt {
		looked = append(looked, target(t, http.MethodGet, s.url+"/status/"+s.submit(t, fmt.Sprintf("waiting%d", n), 1), nil)...)
	}
	looks := attack(t, statusRate, bytes.Repeat(looked, int(attackTime/time.Second)*statusRate/lookedAt))
	t.Logf("status:  %s", looks)
	require.InDelta(t, 1, looks.Success, 0, looks.Errors)

	var submissions []byte
	for n := range count {
		submissions = append(submissions, target(t, http.MethodPost, s.url+"/build/", s.body(t, fmt.Sprintf("n%d", n), 1))...)
	}
	submitted := attack(t, submitRate, submissions)
	t.Logf("submit:  %s", submitted)
	require.InDelta(t, 1, submitted.Success, 0, submitted.Errors)
	require.Equal(t, map[string]int{"202": count}, submitted.StatusCodes)
}

// TestStart submits builds one after the other to a worker that has nothing else to do.
func TestStart(t *testing.T) {
	s := newService(t)
	s.start(t, "worker")
	var waits []time.Duration
	for n := range starts {
		last := s.awaitEnd(t, s.submit(t, fmt.Sprintf("start%d", n), 1))
		waits = append(waits, moment(t, last["timestamp_start"]).Sub(moment(t, last["timestamp_submission"])))
	}
	slices.Sort(waits)
	t.Logf("queue to running on an idle worker: p50 %s, p95 %s, max %s", waits[len(waits)/2], waits[len(waits)*95/100], waits[len(waits)-1])
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

// TestFollowers has many follow one log from its beginning while it is written. Each gets every line once, in order.
func TestFollowers(t *testing.T) {
	s := newService(t)
	s.start(t, "worker")
	id := s.submit(t, fmt.Sprintf("followed%d", time.Now().UnixNano()), logLines) // a step that was cached would say nothing
	var late atomic.Int64                                                         // nanoseconds, the worst
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0}}
	var ended atomic.Int64
	for range followers {
		all.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/invocations/"+id+"/log", nil)
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("X-API-Key", apiKey)
			request.Header.Set("Accept", "text/event-stream")
			answer, err := client.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			seen, seq := 0, int64(0)
			lines := bufio.NewScanner(answer.Body)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				if number, found := strings.CutPrefix(lines.Text(), "id: "); found {
					n, _ := strconv.ParseInt(number, 10, 64)
					if n != seq+1 {
						t.Errorf("after entry %d comes %d", seq, n)
					}
					seq = n
				}
				if data, found := strings.CutPrefix(lines.Text(), "data: "); found {
					for seen < logLines && strings.Contains(data, fmt.Sprintf("line %d\\n", seen+1)) {
						seen++
					}
				}
				if lines.Text() == "event: end" {
					ended.Add(1)
				}
			}
			if seen != logLines {
				t.Errorf("a follower saw %d lines of %d", seen, logLines)
			}
		})
	}
	last := s.awaitEnd(t, id)
	end := moment(t, last["timestamp_end"])
	all.Wait()
	late.Store(int64(time.Since(end)))
	require.EqualValues(t, followers, ended.Load())
	t.Logf("%d followers had a log of %d lines whole %s after the build's end", followers, logLines, time.Duration(late.Load()).Round(time.Millisecond))
}
