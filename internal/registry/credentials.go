package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"

	"imagebuilder/internal/fault"
)

const (
	// hubConfigKey is what docker login calls Docker Hub.
	hubConfigKey = "https://index.docker.io/v1/"
	// tokenUser is what credential helpers give as the user name of an identity token.
	tokenUser = "<token>"
	// helperTimeout is for helpers that talk to a cloud, or ask a key ring that is locked.
	helperTimeout = 30 * time.Second
	// credentialsLife is how long what a helper said is kept: some give tokens that hold for five minutes.
	credentialsLife = 4 * time.Minute
)

// login is what one registry is told about who we are.
type login struct {
	username string // "" with a secret means that the secret is an identity (refresh) token
	secret   string
	bearer   string // a token that is sent as it is
	source   string // whose credentials they are, for errors
}

func (l login) isZero() bool { return l.secret == "" && l.bearer == "" }

// basic is the login as basic authentication sends it, or "" when there is none.
func (l login) basic() string {
	if l.secret == "" {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(l.username + ":" + l.secret))
}

// Credentials gives user name and password for a registry host, for a daemon that asks: those of build_params for its own host,
// otherwise what the registry's credentials file says, or the Docker configuration and its credential helpers, for the repository that
// AnswerFor has settled on; and "", "" when nobody knows any. For an identity token the user
// name is "" and the password is the token, as BuildKit's session expects it. docker.io and its other names are one host.
// It fails with kind Denied when a file or a helper cannot be used.
func (c *Client) Credentials(ctx context.Context, host string) (username, password string, err error) {
	c.mu.Lock()
	repository := c.answers[canonicalHost(host)]
	c.mu.Unlock()
	l, err := c.login(ctx, host, repository)
	return l.username, l.secret, err
}

// login finds out who we are for a repository of a host; "" is the host as a whole.
func (c *Client) login(ctx context.Context, host, repository string) (login, error) {
	host = canonicalHost(host)
	l := login{username: c.config.Username, secret: c.config.Password, source: "the credentials of build_params"}
	if host != c.host || l.secret == "" {
		l = login{}
		var err error
		if s := c.sites[host]; s != nil && s.credentials != nil {
			l, err = s.credentials.login(ctx, host, repository)
		}
		if l.isZero() && err == nil {
			l, err = c.docker.login(ctx, host, repository)
		}
		if err != nil {
			return login{}, err
		}
	}
	c.secrets.add(l.secret)
	c.secrets.add(l.bearer)
	c.secrets.add(l.basic())
	return l, nil
}

// dockerConfig is the user's Docker configuration, or a file of the same form. It is read, never written.
type dockerConfig struct {
	dir  string // "" is the user's own
	file string // in the place of the user's configuration; it has to be there

	mu     sync.Mutex // helpers are asked one at a time: some key rings answer wrong otherwise (docker/cli#1862)
	known  map[string]knownLogin
	loaded *configfile.ConfigFile
	until  time.Time // loaded is read again after that
}

type knownLogin struct {
	login
	until time.Time
}

// login finds the credentials for a repository: those whose path is the longest that it begins with, or those of its host.
func (d *dockerConfig) login(ctx context.Context, host, repository string) (login, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, found := d.byPath(host, repository); found {
		return l, nil
	}
	if k, ok := d.known[host]; ok && time.Now().Before(k.until) {
		return k.login, nil
	}
	auth, source, err := d.ask(ctx, host)
	if err != nil {
		return login{}, err
	}
	l := newLogin(auth, source)
	if d.known == nil {
		d.known = map[string]knownLogin{}
	}
	d.known[host] = knownLogin{login: l, until: time.Now().Add(credentialsLife)}
	return l, nil
}

// ask looks where docker looks, in its order: DOCKER_AUTH_CONFIG, a helper, the file itself.
func (d *dockerConfig) ask(ctx context.Context, host string) (types.AuthConfig, string, error) {
	key := host
	if host == dockerHub {
		key = hubConfigKey
	}
	// An empty configuration has no helper and no file, which leaves the environment.
	if auth, err := configfile.New("").GetAuthConfig(key); d.file == "" && err == nil && auth != (types.AuthConfig{}) {
		return auth, "the credentials of " + configfile.DockerEnvConfigKey, nil
	}
	file, path, err := d.load(host)
	if err != nil || file == nil {
		return types.AuthConfig{}, "", err
	}
	source := "the credentials of " + path
	helper := file.CredentialsStore
	if own, ok := file.CredentialHelpers[key]; ok {
		helper = own
	}
	if helper == "" {
		return ofHost(file.GetAuthConfigs(), host), source, nil
	}
	auth, err := askHelper(ctx, helper, key)
	if err != nil {
		return auth, source, fault.New(fault.Denied, "ask docker-credential-%s for credentials of %s: %w", helper, host, err).
			WithHint("mend the helper, take it out of %s, or give username and password in target.registry", path)
	}
	return auth, "the credentials of docker-credential-" + helper, nil
}

func (d *dockerConfig) folder() (string, error) {
	if d.dir != "" {
		return d.dir, nil
	}
	if dir := os.Getenv(config.EnvOverrideConfigDir); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".docker"), err
}

// askHelper runs a credential helper; nothing known is no error.
func askHelper(ctx context.Context, suffix, key string) (types.AuthConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	run := &helperRun{ctx: ctx, name: "docker-credential-" + suffix}
	found, err := client.Get(run.program, key)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return types.AuthConfig{}, nil
	case ctx.Err() != nil:
		return types.AuthConfig{}, fmt.Errorf("no answer: %w", ctx.Err())
	case err != nil:
		return types.AuthConfig{}, run.failure()
	case found.Username == tokenUser:
		return types.AuthConfig{IdentityToken: found.Secret}, nil
	default:
		return types.AuthConfig{Username: found.Username, Password: found.Secret}, nil
	}
}

// helperRun is one run of a helper that ends with its context. docker's own runs until the helper is done.
type helperRun struct {
	ctx   context.Context
	name  string
	args  []string
	input io.Reader
	out   []byte
	err   error
}

func (h *helperRun) program(args ...string) client.Program {
	h.args = args
	return h
}

// Input sets what the helper reads.
func (h *helperRun) Input(in io.Reader) { h.input = in }

// Output runs the helper and gives what it prints.
func (h *helperRun) Output() ([]byte, error) {
	command := exec.CommandContext(h.ctx, h.name, h.args...) // named by the user's own configuration
	command.Stdin = h.input
	command.WaitDelay = time.Second // a child of a killed helper may hold on to its output
	h.out, h.err = command.Output()
	return h.out, h.err
}

// failure says why the helper gave nothing. What it printed is shown only when it cannot be credentials.
func (h *helperRun) failure() error {
	said := bytes.TrimSpace(h.out)
	switch {
	case errors.Is(h.err, exec.ErrNotFound):
		return fmt.Errorf("%s is not on PATH", h.name)
	case h.err == nil:
		return errors.New("its answer is not in the form of the helpers' protocol")
	case len(said) > 0 && len(said) < maxServerText && !bytes.ContainsAny(said, "{\n"):
		return fmt.Errorf("%w: %s", h.err, strings.ToValidUTF8(string(said), "?"))
	default:
		return h.err
	}
}
