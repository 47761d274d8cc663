package remote

import (
	"bufio"
	"context"
	_ "embed" // the scripts
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/tail"
)

//go:embed run.sh
var runScript string

//go:embed bring.sh
var bringScript string

// sign is before every line of our scripts: what the server's shell says on its own account is not from us.
const sign = "image-builder: "

// longestLine is the most that one line of a server may have: an event with a piece of a build's output has a few KB, and an
// outcome less than a document.
const longestLine = 16 << 20

// run is the command line that starts image-builder on the server.
func (s *Server) run() []string {
	return append([]string{"sh", "-c", runScript, "sh", Command}, s.Flags...)
}

// connection is a command that runs on the server.
type connection struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	said   tail.Tail // what ssh and the server say besides; complete once it has ended
	once   sync.Once
	ended  chan struct{} // closed once it has ended
	result error         // of the command, then
}

// dial starts a command on the server.
func (s *Server) dial(ctx context.Context, command []string) (*connection, error) {
	if s.Sudo {
		command = append([]string{"sudo", "-n", "-H", "--"}, command...)
	}
	var line strings.Builder
	for _, word := range command {
		line.WriteString(" " + quoted(word))
	}
	// Of an option that ssh is given twice, the first counts. A connection that is shared with others would live on with our standard
	// error, and signs of life are asked of the server as well.
	args := []string{
		"-T", "-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ClearAllForwardings=yes",
		"-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6",
	}
	args = append(append(args, s.SSH[1:]...), "exec"+line.String())
	c := &connection{name: s.Name(), cmd: exec.Command(s.SSH[0], args...), ended: make(chan struct{})} //nolint:gosec // G204: the user's ssh
	c.cmd.Stderr = &c.said
	apart(c.cmd)
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fault.New(fault.Internal, "start ssh: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fault.New(fault.Internal, "start ssh: %w", err)
	}
	c.out = bufio.NewScanner(out)
	c.out.Buffer(make([]byte, 0, 64<<10), longestLine)
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.Cancelled, "cancelled")
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fault.New(fault.Invalid, "start %s: %w", s.SSH[0], err).WithHint("builds on other machines need OpenSSH's client")
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-c.ended:
			return
		}
		// Whatever runs there ends with its standard input; what does not is left behind.
		_ = c.in.Close()
		select {
		case <-time.After(cancelledWithin):
			_ = c.cmd.Process.Kill()
		case <-c.ended:
		}
	}()
	return c, nil
}

// quoted is a word for the shell of the server.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// meet asks what kind of machine the server is, says what should be there, and is told whether it is.
func (s *Server) meet(ctx context.Context, c *connection) (set *set, there bool, err error) {
	text, ok := c.word("machine ")
	if !ok {
		return nil, false, c.failed(ctx, "connect to %s", s.Name())
	}
	system, processor, _ := strings.Cut(text, " ")
	if set, err = s.Programs.find(machineOf(system, processor)); err != nil {
		c.close()
		return nil, false, fault.Wrap(err, "build on %s", s.Name())
	}
	_, _ = io.WriteString(c.in, set.name()+"\n"+set.manifest+"\n") // what goes wrong is told below
	switch text, ok = c.word(""); {
	case ok && text == "ready":
		return set, true, nil
	case ok && text == "missing":
		return set, false, nil
	}
	return nil, false, c.failed(ctx, "look for image-builder on %s", s.Name())
}

// bring brings executables to the server.
func (s *Server) bring(ctx context.Context, set *set) error {
	c, err := s.dial(ctx, []string{"sh", "-c", bringScript, "sh", set.name(), set.manifest})
	if err != nil {
		return err
	}
	packed := set.pack(c.in)
	_ = c.in.Close()
	if c.wait(); c.result != nil {
		return c.failed(ctx, "bring image-builder to %s", s.Name())
	}
	if packed != nil {
		return fault.New(fault.Unavailable, "bring image-builder to %s: %w", s.Name(), packed)
	}
	return nil
}

// word waits for a line of our script that begins with a word, and gives the rest of it.
func (c *connection) word(first string) (string, bool) {
	for c.out.Scan() {
		if text, ok := strings.CutPrefix(c.out.Text(), sign+first); ok {
			return strings.TrimSpace(text), true
		}
	}
	return "", false
}

// next reads an answer.
func (c *connection) next(a *answer) error {
	if !c.out.Scan() {
		return errors.Join(c.out.Err(), io.EOF)
	}
	return json.Unmarshal(c.out.Bytes(), a)
}

// send writes one line.
func (c *connection) send(o order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = c.in.Write(append(data, '\n'))
	return err
}

// live gives signs of life until the request is over.
func (c *connection) live(ctx context.Context, over <-chan struct{}) {
	ticker := time.NewTicker(signEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := io.WriteString(c.in, "\n"); err != nil {
				return
			}
		case <-ctx.Done():
			return
		case <-over:
			return
		}
	}
}

// close ends the command.
func (c *connection) close() {
	_ = c.in.Close()
	c.wait()
}

// wait waits for the command's end; the output that nobody has read is dropped.
func (c *connection) wait() {
	c.once.Do(func() {
		for c.out.Scan() {
			continue
		}
		c.result = c.cmd.Wait()
		close(c.ended)
	})
}

// sshFailed is ssh's exit code when it is ssh that has failed.
const sshFailed = 255

// failed ends the connection and is the error that its end means.
func (c *connection) failed(ctx context.Context, doing string, args ...any) error {
	c.close()
	if ctx.Err() != nil {
		return fault.New(fault.Cancelled, "cancelled")
	}
	what, said := fmt.Sprintf(doing, args...), strings.TrimSpace(strings.ReplaceAll(c.said.String(), "\r", ""))
	last := said[strings.LastIndexByte(said, '\n')+1:]
	code := c.cmd.ProcessState.ExitCode()
	switch {
	case strings.Contains(said, "Host key verification failed"):
		return fault.New(fault.Denied, "%s: its host key is not the one that is known", what).
			WithHint("somebody else may answer in its place; if it was made anew, remove what is known of it from the file of known hosts")
	case code == sshFailed && strings.Contains(said, "Permission denied"):
		return fault.New(fault.Denied, "%s: %s", what, last).WithHint("check the user and the key that ssh is given")
	case strings.Contains(said, "sudo: "):
		return fault.New(fault.Denied, "%s as root: %s", what, last).WithHint("sudo must need no password there; without ansible_become it is not used")
	case last == "":
		return fault.New(fault.Unavailable, "%s: it ended with %d and said nothing", what, code)
	case code != sshFailed: // what ran there has said it
		return fault.New(kindOf(code), "%s: %s", what, strings.TrimPrefix(said, "error: "))
	}
	return fault.New(fault.Unavailable, "%s: %s", what, last)
}

// kindOf is the kind that an exit code of image-builder means; that of a shell says little.
func kindOf(code int) fault.Kind {
	switch code {
	case fault.ExitInvalid:
		return fault.Invalid
	case fault.ExitDenied:
		return fault.Denied
	case fault.ExitCancelled:
		return fault.Cancelled
	}
	return fault.Unavailable
}
