package endtoend_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestSignals ends a build in each of its phases by each signal: nothing is left behind, nothing is half pushed.
func TestSignals(t *testing.T) {
	t.Parallel()
	signals := map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL}
	for name, signal := range signals {
		for phase, prepare := range map[string]func(*testing.T) (*world, string, func() bool){
			"fetch": duringFetch, "build": duringBuild, "push": duringPush, "tag": duringTag,
		} {
			t.Run(name+" during "+phase, func(t *testing.T) {
				t.Parallel()
				w, input, reached := prepare(t)
				s := newStage(t)
				p := s.start(t, "build", input, "--engine", "buildkit", "--buildkit-host", w.engine)
				eventually(t, phase+" is reached", reached)
				require.NoError(t, p.Process.Signal(signal))
				code := p.wait()
				if signal != syscall.SIGKILL {
					require.Equal(t, fault.ExitCancelled, code, p.said())
					require.Contains(t, p.said(), "cancelled")
					require.NotContains(t, p.said(), "goroutine ")
				}
				s.requireNothingLeft(t)
				require.NotContains(t, p.stdout.String(), "digest", "no image may be told of")
				response, err := http.Get("http://" + w.registry.Host + "/v2/app/manifests/1")
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Equal(t, http.StatusNotFound, response.StatusCode, "no tag may be there")
			})
		}
	}
}

// duringFetch is a git server that takes a connection and says nothing.
func duringFetch(t *testing.T) (*world, string, func() bool) {
	w := newWorld(t, testbed.RegistryOptions{})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var connected atomic.Bool
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			connected.Store(true)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	t.Cleanup(func() { _ = silent.Close() })
	return w, w.document(t, fmt.Sprintf("http://%s/app.git", silent.Addr())), connected.Load
}

// duringBuild is a step that lasts.
func duringBuild(t *testing.T) (*world, string, func() bool) {
	w := newWorld(t, testbed.RegistryOptions{})
	var n = fmt.Sprint(unique.Add(1) + 1000000)
	input := w.input(t, "FROM busybox\nRUN exec sleep "+n+"\n")
	t.Cleanup(func() {
		eventually(t, "the step is ended in the engine", func() bool { return !testbed.ProcessRuns(n) })
	})
	return w, input, func() bool { return testbed.ProcessRuns(n) }
}

var unique atomic.Int64

// duringPush is a registry that takes the first blob of the image and never answers.
func duringPush(t *testing.T) (*world, string, func() bool) {
	return duringRequest(t, func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/app/blobs/uploads/")
	})
}

// duringTag is a registry that has the image and never answers when its tag is set.
func duringTag(t *testing.T) (*world, string, func() bool) {
	return duringRequest(t, func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/app/manifests/1")
	})
}

func duringRequest(t *testing.T, hang func(*http.Request) bool) (*world, string, func() bool) {
	var reached atomic.Bool
	over := make(chan struct{})
	w := newWorld(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if hang(r) {
				reached.Store(true)
				select {
				case <-r.Context().Done():
				case <-over:
				}
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	t.Cleanup(func() { close(over) })
	return w, w.input(t, "FROM busybox\nRUN echo "+fmt.Sprint(unique.Add(1))+" >/n\n"), reached.Load
}

// TestPluginDies: the plugin is killed in the middle of a step.
func TestPluginDies(t *testing.T) {
	t.Parallel()
	w, input, reached := duringBuild(t)
	s := newStage(t)
	p := s.start(t, "build", input, "--engine", "buildkit", "--buildkit-host", w.engine)
	eventually(t, "the step runs", reached)
	for _, pid := range s.processes(t) {
		if strings.Contains(commandLine(pid), "image-builder-plugin") {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	require.Equal(t, fault.ExitFailed, p.wait(), p.said())
	require.Contains(t, p.said(), "ended unexpectedly")
	require.NotContains(t, p.said(), "goroutine ")
	s.requireNothingLeft(t)
}

// TestManagedEngineStops: with an idle time of nothing, the engine that a build started ends after it.
func TestManagedEngineStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testbed.RegistryOptions{})
	input := w.input(t, "FROM busybox\nRUN echo managed >/n\n")
	s := newStage(t)
	p := s.start(t, "build", input, "--engine", "managed", "--engine-idle", "0")
	require.Equal(t, fault.ExitOK, p.wait(), p.said())
	require.Contains(t, p.stdout.String(), `"managed"`)
	s.requireNothingLeft(t)
}
