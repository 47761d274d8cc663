package plugin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"imagebuilder/internal/fault"
	"imagebuilder/plugin/internal/pluginpb"
)

const (
	// startTime is the most that a plugin may take from its start until it answers. Ours takes 30 ms;
	// a large executable that is read from a slow disk for the first time takes seconds.
	startTime = 30 * time.Second

	// killTime is what a plugin gets to end after the host has asked it to. go-plugin waits 2 s after
	// the plugin has confirmed, which a stopped or wedged one never does.
	killTime = 2500 * time.Millisecond

	// exitTime is how long the host waits for the end of a plugin whose connection broke, in order to
	// tell how it ended. The end is seen within milliseconds unless the machine is overloaded.
	exitTime = 2 * time.Second
)

// Options changes how plugins are started. The zero value is good.
type Options struct {
	// Base is the environment that a plugin gets in place of this process's, as in "NAME=value". Default, for nil: this
	// process's environment, with whatever secrets are in it.
	Base []string

	// Env is added to that environment and wins over it.
	Env []string

	// Grace is how long a cancelled operation has to clean up and say how it ended; after it the
	// plugin is killed. Default: 2 s.
	Grace time.Duration

	// TempDir is where the plugin's run folder is made, which is the plugin's TMPDIR. Where the path
	// is too long for a socket, /tmp is taken. Default: os.TempDir().
	TempDir string

	// DebugFile gets everything that plugins write on their outputs, appended; it is made with mode
	// 0600. Default: the file that the environment variable IMAGE_BUILDER_DEBUG names, or none.
	DebugFile string
}

// defaultGrace lets a cancelled build tell its engine and hear that it is over, and keeps the
// promise that Ctrl-C takes no more than 2 s.
const defaultGrace = 2 * time.Second

func (o Options) withDefaults() Options {
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.Base == nil {
		o.Base = os.Environ()
	}
	if o.DebugFile == "" {
		o.DebugFile = os.Getenv(DebugEnv)
	}
	return o
}

// Client is a running plugin. It is a Plugin itself; all of its methods may be called concurrently.
type Client struct {
	name  string // of the executable, for messages
	grace time.Duration
	run   *runFolder
	debug io.Closer // may be nil
	proc  *process
	words *lastWords
	gp    *goplugin.Client
	rpc   pluginpb.PluginClient

	nextID  idSource
	closing context.Context // ends when Close begins
	close   context.CancelFunc
	mu      sync.Mutex // between the beginning of calls and of Close
	calls   sync.WaitGroup
	once    sync.Once
	closed  error // what Close returns
}

// Start runs the plugin at path and connects to it. ctx is for the start only; the plugin runs until
// Close, or until this process ends in whatever way.
//
// Errors are NotFound for a missing executable and Internal for one that is no plugin, speaks another
// version of the protocol, or dies.
func Start(ctx context.Context, path string, opts Options) (*Client, error) {
	opts = opts.withDefaults()
	if err := ctx.Err(); err != nil {
		return nil, cancelled(ctx, "start of plugin "+filepath.Base(path))
	}
	Sweep(socketBase(opts.TempDir))
	run, err := newRunFolder(opts.TempDir)
	if err != nil {
		return nil, err
	}
	c := &Client{name: filepath.Base(path), grace: opts.Grace, run: run, words: &lastWords{}}
	c.closing, c.close = context.WithCancel(context.Background())
	if opts.DebugFile != "" {
		f, err := os.OpenFile(opts.DebugFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			_ = run.remove()
			return nil, fault.New(Invalid, "open the debug file: %w", err)
		}
		c.debug, c.words.all = f, f
	}
	c.proc = newProcess(path, c.environment(opts), c.words.output())
	trust, hostCert, err := hostTLS()
	if err != nil {
		_ = run.remove()
		return nil, fault.New(Internal, "make a certificate: %w", err)
	}
	c.proc.cmd.Env = append(c.proc.cmd.Env, hostCert)
	c.gp = goplugin.NewClient(c.config(trust))
	if err := c.connect(ctx, trust); err != nil {
		err = c.startFault(ctx, path, err) // before Close, which ends a plugin that has not died itself
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) environment(opts Options) []string {
	env := append(slices.Clone(opts.Base), opts.Env...)
	for _, name := range []string{"TMPDIR", "TMP", "TEMP", RunFolderEnv} { // TMP and TEMP are Windows' names
		env = append(env, name+"="+c.run.path)
	}
	return env
}

func (c *Client) config(trust *tls.Config) *goplugin.ClientConfig {
	return &goplugin.ClientConfig{
		HandshakeConfig:  handshake(),
		Plugins:          pluginSet(nil),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		TLSConfig:        trust,
		StartTimeout:     startTime,
		SkipHostEnv:      true, // it would win over ours; see environment
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: c.run.path},
		SyncStdout:       c.words.output(),
		SyncStderr:       c.words.output(),
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			c.proc.cmd.Env = append(c.proc.cmd.Env, spec.Env...)
			return c.proc, nil
		},
	}
}

func (c *Client) connect(ctx context.Context, trust *tls.Config) error {
	stop := context.AfterFunc(ctx, c.proc.end)
	defer stop()
	if _, err := c.gp.Start(); err != nil {
		return err
	}
	if err := trustPlugin(trust, c.run.path); err != nil {
		return err
	}
	protocol, err := c.gp.Client()
	if err != nil {
		return err
	}
	dispensed, err := protocol.Dispense(service)
	if err != nil {
		return err
	}
	rpc, ok := dispensed.(pluginpb.PluginClient)
	if !ok {
		return fmt.Errorf("unexpected client %T", dispensed)
	}
	c.rpc = rpc
	return nil
}

// startFault makes an error for people of why a plugin did not start.
func (c *Client) startFault(ctx context.Context, path string, err error) error {
	said, _, _ := strings.Cut(err.Error(), "\n")
	switch {
	case ctx.Err() != nil:
		return cancelled(ctx, "start of plugin "+c.name)
	case errors.Is(err, os.ErrNotExist):
		return fault.New(NotFound, "start plugin %s: no such executable", path)
	case strings.HasPrefix(said, "incompatible API version"):
		return fault.New(Internal, "plugin %s speaks another version of the plugin protocol: %s", path, said).
			WithHint("install a plugin and an image-builder of the same release")
	case said == "Unrecognized remote plugin message: ", strings.HasPrefix(said, "plugin exited"):
		_ = c.proc.exitedWithin(exitTime)
		return c.ended("before it was ready")
	case strings.HasPrefix(said, "Unrecognized remote plugin message"):
		return fault.New(Internal, "%s is no plugin of image-builder: it does not begin with go-plugin's handshake", path)
	case strings.HasPrefix(said, "timeout"):
		return fault.New(Internal, "plugin %s was not ready within %v", path, startTime)
	default:
		return fault.New(Internal, "start plugin %s: %w", path, err)
	}
}

// PID is the plugin's process id.
func (c *Client) PID() int {
	pid, _ := strconv.Atoi(c.proc.ID())
	return pid
}

// Folder is the plugin's run folder, which is its TMPDIR and goes with it: a place for files that host and plugin share.
func (c *Client) Folder() string { return c.run.path }

// Close ends the plugin: what runs is cancelled and gets the grace to clean up, then the process is asked
// to end, and killed if it does not. The plugin's run folder is removed. A second call waits for the first.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.mu.Lock()
		c.close()
		c.mu.Unlock()
		c.calls.Wait() // bounded: each call kills the plugin when its grace is over

		hard := time.AfterFunc(killTime, c.proc.end)
		c.gp.Kill()
		hard.Stop()
		if c.PID() != 0 {
			<-c.proc.exited
		}
		if err := c.run.remove(); err != nil {
			c.closed = fault.New(Internal, "remove the folder of plugin %s: %w", c.name, err)
		}
		if c.debug != nil {
			_ = c.debug.Close()
		}
	})
	return c.closed
}
