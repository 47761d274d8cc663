//go:build unix

package plugin_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin"
)

// hostWithSlowOperation runs this test binary as a host whose plugin has a slow operation running.
// release lets the host end without closing its plugin.
func hostWithSlowOperation(t *testing.T, temp, folder string) (host *exec.Cmd, pluginPID int, release func()) {
	t.Helper()
	host = exec.Command(os.Args[0])
	host.Env = append(os.Environ(), hostEnv+"="+example, "PLUGIN_TEST_FOLDER="+folder, "TMPDIR="+temp)
	host.Stderr = os.Stderr
	stdin, err := host.StdinPipe()
	require.NoError(t, err)
	stdout, err := host.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, host.Start())
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "plugin:")))
	require.NoError(t, err, line)
	require.False(t, gone(pid))
	require.False(t, isEmpty(t, temp))
	require.False(t, isEmpty(t, folder))
	return host, pid, func() { _, _ = fmt.Fprintln(stdin) }
}

func TestPluginGoesWithItsHost(t *testing.T) {
	t.Parallel()
	tests := map[string]func(host *exec.Cmd, release func()){
		"killed":               func(host *exec.Cmd, _ func()) { _ = host.Process.Kill() },
		"terminated":           func(host *exec.Cmd, _ func()) { _ = host.Process.Signal(syscall.SIGTERM) },
		"quit without closing": func(_ *exec.Cmd, release func()) { release() },
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temp, folder := shortTemp(t), t.TempDir()
			host, pid, release := hostWithSlowOperation(t, temp, folder)
			end(host, release)
			_ = host.Wait()
			eventually(t, "the operation has cleaned up", func() bool { return isEmpty(t, folder) })
			eventually(t, "the plugin is gone", func() bool { return gone(pid) })
			require.True(t, isEmpty(t, temp), "the run folder is gone")
		})
	}
}

// Host and plugin killed at once leave a folder, which the next start removes; those of living hosts stay.
func TestStartSweepsFoldersOfDeadHosts(t *testing.T) {
	t.Parallel()
	temp, folder := shortTemp(t), t.TempDir()
	host, pid, _ := hostWithSlowOperation(t, temp, folder)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP)) // else it might tidy up before it is killed
	require.NoError(t, host.Process.Kill())
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	_ = host.Wait()
	eventually(t, "the plugin is gone", func() bool { return gone(pid) })
	dead, err := filepath.Glob(filepath.Join(temp, "*"))
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.NoError(t, os.Mkdir(filepath.Join(dead[0], "locked"), 0o500))
	require.NoError(t, os.WriteFile(filepath.Join(temp, "image-builder-run-file"), nil, 0o600))
	require.NoError(t, os.Symlink(folder, filepath.Join(temp, "image-builder-run-link")))

	first := start(t, plugin.Options{TempDir: temp})
	require.NoDirExists(t, dead[0])
	second := start(t, plugin.Options{TempDir: temp})
	plugin.Sweep(temp)
	for _, c := range []*plugin.Client{first, second} {
		_, err := c.Describe(t.Context())
		require.NoError(t, err)
	}
	left, err := filepath.Glob(filepath.Join(temp, "*"))
	require.NoError(t, err)
	require.Len(t, left, 4, "two in use, a file, a link")
}

// Folders are made and swept by many at once; none that is in use may go.
func TestSweepingIsFreeOfRaces(t *testing.T) {
	t.Parallel()
	temp := shortTemp(t)
	stop := make(chan struct{})
	var sweepers sync.WaitGroup
	for range 4 {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					plugin.Sweep(temp)
				}
			}
		})
	}
	var hosts sync.WaitGroup
	for range 4 {
		hosts.Go(func() {
			for range 200 {
				f, err := plugin.NewRunFolder(temp)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(f.Path(), "file"), nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := f.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	hosts.Wait()
	close(stop)
	sweepers.Wait()
	require.True(t, isEmpty(t, temp))
}

func TestDeadPluginIsOneClearError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		operation string
		inputs    values
		want      string
		hint      string
	}{
		"exit": {
			"die", values{},
			"plugin example ended unexpectedly (exit status 7) while executing die", "IMAGE_BUILDER_DEBUG=FILE",
		},
		"killed": {
			"die", values{"signal": 9},
			"plugin example ended unexpectedly (signal: killed) while executing die", "out of memory",
		},
		"panic": {
			"panic", values{"text": "boom\nbang"},
			"plugin example ended unexpectedly (exit status 2) while executing panic; its last words:\n", "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, plugin.Options{})
			_, err := c.Execute(t.Context(), request(t, test.operation, test.inputs), func(plugin.Event) {})
			f := fault.As(err)
			require.Equal(t, plugin.Internal, f.Kind)
			require.True(t, strings.HasPrefix(f.Message, test.want), f.Message)
			require.Contains(t, f.Hint, test.hint)
			require.NotContains(t, f.Message, "goroutine")
			require.NotContains(t, f.Message, ".go:")
			require.LessOrEqual(t, strings.Count(f.Message, "\n"), 20)

			_, err = c.Plan(t.Context(), request(t, "echo", values{}))
			require.Contains(t, err.Error(), "ended unexpectedly", "later calls say it too")
		})
	}
}

func TestPanicTellsTheLastLinesAndWhatItWas(t *testing.T) {
	t.Parallel()
	debug := filepath.Join(t.TempDir(), "debug.log")
	c := start(t, plugin.Options{DebugFile: debug})
	_, err := c.Execute(t.Context(), request(t, "panic", values{"text": "boom"}), func(plugin.Event) {})
	require.True(t, strings.HasSuffix(err.Error(), "\n  panic: boom"), err.Error())
	all, err := os.ReadFile(debug)
	require.NoError(t, err)
	require.Contains(t, string(all), "goroutine ", "the debug file has the trace")
	info, err := os.Stat(debug)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestPluginKilledFromOutside(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			temp, folder := shortTemp(t), t.TempDir()
			c, err := plugin.Start(t.Context(), example, plugin.Options{TempDir: temp})
			require.NoError(t, err)
			result, f := executeSlow(t.Context(), t, c, values{"folder": folder}, func() { _ = syscall.Kill(c.PID(), signal) })
			if signal == syscall.SIGKILL {
				require.Equal(t, plugin.Internal, f.Kind)
				require.Contains(t, f.Message, "plugin example ended unexpectedly (signal: killed) while executing slow")
			} else { // it is told to end, so it cancels, cleans up and says so
				require.Equal(t, plugin.Cancelled, f.Kind)
				require.JSONEq(t, `{"half": "done"}`, string(result))
				require.True(t, isEmpty(t, folder))
			}
			eventually(t, "the plugin is gone", func() bool { return gone(c.PID()) })
			require.NoError(t, c.Close())
			require.True(t, isEmpty(t, temp))
		})
	}
}

// A terminal sends SIGINT to the whole group, and the plugin is not in the host's.
func TestInterruptIsLeftToTheHost(t *testing.T) {
	t.Parallel()
	c := start(t, plugin.Options{})
	group, err := syscall.Getpgid(c.PID())
	require.NoError(t, err)
	require.Equal(t, c.PID(), group)
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGINT))
	_, err = c.Describe(t.Context())
	require.NoError(t, err)
}

func TestStartedByHand(t *testing.T) {
	t.Parallel()
	var stderr, stdout strings.Builder
	cmd := exec.Command(example)
	cmd.Stderr, cmd.Stdout = &stderr, &stdout
	err := cmd.Run()
	require.Error(t, err)
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	require.Equal(t, "example is a plugin of image-builder and is started by it: "+
		"run \"image-builder\" instead, or give this file to its --plugin flag.\n", stderr.String())
	require.Empty(t, stdout.String())
}

func TestWhatIsNoPluginIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	script := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "image-builder-plugin-x")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700))
		return path
	}
	tests := map[string]struct {
		path string
		kind plugin.Kind
		want string
	}{
		"missing":       {"/nowhere/plugin", plugin.NotFound, "start plugin /nowhere/plugin: no such executable"},
		"says nothing":  {script(t, "exit 3"), plugin.Internal, "ended unexpectedly (exit status 3) before it was ready"},
		"dies":          {script(t, "echo cannot find my thing >&2; exit 1"), plugin.Internal, "before it was ready; its last words:\n  cannot find my thing"},
		"talks":         {script(t, "echo hello; exec sleep 1000"), plugin.Internal, "is no plugin of image-builder: it does not begin"},
		"other version": {script(t, "echo '1|99|unix|/x|grpc|'; exec sleep 1000"), plugin.Internal, "speaks another version of the plugin protocol: incompatible API version with plugin. Plugin version: 99"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temp := shortTemp(t)
			_, err := plugin.Start(t.Context(), test.path, plugin.Options{TempDir: temp})
			require.Equal(t, test.kind, fault.KindOf(err))
			require.Contains(t, err.Error(), test.want)
			require.True(t, isEmpty(t, temp))
		})
	}
}
