package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/moby/buildkit/util/staticfs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// The cut link is a real one: a pair of virtual Ethernet devices between two network namespaces. The builder runs
// in the first, and in the second a relay that hands the connection on to the daemon's socket. No rights are needed.
//
//	test ── unshare ──► client (namespace A) ══ veth ══ relay (namespace B) ── unix socket ── daemon
const (
	roleVariable   = "IMAGE_BUILDER_CUT_ROLE"
	engineVariable = "IMAGE_BUILDER_CUT_ENGINE"
	baseVariable   = "IMAGE_BUILDER_CUT_BASE"
	quietVariable  = "IMAGE_BUILDER_CUT_QUIET"

	clientIP = "10.99.0.1"
	relayIP  = "10.99.0.2"
	port     = ":1234"
)

func TestMain(m *testing.M) {
	roles := map[string]func() error{"client": clientRole, "relay": relayRole}
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// outcome is what the client saw after the cut.
type outcome struct {
	Kind    fault.Kind    `json:"kind"`
	Message string        `json:"message"`
	After   time.Duration `json:"after"`
}

func TestCutLinkIsNoticed(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, nil)
	require.Equal(t, fault.Unavailable, got.Kind, got.Message)
	require.Contains(t, got.Message, "tcp://"+relayIP+port)
	t.Logf("noticed %s after the cut", got.After)
}

// TestSilentStepIsNoCut: longer than it takes to notice a cut, nothing is said and nothing happens.
func TestSilentStepIsNoCut(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, []string{quietVariable + "=25"})
	require.Empty(t, got.Kind, got.Message)
}

func runBehindLink(t *testing.T, env []string) outcome {
	t.Helper()
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{})
	bases, err := testbed.PushBases(t.Context(), registry.Host, testbed.BaseOptions{Platforms: []string{platforms.Format(platforms.DefaultSpec())}})
	require.NoError(t, err)
	address := testbed.NewEngine(t)
	unshare := []string{"--net"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append(unshare, os.Args[0])...)
	cmd.Env = append(append(os.Environ(), roleVariable+"=client", engineVariable+"="+address,
		baseVariable+"="+registry.Host+"/base/busybox:1@"+bases["base/busybox:1"]), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	require.NoError(t, cmd.Run(), "%s\n(the test needs unshare of util-linux and ip of iproute2)", &said)
	var got outcome
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
	return got
}

// clientRole builds through the link and cuts it while a step is running, unless it is to stay quiet.
func clientRole() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	relay, err := linkToRelay(ctx)
	if err != nil {
		return err
	}
	defer func() {
		_ = relay.Process.Kill()
		_ = relay.Wait()
	}()
	eng, err := engine.Dial(ctx, "buildkit", "tcp://"+relayIP+port, engine.TLS{}, nil)
	if err != nil {
		return err
	}
	defer eng.Close()
	step, quiet := "echo started; sleep 1000", os.Getenv(quietVariable)
	if quiet != "" {
		step = "sleep " + quiet
	}
	session, err := eng.Open(ctx, engine.Source{
		Context: staticfs.NewFS(), ContextKey: fmt.Sprint("cut", os.Getpid()),
		Dockerfile: []byte(fmt.Sprintf("FROM busybox\nRUN : %d; %s\n", time.Now().UnixNano(), step)),
	})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cut-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var cut time.Time
	_, err = session.Build(ctx, engine.Variant{
		Name: "app", Repository: "localhost/app", Platforms: []ocispecs.Platform{platforms.DefaultSpec()}, Layout: dir,
		Overrides: []engine.Override{{Key: "busybox", Ref: os.Getenv(baseVariable)}},
	}, func(e event.Event) {
		if quiet == "" && e.Log != nil && strings.Contains(string(e.Log.Data), "started") && cut.IsZero() {
			cut = time.Now()
			if err := ip("link", "set", "va", "down"); err != nil {
				cancel()
			}
		}
	})
	got := outcome{Kind: fault.KindOf(err)}
	if err != nil {
		got.Message, got.After = err.Error(), time.Since(cut)
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// linkToRelay starts the relay in a network namespace of its own and lays a link to it.
func linkToRelay(ctx context.Context) (*exec.Cmd, error) {
	relay := exec.CommandContext(ctx, os.Args[0])
	relay.Env = append(os.Environ(), roleVariable+"=relay")
	relay.Stderr = os.Stderr
	relay.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	told, err := relay.StdinPipe()
	if err != nil {
		return nil, err
	}
	answer, err := relay.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := relay.Start(); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", fmt.Sprint(relay.Process.Pid)},
		{"addr", "add", clientIP + "/24", "dev", "va"},
		{"link", "set", "va", "up"},
	} {
		if err := ip(args...); err != nil {
			return nil, err
		}
	}
	if _, err := io.WriteString(told, "laid\n"); err != nil {
		return nil, err
	}
	_, err = answer.Read(make([]byte, 16)) // the relay listens
	return relay, err
}

func relayRole() error {
	if _, err := os.Stdin.Read(make([]byte, 16)); err != nil { // the link is laid
		return err
	}
	for _, args := range [][]string{{"addr", "add", relayIP + "/24", "dev", "vb"}, {"link", "set", "vb", "up"}} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", relayIP+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		daemon, err := net.Dial("unix", strings.TrimPrefix(os.Getenv(engineVariable), "unix://"))
		if err != nil {
			return err
		}
		go func() { _, _ = io.Copy(daemon, conn) }()
		go func() { _, _ = io.Copy(conn, daemon) }()
	}
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
