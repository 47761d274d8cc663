package source_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/source"
	"imagebuilder/internal/testbed"
)

// sshServer is a real ssh server that lets one key run git-upload-pack.
type sshServer struct {
	address string
	hostKey ssh.PublicKey
}

func startSSH(t *testing.T, root string, allowed ssh.PublicKey) *sshServer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() == "git" && string(key.Marshal()) == string(allowed.Marshal()) {
			return nil, nil
		}
		return nil, io.EOF
	}}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config, root)
		}
	}()
	return &sshServer{address: listener.Addr().String(), hostKey: signer.PublicKey()}
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig, root string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			var command struct{ Line string }
			if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			name := strings.Trim(strings.TrimPrefix(command.Line, "git-upload-pack "), "'/")
			cmd := exec.Command("git", "-c", "safe.directory=*", "upload-pack", filepath.Join(root, name))
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			stdin, err := cmd.StdinPipe()
			if err != nil || cmd.Start() != nil {
				return
			}
			go func() { // cmd's own copying would wait for the client after git has ended
				_, _ = io.Copy(stdin, channel)
				_ = stdin.Close()
			}()
			code := uint32(0)
			if cmd.Wait() != nil {
				code = 128
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
			_ = channel.Close()
		}
	}
}

// newKey makes a key pair and gives it as OpenSSH's file and as a signer.
func newKey(t *testing.T) (file []byte, private ed25519.PrivateKey, public ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(block), private, signer.PublicKey()
}

func startAgent(t *testing.T, key ed25519.PrivateKey) string {
	t.Helper()
	keys := agent.NewKeyring()
	require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(keys, conn)
			}()
		}
	}()
	return socket
}

func TestSSH(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.GitOptions{})
	lib := b.init("lib.git", fstest.MapFS{"lib.txt": file("lib\n")})
	first := b.init("app.git", app())
	second := b.commit("app.git", testbed.GitCommit{
		Files:      fstest.MapFS{"main.txt": file("two\n"), ".gitmodules": file("[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n")},
		Submodules: map[string]string{"lib": lib},
	})
	pemKey, private, public := newKey(t)
	server := startSSH(t, b.root, public)
	host, port, err := net.SplitHostPort(server.address)
	require.NoError(t, err)
	home := t.TempDir()
	env := map[string]string{"HOME": home}
	b.fetcher.Env = func(name string) string { return env[name] }
	require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
	known := filepath.Join(home, ".ssh", "known_hosts")
	url := "ssh://git@" + host + ":" + port + "/app.git"

	f := b.fails(fault.Denied, gitRepo(url, ""), nil)
	require.Contains(t, f.Message, "not in known_hosts")
	_, _, stranger := newKey(t)
	require.NoError(t, os.WriteFile(known, []byte(knownhosts.Line([]string{server.address}, stranger)+"\n"), 0o600))
	f = b.fails(fault.Denied, gitRepo(url, ""), nil)
	require.Contains(t, f.Message, "another key than known_hosts has")
	require.NoError(t, os.WriteFile(known, []byte(knownhosts.Line([]string{server.address}, server.hostKey)+"\n"), 0o600))
	f = b.fails(fault.Denied, gitRepo(url, ""), nil)
	require.Contains(t, f.Message, "none of the keys")

	env["SSH_AUTH_SOCK"] = startAgent(t, private)
	for version, commit := range map[string]string{"": second, first: first, first[:9]: first} {
		tree := b.fetch(gitRepo(url, version), nil)
		require.Equal(t, commit, tree.Commit)
		require.Equal(t, url, tree.URL)
		if commit == second {
			require.Equal(t, "lib\n", read(t, tree.Context, "lib/lib.txt"))
		}
	}
	delete(env, "SSH_AUTH_SOCK")
	require.NoError(t, os.WriteFile(filepath.Join(home, ".ssh", "id_ed25519"), pemKey, 0o600))
	third := b.commit("app.git", testbed.GitCommit{Files: fstest.MapFS{"main.txt": file("three\n")}})
	require.Equal(t, third, b.fetch(gitRepo(url, "main"), &source.Credentials{GitPassword: "unused"}).Commit)
	require.Contains(t, b.events.text(), "password is not used")
	b.fails(fault.NotFound, gitRepo("ssh://git@"+server.address+"/none.git", ""), nil)
	b.fails(fault.Unavailable, gitRepo("ssh://git@127.0.0.1:1/app.git", ""), nil)
}
