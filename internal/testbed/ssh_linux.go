package testbed

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// sshStartsWithin is how long an OpenSSH server may take to listen: a tenth of a second on a quiet machine.
const sshStartsWithin = 30 * time.Second

// SSHOptions say what an OpenSSH server is like.
type SSHOptions struct {
	Address string   // to listen on; default a free port of 127.0.0.1
	Env     []string // NAME=VALUE, in the environment of those who log in, besides HOME and PATH
	Path    string   // folders before the usual ones in their PATH
}

// SSH is a running OpenSSH server. Whoever runs the test logs in to it, and has an empty home there.
type SSH struct {
	Address string // HOST:PORT
	User    string // who logs in
	Key     string // file with the private key that may
	HostKey string // the server's public key, as known_hosts has it
	Home    string // folder

	dir    string
	cancel context.CancelFunc
	done   chan struct{}
}

// StartSSH starts Debian's server with settings and keys of its own; nothing of this machine is changed. scripts/engines.sh gets it.
// Close ends it, with all of its connections.
func StartSSH(options SSHOptions) (*SSH, error) {
	root, err := RepoRoot()
	if err != nil {
		return nil, err
	}
	debian := filepath.Join(root, ".work", "engines", "debian")
	daemon := filepath.Join(debian, "usr", "sbin", "sshd")
	if _, err := os.Stat(daemon); err != nil {
		return nil, fmt.Errorf("start sshd: %w; scripts/engines.sh debian gets it", err)
	}
	dir, err := os.MkdirTemp("", "sshd-*")
	if err != nil {
		return nil, err
	}
	s := &SSH{dir: dir, Address: options.Address, User: userName(), Key: filepath.Join(dir, "key"), Home: filepath.Join(dir, "home"), done: make(chan struct{})}
	if err := s.start(daemon, debian, options); err != nil {
		s.Close()
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	return s, nil
}

func userName() string {
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		return "root"
	}
	return strings.TrimSpace(string(out))
}

// Close ends the server and removes what it had.
func (s *SSH) Close() {
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
	_ = os.RemoveAll(s.dir)
}

// Port is the port of the server's address.
func (s *SSH) Port() string {
	_, port, _ := net.SplitHostPort(s.Address)
	return port
}

// KnownHost is the server's line of a file of known hosts.
func (s *SSH) KnownHost() string {
	host, port, _ := net.SplitHostPort(s.Address)
	if port != "22" {
		host = "[" + host + "]:" + port
	}
	return host + " " + s.HostKey + "\n"
}

func (s *SSH) start(daemon, debian string, options SSHOptions) error {
	in := func(name string) string { return filepath.Join(s.dir, name) }
	for _, name := range []string{"host", "key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", in(name)).CombinedOutput(); err != nil { //nolint:gosec // G204: our own names
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	key, err := os.ReadFile(in("host.pub"))
	if err != nil {
		return err
	}
	s.HostKey = strings.TrimSpace(string(key))
	if s.Address == "" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.Address = listener.Addr().String()
		_ = listener.Close()
	}
	if err := os.Mkdir(s.Home, 0o700); err != nil {
		return err
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	if options.Path != "" {
		path = options.Path + ":" + path
	}
	// A temporary folder is below one that everybody may write to, which StrictModes does not like.
	settings := "ListenAddress " + s.Address + "\nHostKey " + in("host") + "\nAuthorizedKeysFile " + in("key.pub") +
		"\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n" +
		"SetEnv " + strings.Join(append([]string{"HOME=" + s.Home, "PATH=" + path}, options.Env...), " ") + "\n"
	if err := os.WriteFile(in("sshd_config"), []byte(settings), 0o600); err != nil {
		return err
	}
	args := []string{daemon, "-D", "-e", "-f", in("sshd_config")}
	if os.Geteuid() == 0 {
		if args, err = s.asRoot(args); err != nil {
			return err
		}
	}
	return s.run(args, (&Docker{Debian: debian}).Libraries())
}

// asRoot gives the server the user and the folder of the system's that it wants, in a mount namespace of its own.
func (s *SSH) asRoot(args []string) ([]string, error) {
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil, err
	}
	passwd := filepath.Join(s.dir, "passwd")
	lines := strings.Split(strings.TrimSpace(string(users)), "\n")
	for i, line := range lines { // for who asks the system where home is, as sudo does
		if fields := strings.Split(line, ":"); fields[0] == s.User && len(fields) == 7 {
			fields[5] = s.Home
			lines[i] = strings.Join(fields, ":")
		}
	}
	users = []byte(strings.Join(lines, "\n") + "\n")
	if !strings.Contains(string(users), "\nsshd:") {
		users = append(users, "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"...)
	}
	if err := os.WriteFile(passwd, users, 0o600); err != nil {
		return nil, err
	}
	if err := os.Chmod(passwd, 0o644); err != nil { //nolint:gosec // G302: everybody reads it there
		return nil, err
	}
	script := `mount --bind "$1" /etc/passwd && mkdir -p "$2" && mount --bind "$2" /run && mkdir -p /run/sshd && chmod 755 /run/sshd && shift 2 && exec "$@"`
	return append([]string{"unshare", "--mount", "sh", "-c", script, "sh", passwd, filepath.Join(s.dir, "run")}, args...), nil
}

func (s *SSH) run(args []string, env ...string) error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // G204: our own words
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	// The server has a process for each connection: all of them end.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		close(s.done)
		return err
	}
	go func() {
		_ = cmd.Wait()
		close(s.done)
	}()
	for deadline := time.Now().Add(sshStartsWithin); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it does not listen on %s: %s", s.Address, said)
		}
		select {
		case <-s.done:
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended: %s", strconv.Quote(string(said)))
		default:
		}
	}
}
