//go:build docker

package wrapper_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// seconds are how long a step sleeps: a number for each, to find its process by.
var seconds atomic.Int64

// TestCancel ends a build in the middle of a step: by a signal to the script, as a service manager sends it, to its process group,
// as a terminal does where the container has none, and by ^C on a terminal that the container has. While the step runs, no secret may
// be seen from outside.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *run, io.Writer){
		"SIGINT":  func(t *testing.T, r *run, _ io.Writer) { require.NoError(t, r.Process.Signal(syscall.SIGINT)) },
		"SIGTERM": func(t *testing.T, r *run, _ io.Writer) { require.NoError(t, r.Process.Signal(syscall.SIGTERM)) },
		"a terminal's group": func(t *testing.T, r *run, _ io.Writer) {
			require.NoError(t, syscall.Kill(-r.Process.Pid, syscall.SIGINT))
		},
		"^C": func(t *testing.T, _ *run, terminal io.Writer) {
			_, err := terminal.Write([]byte{3})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			p := newPerson(t, 4242)
			proxy := "http://user:proxy-hunter2@" + gateway + ":1"
			p.env = append(p.env, "GIT_PASSWORD="+gitPassword, "ALL_PROXY="+proxy, "HTTPS_PROXY="+proxy, "NO_PROXY="+gateway, "TERM=xterm")
			p.file(t, "registry", registryPassword)
			sleep := fmt.Sprint(2000000 + seconds.Add(1))
			input := p.document(t, "app.json", s.repository(t, "FROM busybox\nRUN exec sleep "+sleep+"\n"), s.target("file:registry"))
			r, terminal := p.startOnTerminal(t, name == "^C", input)
			eventually(t, "the step runs", func() bool { return testbed.ProcessRuns(sleep) || r.ended() })
			require.False(t, r.ended(), r.said())
			requireNoSecret(t, p)
			end(t, r, terminal)
			require.Equal(t, fault.ExitCancelled, r.wait(), r.said()+r.stdout.String())
			require.Contains(t, r.said()+r.stdout.String(), "cancelled")
			require.NotContains(t, r.said()+r.stdout.String(), "hunter2")
			eventually(t, "the step ends", func() bool { return !testbed.ProcessRuns(sleep) })
			s.requireNoImage(t, "app:1")
			p.requireNothingLeft(t)
		})
	}
}

// startOnTerminal starts the script, on a terminal of its own if that is wanted.
func (p *person) startOnTerminal(t *testing.T, wanted bool, input string) (*run, io.Writer) {
	t.Helper()
	if !wanted {
		return p.start(t, "", input), nil
	}
	keys, typed, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = typed.Close() })
	r := p.startCommandOn(t, keys, "script", "--quiet", "--return", "--command", filepath.Join(root, "scripts/image-builder-cli.sh")+" "+input, "/dev/null")
	require.NoError(t, keys.Close())
	return r, typed
}

// requireNoSecret looks where others on the machine may look, and into what the Engine writes down.
func requireNoSecret(t *testing.T, p *person) {
	t.Helper()
	seen := 0
	for _, id := range strings.Fields(docker(t, "ps", "--all", "--quiet")) {
		out, err := exec.Command(dockerProgram(), "--host", engine.Host, "inspect", id).Output()
		if err != nil || !strings.Contains(string(out), p.home) {
			continue // another test's
		}
		seen++
		require.NotContains(t, string(out), "hunter2")
		require.NotContains(t, string(out), "docker.sock")
		require.Contains(t, string(out), `"Privileged": false`)
	}
	require.Positive(t, seen)
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil { // it may have ended
			require.NotContains(t, string(data), "hunter2")
		}
	}
	require.NoError(t, filepath.Walk(filepath.Join(p.home, "tmp"), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		require.NotContains(t, string(data), "hunter2")
		return err
	}))
}
