//go:build unix

package plugin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/plugin"
)

const (
	nodeType = "example.nodes.Echo"

	// patience is how long tests wait for what takes milliseconds on an idle machine.
	patience = 20 * time.Second

	// hostEnv makes this test binary a host that gets killed; see runHost.
	hostEnv = "PLUGIN_TEST_HOST"
)

// example is the path of the example plugin, built once by TestMain.
var example string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if path := os.Getenv(hostEnv); path != "" {
		return runHost(path)
	}
	// A short path, so that sockets fit, and one that can be looked through at the end.
	dir, err := os.MkdirTemp("/tmp", "ibp-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	example = filepath.Join(dir, "example")
	build := exec.Command("go", "build", "-o", example, "./internal/exampleplugin")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the example plugin: %v\n%s", err, out)
		return 1
	}
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("TMPDIR", temp)

	code := m.Run()
	left, _ := filepath.Glob(filepath.Join(temp, "*"))
	if code == 0 && len(left) > 0 {
		fmt.Fprintln(os.Stderr, "the tests left behind:", left)
		return 1
	}
	return code
}

// runHost is a host with a slow operation running. It says so on stdout and waits to be killed,
// or, when its stdin says so, ends without closing the plugin.
func runHost(path string) int {
	c, err := plugin.Start(context.Background(), path, plugin.Options{})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	inputs, _ := json.Marshal(map[string]string{"folder": os.Getenv("PLUGIN_TEST_FOLDER")})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0)
	}()
	_, err = c.Execute(context.Background(), plugin.Request{NodeType: nodeType, Operation: "slow", Inputs: inputs},
		func(e plugin.Event) {
			if e.Step != nil && e.Step.Completed == nil {
				fmt.Println("plugin:", c.PID())
			}
		})
	fmt.Println("ended:", err)
	return 0
}

// start starts the example plugin and closes it when the test ends.
func start(t *testing.T, opts plugin.Options) *plugin.Client {
	t.Helper()
	c, err := plugin.Start(t.Context(), example, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// request asks the example plugin; inputs are marshalled.
func request(t *testing.T, operation string, inputs any) plugin.Request {
	t.Helper()
	data, err := json.Marshal(inputs)
	require.NoError(t, err)
	return plugin.Request{NodeType: nodeType, Operation: operation, Inputs: data}
}

type values map[string]any

// gone tells whether a process has ended. One that nobody has waited for yet counts as ended.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

func isEmpty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return len(entries) == 0
}

// shortTemp is a temporary folder whose path leaves room for sockets.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ibp-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}
