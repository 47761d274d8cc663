package source

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"imagebuilder/internal/fault"
)

// sshDialTimeout is how long a host may take to accept a connection; ssh itself waits for the
// system's two minutes, which nobody does.
const sshDialTimeout = 30 * time.Second

// keyFiles are the private keys that ssh uses unasked, in its order.
var keyFiles = [...]string{"id_ed25519", "id_ecdsa", "id_rsa"}

// connectSSH logs in with the agent's keys and the user's unencrypted default keys, to hosts that the
// user's known_hosts files know, and starts git-upload-pack there.
func (r *remote) connectSSH(ctx context.Context, ep *transport.Endpoint) (transport.UploadPackSession, error) {
	known, err := r.job.knownHosts()
	if err != nil {
		return nil, err
	}
	address := r.loc.host
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "22")
	}
	user := orDefault(r.loc.user, orDefault(r.username, gitssh.DefaultUsername))
	signers, release := r.job.signers()
	auth := &sshLogin{config: &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback:   known.HostKeyCallback(),
		HostKeyAlgorithms: known.HostKeyAlgorithms(address),
		Timeout:           sshDialTimeout,
	}}
	type result struct {
		session transport.UploadPackSession
		err     error
	}
	// go-git's ssh knows no context while it logs in: it is left to itself when ctx ends.
	done := make(chan result, 1)
	go func() {
		defer release()
		session, err := gitssh.NewClient(nil).NewUploadPackSession(ep, auth)
		done <- result{session, err}
	}()
	select {
	case res := <-done:
		if res.err == nil {
			return res.session, nil
		}
		return nil, res.err
	case <-ctx.Done():
		go func() {
			if res := <-done; res.err == nil {
				_ = res.session.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// sshLogin is go-git's way of being given a configuration.
type sshLogin struct{ config *ssh.ClientConfig }

func (l *sshLogin) Name() string                             { return gitssh.PublicKeysCallbackName }
func (l *sshLogin) String() string                           { return l.Name() }
func (l *sshLogin) ClientConfig() (*ssh.ClientConfig, error) { return l.config, nil }

// signers are the agent's keys, then the default key files that need no passphrase. release
// closes the connection to the agent, which signs as long as it is open.
func (j *job) signers() (signers []ssh.Signer, release func()) {
	release = func() {}
	if socket := j.env("SSH_AUTH_SOCK"); socket != "" {
		if conn, err := net.Dial("unix", socket); err == nil {
			release = func() { _ = conn.Close() }
			signers, _ = agent.NewClient(conn).Signers()
		}
	}
	for _, name := range keyFiles {
		pem, err := os.ReadFile(filepath.Join(j.env("HOME"), ".ssh", name))
		if err != nil {
			continue
		}
		if signer, err := ssh.ParsePrivateKey(pem); err == nil {
			signers = append(signers, signer)
		}
	}
	return signers, release
}

func (j *job) knownHosts() (*knownhosts.HostKeyDB, error) {
	files := filepath.SplitList(j.env("SSH_KNOWN_HOSTS"))
	if len(files) == 0 {
		files = []string{filepath.Join(j.env("HOME"), ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	var there []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		}
	}
	db, err := knownhosts.NewDB(there...)
	if err != nil {
		return nil, fault.New(fault.Denied, "read known_hosts: %w", err)
	}
	return db, nil
}

// sshFault makes a fault of an error of ssh, and nil of others.
func sshFault(what string, err error) error {
	switch {
	case knownhosts.IsHostKeyChanged(err):
		return fault.New(fault.Denied, "%s: the host shows another key than known_hosts has", what).
			WithHint("somebody may be in between; if the host has really changed, replace its line in ~/.ssh/known_hosts")
	case knownhosts.IsHostUnknown(err):
		return fault.New(fault.Denied, "%s: the host's key is not in known_hosts", what).
			WithHint("compare the key's fingerprint with what the host's owner says, and add it: ssh-keyscan HOST >> ~/.ssh/known_hosts")
	case strings.Contains(err.Error(), "ssh: unable to authenticate"): // it has no type of its own
		return fault.New(fault.Denied, "%s: the server accepts none of the keys", what).
			WithHint("ssh uses the keys of the agent and ~/.ssh/id_ed25519, id_ecdsa, id_rsa if they need no passphrase: ssh-add the right one")
	}
	return nil
}
