package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// A link that is cut is a real one here: a pair of virtual Ethernet devices between two network namespaces. The builder
// runs in the first, and in the second a relay that hands the connection on to the daemon's socket. No rights are needed.
//
//	test ── unshare ──► client (namespace A) ══ veth ══ relay (namespace B) ── unix socket ── daemon
const (
	roleVariable   = "IMAGE_BUILDER_LINK_ROLE"
	engineVariable = "IMAGE_BUILDER_LINK_ENGINE" // that the relay leads to
	otherVariable  = "IMAGE_BUILDER_LINK_OTHER"  // that is reached without a link
	baseVariable   = "IMAGE_BUILDER_LINK_BASE"
	quietVariable  = "IMAGE_BUILDER_LINK_QUIET" // seconds

	clientIP = "10.99.0.1"
	relayIP  = "10.99.0.2"
	port     = ":1234"
	relayed  = "tcp://" + relayIP + port

	// noOne is a hardware address that nobody on the link has.
	noOne = "02:00:00:00:00:99"
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{
		"relay":  relayRole,
		"build":  behindLink(buildBehindLink),
		"nodes":  behindLink(buildOnNodes),
		"docker": behindLink(buildOnDocker),
	}
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// outcome is what the client saw.
type outcome struct {
	Kind    fault.Kind    `json:"kind"`
	Message string        `json:"message"`
	After   time.Duration `json:"after"` // from the cut until it was noticed
	Notes   []string      `json:"notes"`
}

// runBehindLink runs a role of TestMain in a network namespace of its own, with a link to the tests' engine.
func runBehindLink(t *testing.T, role string, env ...string) outcome {
	t.Helper()
	return runBehindLinkTo(t, testbed.NewEngine(t), role, env...)
}

// runBehindLinkTo is runBehindLink with the daemon at a socket at the link's other end.
func runBehindLinkTo(t *testing.T, daemon, role string, env ...string) outcome {
	t.Helper()
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{})
	bases, err := testbed.PushBases(t.Context(), registry.Host, testbed.BaseOptions{Platforms: []string{platforms.Format(platforms.DefaultSpec())}})
	require.NoError(t, err)
	unshare := []string{"--net"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(unshare, os.Args[0])...)
	cmd.Env = append(append(os.Environ(), roleVariable+"="+role, engineVariable+"="+daemon,
		baseVariable+"="+registry.Host+"/base/busybox:1@"+bases["base/busybox:1"]), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Run(), "%s\n(the test needs unshare of util-linux and ip of iproute2)", &said)
	var got outcome
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
	return got
}

// behindLink makes a role of what a client does behind a link.
func behindLink(do func(context.Context, *link) (outcome, error)) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		l, err := layLink(ctx)
		if err != nil {
			return err
		}
		defer l.remove()
		got, err := do(ctx, l)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(got)
	}
}

// link is the client's end of the link.
type link struct {
	relay  *exec.Cmd
	told   io.Writer
	answer *bufio.Reader
}

// layLink starts the relay in a network namespace of its own and lays a link to it.
func layLink(ctx context.Context) (*link, error) {
	l := &link{relay: exec.CommandContext(ctx, os.Args[0])}
	l.relay.Env = append(os.Environ(), roleVariable+"=relay")
	l.relay.Stderr = os.Stderr
	l.relay.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	told, err := l.relay.StdinPipe()
	if err != nil {
		return nil, err
	}
	answer, err := l.relay.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.told, l.answer = told, bufio.NewReader(answer)
	if err := l.relay.Start(); err != nil {
		return nil, err
	}
	if err := ip(
		"link add va type veth peer name vb netns "+fmt.Sprint(l.relay.Process.Pid),
		"addr add "+clientIP+"/24 dev va",
		"link set va up",
	); err != nil {
		return nil, err
	}
	return l, l.tell("laid")
}

// tell has the relay do something, and waits until it is done.
func (l *link) tell(what string) error {
	if _, err := fmt.Fprintln(l.told, what); err != nil {
		return err
	}
	_, err := l.answer.ReadString('\n')
	return err
}

// cut lets nothing through in either direction from now on. Neither end is told: the devices stay up.
func (l *link) cut() error {
	return errors.Join(ip("neigh replace "+relayIP+" lladdr "+noOne+" dev va nud permanent"), l.tell("cut"))
}

func (l *link) remove() {
	_ = l.relay.Process.Kill()
	_ = l.relay.Wait()
}

func relayRole() error {
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		var err error
		switch orders.Text() {
		case "laid":
			err = relay()
		case "cut":
			err = ip("neigh replace " + clientIP + " lladdr " + noOne + " dev vb nud permanent")
		}
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
	return orders.Err()
}

// relay hands connections on to the daemon, from now until the process ends.
func relay() error {
	if err := ip("addr add "+relayIP+"/24 dev vb", "link set vb up"); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", relayIP+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			daemon, err := net.Dial("unix", strings.TrimPrefix(os.Getenv(engineVariable), "unix://"))
			if err != nil {
				_ = conn.Close()
				continue
			}
			go func() { _, _ = io.Copy(daemon, conn) }()
			go func() { _, _ = io.Copy(conn, daemon) }()
		}
	}()
	return nil
}

// ip runs commands of iproute2.
func ip(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, out)
		}
	}
	return nil
}
