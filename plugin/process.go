package plugin

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// drainTime is what a plugin's pipes get to be read to their end once it has ended. The end comes at
// once unless a process that the plugin left behind holds a pipe.
const drainTime = 500 * time.Millisecond

// process is a plugin's operating system process. It implements go-plugin's runner, whose own one
// passes on the host's stdin, knows nothing of parent death, and does not tell how the process ended.
type process struct {
	cmd    *exec.Cmd
	stdout *os.File
	stderr io.Writer

	mu     sync.Mutex
	pid    int  // 0: not started
	killed bool // do not start any more

	exited chan struct{}    // closed when the process has ended and its stderr was read
	state  *os.ProcessState // set when exited is closed; nil if it never ran
}

func newProcess(path string, env []string, stderr io.Writer) *process {
	cmd := exec.Command(path)
	cmd.Env = env
	cmd.SysProcAttr = isolated()
	return &process{cmd: cmd, stderr: stderr, exited: make(chan struct{})}
}

// Start implements runner.Runner. stdin is the null device: the host's own may be the document.
func (p *process) Start(context.Context) error {
	outR, outW, err := os.Pipe()
	if err != nil {
		close(p.exited)
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		close(p.exited)
		return errors.Join(err, outR.Close(), outW.Close())
	}
	p.stdout = outR
	p.cmd.Stdout, p.cmd.Stderr = outW, errW

	started := make(chan error)
	go p.live(started, outR, errR)
	err = <-started
	_ = outW.Close() // from here on the pipes end when the plugin does
	_ = errW.Close()
	return err
}

// live starts the process and stays with it until its end, on one and the same thread: on Linux
// the signal at the parent's death comes when the thread that started the process ends.
func (p *process) live(started chan<- error, stdout, stderr *os.File) {
	defer close(p.exited)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	if err := p.launch(); err != nil {
		_ = stdout.Close()
		_ = stderr.Close()
		started <- err
		return
	}
	started <- nil
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(p.stderr, stderr)
		_ = stderr.Close()
	}()

	_ = p.cmd.Wait()
	killGroup(p.pid) // what the plugin started and left behind
	end := time.Now().Add(drainTime)
	_ = stdout.SetReadDeadline(end)
	_ = stderr.SetReadDeadline(end)
	<-read
	p.state = p.cmd.ProcessState
}

func (p *process) launch() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return context.Canceled
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	return nil
}

// end kills the process and everything in its group.
func (p *process) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.pid == 0 {
		return
	}
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Kill() // the group follows when the end of the process is seen
	}
}

// exitedWithin waits for the process's end, but no longer than limit.
func (p *process) exitedWithin(limit time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// Wait implements runner.AttachedRunner.
func (p *process) Wait(context.Context) error {
	<-p.exited
	return nil
}

// Kill implements runner.AttachedRunner.
func (p *process) Kill(context.Context) error {
	p.end()
	return nil
}

// Stdout implements runner.Runner.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr implements runner.Runner. It is empty for go-plugin: we read it ourselves.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (p *process) Name() string { return p.cmd.Path }

// ID implements runner.AttachedRunner.
func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strconv.Itoa(p.pid)
}

// Diagnose implements runner.Runner.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.AddrTranslator.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements runner.AddrTranslator.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
