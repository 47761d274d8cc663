package plugin

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"imagebuilder/internal/fault"
)

const (
	// parentPoll is how often the plugin looks whether its parent has changed. The connection and, on
	// Linux, a signal tell at once; this covers a host that dies before it has connected.
	parentPoll = 250 * time.Millisecond

	// flushTime is what outcomes get to leave the process after their operations have ended.
	flushTime = 100 * time.Millisecond

	// orphanTime is how long a plugin that has to stop waits to see its host's lock go: a dying process
	// lets go of its files, its connections and its children one after the other.
	orphanTime = 500 * time.Millisecond
)

// ServeOption changes how Serve works.
type ServeOption func(*serveConfig)

type serveConfig struct {
	cleanUp time.Duration
}

// CleanUpWithin sets how long running operations have to end once the process has to stop: 1.5 s unless
// set, and never more, because a host kills a plugin after 2 s.
func CleanUpWithin(d time.Duration) ServeOption {
	return func(c *serveConfig) { c.cleanUp = min(d, maxCleanUp) }
}

// Serve makes the process a plugin and returns when it has to end; main returns then too.
//
// Stopping is the host's request, SIGTERM, or the death of the host, however it dies. Whichever it is,
// all running operations are cancelled and get a bounded time to clean up. SIGINT is ignored: a
// terminal sends it to everyone, and it is the host that decides what it means. A panic ends the
// process; the host makes one error of it.
//
// Started by hand the process says what it is on stderr and exits with 2.
//
// While Serve runs, os.Stdout and os.Stderr lead to the host, which keeps the last lines for the error
// that it reports when the plugin dies. Temporary files belong into os.TempDir, which is a folder of
// this process and goes with it. A child process that has to outlive the plugin needs its own session
// (setsid) and its own TMPDIR; all others are killed with the plugin.
func Serve(p Plugin, opts ...ServeOption) {
	if os.Getenv(CookieKey) != CookieValue {
		fmt.Fprintf(os.Stderr, "%s is a plugin of image-builder and is started by it: "+
			"run \"image-builder\" instead, or give this file to its --plugin flag.\n", filepath.Base(os.Args[0]))
		os.Exit(fault.ExitInvalid)
	}
	cfg := serveConfig{cleanUp: maxCleanUp}
	for _, o := range opts {
		o(&cfg)
	}

	s := newServer(p)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	// With the host gone, a write to stderr raises SIGPIPE, which would end the process before its
	// clean-up. Taking the signal (and forgetting it) makes such a write a mere error; ignoring it
	// would be inherited by child processes.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	life := newLifeline()
	var grpcServer atomic.Pointer[grpc.Server]
	served := make(chan struct{})
	go func() {
		defer close(served)
		goplugin.Serve(&goplugin.ServeConfig{
			HandshakeConfig: handshake(),
			Plugins:         pluginSet(s),
			TLSProvider:     pluginTLS,
			// Errors only: stderr is for last words.
			Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr}),
			GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
				g := grpc.NewServer(append(o, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
					grpc.StatsHandler(life), grpc.UnaryInterceptor(life.noteShutdown))...)
				grpcServer.Store(g)
				return g
			},
		})
	}()

	select {
	case <-served: // the host asked, or the socket could not be made
	case <-terminated:
	case <-life.cut:
	}
	if !s.stop(cfg.cleanUp) {
		fmt.Fprintf(os.Stderr, "operations did not end within %v of being cancelled\n", cfg.cleanUp)
	}
	if g := grpcServer.Load(); g != nil {
		endServer(g, served, life.asked.Load())
	}
	if !life.asked.Load() { // a living host removes it itself
		removeOrphanedRunFolder()
	}
}

// endServer lets outcomes leave, then cuts the streams that never end by themselves (go-plugin's own),
// after which go-plugin removes its socket. None of it is waited for longer than flushTime: somebody in
// the midst of a TLS handshake can hold up gRPC for minutes.
func endServer(g *grpc.Server, served <-chan struct{}, asked bool) {
	if !asked { // else the server is stopping already
		flushed := make(chan struct{})
		go func() {
			g.GracefulStop()
			close(flushed)
		}()
		select {
		case <-flushed:
		case <-time.After(flushTime):
		}
		go g.Stop()
	}
	select {
	case <-served:
	case <-time.After(flushTime):
	}
}

// removeOrphanedRunFolder removes the run folder when its host is dead.
func removeOrphanedRunFolder() {
	folder := os.Getenv(RunFolderEnv)
	if folder == "" {
		return
	}
	deadline := time.Now().Add(orphanTime)
	for !removeDeadFolder(folder) && time.Now().Before(deadline) {
		if _, err := os.Lstat(folder); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lifeline notices that the host is gone: by the end of its only connection, or by a new parent.
type lifeline struct {
	once  sync.Once
	cut   chan struct{}
	asked atomic.Bool // the host has asked the plugin to end, which cuts its connection too
}

func newLifeline() *lifeline {
	l := &lifeline{cut: make(chan struct{})}
	parent := os.Getppid()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(parentPoll)
		}
		l.end()
	}()
	return l
}

func (l *lifeline) end() { l.once.Do(func() { close(l.cut) }) }

// noteShutdown sees the host's request to end before it is answered.
func (l *lifeline) noteShutdown(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if strings.HasSuffix(info.FullMethod, "GRPCController/Shutdown") {
		l.asked.Store(true)
	}
	return handle(ctx, req)
}

// HandleConn implements stats.Handler. Only the host can make a connection: it has the certificate.
func (l *lifeline) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		l.end()
	}
}

// TagConn implements stats.Handler.
func (l *lifeline) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements stats.Handler.
func (l *lifeline) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (l *lifeline) HandleRPC(context.Context, stats.RPCStats) {}
