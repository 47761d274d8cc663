package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/seal"
	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// apiKey is the one key of the fleets; the tests look for it in what they leave.
const apiKey = "chaos-key-0123456789abcdef"

// restartsWithin is the longest pause before what was killed is started again.
const restartsWithin = time.Second

var bin string // folder of the executables under test

func TestMain(m *testing.M) {
	os.Exit(testbed.WithPrograms(func(folder string) int {
		bin = folder
		return m.Run()
	}, "image-builder-api", "image-builder-plugin"))
}

// fleet is the processes of a service, and what they need.
type fleet struct {
	t        *testing.T
	folder   string
	site     *testbed.Site
	postgres *testbed.PostgresServer // nil: SQLite
	store    *store.Store            // for looking, never for changing
	members  []*member
	urls     []string // of those that answer requests

	identities string // file with the workers' identity
	// The service's own secrets, and how a test gets to its database.
	identity, password, dsn string
}

// member is one process of the service, started again whenever it was killed.
type member struct {
	name string
	args []string
	env  []string
	log  *testbed.Words

	mu      sync.Mutex
	cmd     *exec.Cmd
	died    chan struct{} // closed when cmd has ended
	stopped bool
}

// newFleet starts a service with PostgreSQL and the BuildKit daemon that the workers share.
func newFleet(t *testing.T, apis, workers int) *fleet {
	t.Helper()
	return newFleetWith(t, apis, workers, testbed.RegistryOptions{})
}

func newFleetWith(t *testing.T, apis, workers int, options testbed.RegistryOptions) *fleet {
	t.Helper()
	f := &fleet{t: t, folder: t.TempDir(), postgres: testbed.NewPostgresServer(t)}
	f.site = testbed.NewSite(t, options)
	db := f.postgres.Database(t)
	var err error
	f.store, err = store.Open(t.Context(), store.Config{Postgres: &store.Postgres{
		Host: db.Host, Port: db.Port, Name: db.Name, User: db.User, Password: db.Password}})
	require.NoError(t, err)
	t.Cleanup(f.store.Close)
	require.NoError(t, f.store.Migrate(t.Context()))
	identity, _, err := seal.GenerateKey()
	require.NoError(t, err)
	identities := filepath.Join(f.folder, "identities.txt")
	require.NoError(t, os.WriteFile(identities, []byte(identity+"\n"), 0o600))
	f.identities, f.identity, f.password = identities, identity, db.Password
	f.dsn = fmt.Sprintf("host=%s port=%d dbname=%s user=%s password=%s", db.Host, db.Port, db.Name, db.User, db.Password)
	env := []string{"IMAGEBUILDER_DATABASE_IP=" + db.Host, "IMAGEBUILDER_DATABASE_PORT=" + strconv.Itoa(db.Port), "IMAGEBUILDER_DATABASE_NAME=" + db.Name,
		"IMAGEBUILDER_DATABASE_USER=" + db.User, "IMAGEBUILDER_DATABASE_PASSWORD=" + db.Password, "IMAGE_BUILDER_IDENTITIES=" + identities}
	for i := range apis {
		f.add(fmt.Sprintf("api-%d", i), "api", env)
	}
	for i := range workers {
		f.add(fmt.Sprintf("worker-%d", i), "worker", env)
	}
	f.start()
	return f
}

// newSingle starts the service as one process with SQLite.
func newSingle(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, folder: t.TempDir(), site: testbed.NewSite(t, testbed.RegistryOptions{})}
	data := filepath.Join(f.folder, "data")
	f.add("all", "all", []string{"IMAGE_BUILDER_DATA_DIR=" + data})
	f.start()
	var err error
	f.store, err = store.Open(t.Context(), store.Config{SQLite: filepath.Join(data, "service.db")})
	require.NoError(t, err)
	t.Cleanup(f.store.Close)
	return f
}

// add adds a process that is not started yet.
func (f *fleet) add(name, role string, env []string) {
	address := freeAddress(f.t)
	if role != "worker" {
		f.urls = append(f.urls, "http://"+address)
	}
	root, err := testbed.RepoRoot()
	require.NoError(f.t, err)
	home := filepath.Join(f.folder, "home")
	f.members = append(f.members, &member{
		name: name, log: &testbed.Words{},
		args: []string{"serve", "--role", role, "--listen", address, "--engine", "managed", "--engine-idle", "5s", "--concurrency", "2",
			"--max-queued", "-1", "--max-attempts", "1000", "--rate-limit", "-1", "--allow-egress", "127.0.0.0/8,::1", "--plain-registry", "*"},
		env: append(env, "AUTH_API_KEY="+apiKey, "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "HOME="+home,
			"IMAGE_BUILDER_STATE_DIR="+f.engineFolder(), "IMAGE_BUILDER_CACHE_DIR="+filepath.Join(f.folder, "cache")),
	})
}

// engineFolder is where the workers' common daemon lives.
func (f *fleet) engineFolder() string { return filepath.Join(f.folder, "engine") }

// start starts every process, and ends them with the test.
func (f *fleet) start() {
	for _, m := range f.members {
		require.NoError(f.t, m.start())
		f.t.Cleanup(m.end)
	}
	for _, url := range f.urls {
		require.Eventually(f.t, func() bool {
			answer, err := http.Get(url + "/healthz")
			if err != nil {
				return false
			}
			_ = answer.Body.Close()
			return answer.StatusCode == http.StatusOK
		}, time.Minute, 50*time.Millisecond, "the service does not come up: %s", f.members[0].log)
	}
}

// end ends a process in order, and says what it said where it does not end so.
func (m *member) end() {
	m.mu.Lock()
	m.stopped = true
	cmd, died := m.cmd, m.died
	m.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-died:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		<-died
	}
}

func (m *member) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil
	}
	cmd := exec.Command(filepath.Join(bin, "image-builder-api"), m.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, m.log, m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	died := make(chan struct{})
	m.cmd, m.died = cmd, died
	go func() {
		_ = cmd.Wait()
		close(died)
	}()
	return nil
}

// kill kills a process with SIGKILL and starts it again after a moment.
func (m *member) kill() error {
	m.mu.Lock()
	cmd, died := m.cmd, m.died
	m.mu.Unlock()
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-died
	time.Sleep(rand.N(restartsWithin)) // as a supervisor would wait
	return m.start()
}

// children are the processes below one, whose command line has a word in it.
func children(parent int, word string) []int {
	var found []int
	for pid, command := range processes() {
		if strings.Contains(command, word) && (parent == 0 || parentOf(pid) == parent) {
			found = append(found, pid)
		}
	}
	return found
}

// processes are the command lines of all processes, by their id.
func processes() map[int]string {
	all := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline")); err == nil {
			all[pid] = string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	return all
}

func parentOf(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return -1
	}
	// "pid (name) state parent": a name may hold anything, also ")".
	rest := status[bytes.LastIndexByte(status, ')')+1:]
	fields := strings.Fields(string(rest))
	if len(fields) < 2 {
		return -1
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
