//go:build blueprints

package openstack_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// patience is how long a test waits for what takes seconds on a machine that has nothing else to do.
const patience = time.Minute

// What the tests share: the OpenStack, as the user demo, and a key pair.
var (
	root     string // of the working tree
	clouds   string // clouds.yaml
	demo     *cloud
	key      string // name
	identity string // file of the private key
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		log.Println(err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	if root, err = testbed.RepoRoot(); err != nil {
		return 1, err
	}
	bed, err := testbed.StartOpenStack(ctx)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	clouds, key, identity = bed.CloudsFile, bed.KeyName, bed.KeyFile
	if demo, err = logIn(ctx, clouds, bed.Cloud, ""); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// unique is a name that nothing else in the OpenStack has, or begins with.
func unique() string {
	random := make([]byte, 4)
	_, _ = rand.Read(random)
	return "lib-" + hex.EncodeToString(random)
}

// onEach runs a test with each version of opera, side by side.
func onEach(t *testing.T, test func(*testing.T, testbed.Opera)) {
	t.Helper()
	t.Parallel()
	on(t, testbed.OpenStackOperas(t), test)
}

// inTurn runs a test of what nodes do by themselves, whichever opera runs them: in short mode with one version.
func inTurn(t *testing.T, test func(*testing.T, testbed.Opera)) {
	t.Helper()
	t.Parallel()
	versions := testbed.OpenStackOperas(t)
	if testing.Short() {
		versions = testbed.Turn(t.Name(), versions)
	}
	on(t, versions, test)
}

// on runs a test that may have had something of its own to do first.
func on(t *testing.T, versions []testbed.Opera, test func(*testing.T, testbed.Opera)) {
	t.Helper()
	for _, version := range versions {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// project is a folder that someone deploys from. Everything that it makes has a name that begins with its own.
type project struct {
	opera          testbed.Opera
	cloud          *cloud
	name, template string
	folder         string
	env            []string
	inputs         map[string]any
}

// newProject makes a folder with a template of testdata, and with inputs that many tests have in common.
func newProject(t *testing.T, version testbed.Opera, template string) *project {
	t.Helper()
	// The sockets of connections by SSH are in the home folder, and their paths must be short.
	home, err := os.MkdirTemp("", "home-*")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	p := &project{opera: version, cloud: demo, name: unique(), template: template, folder: t.TempDir()}
	t.Cleanup(func() { p.clear(t) })
	p.env = append(os.Environ(), "PATH="+version.Bin+":"+os.Getenv("PATH"), "HOME="+home, "LC_ALL=C.UTF-8", "OS_CLIENT_CONFIG_FILE="+clouds)
	p.inputs = map[string]any{"name": p.name, "key": key}
	if template == machine {
		p.inputs["cloud"], p.inputs["identity_file"] = "demo", identity
		p.inputs["rules"] = []any{map[string]any{"port": 22, "from": "ssh"}}
	}
	p.write(t, template, readFile(t, filepath.Join("testdata", template)))
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(p.folder, "library")))
	return p
}

// clear removes what a test has left that failed.
func (p *project) clear(t *testing.T) {
	t.Helper()
	for _, server := range named(p.cloud.servers(t), p.name) {
		p.cloud.remove(t, "compute", "/servers/"+server.ID)
	}
	for _, address := range p.cloud.floating(t) {
		if strings.Contains(address.Description, p.name) {
			p.cloud.remove(t, "network", "/floatingips/"+address.ID)
		}
	}
	for _, group := range named(p.cloud.groups(t), p.name) {
		p.cloud.remove(t, "network", "/security-groups/"+group.ID)
	}
}

// again is another folder with the same template and inputs: another deployment.
func (p *project) again(t *testing.T) *project {
	t.Helper()
	other := newProject(t, p.opera, p.template)
	other.name, other.inputs = p.name, p.inputs
	return other
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Clean(path))
	require.NoError(t, err)
	return string(data)
}

// write puts a file into the project's folder.
func (p *project) write(t *testing.T, file, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(p.folder, file), []byte(content), 0o600))
}

// run runs opera with the project's inputs where it takes any, and gives what it said and its exit code.
func (p *project) run(t *testing.T, args ...string) (said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if args[0] == "deploy" || args[0] == "update" {
		data, err := json.Marshal(p.inputs)
		require.NoError(t, err)
		p.write(t, "inputs.yaml", string(data))
		args = append(args, "-i", "inputs.yaml", p.template)
	}
	var out bytes.Buffer
	c := exec.CommandContext(ctx, filepath.Join(p.opera.Bin, "opera"), args...)
	c.Dir, c.Env, c.Stdout, c.Stderr, c.WaitDelay = p.folder, p.env, &out, &out, patience
	err := c.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err, out.String())
	}
	return out.String(), c.ProcessState.ExitCode()
}

// does runs opera, which must succeed, and gives what it said.
func (p *project) does(t *testing.T, args ...string) string {
	t.Helper()
	said, code := p.run(t, args...)
	require.Zero(t, code, "opera %v:\n%s", args, said)
	return said
}

// fails runs opera, which must not succeed and says all of this.
func (p *project) fails(t *testing.T, because []string, args ...string) {
	t.Helper()
	said, code := p.run(t, args...)
	require.NotZero(t, code, "opera %v:\n%s", args, said)
	for _, cause := range because {
		require.Contains(t, said, cause)
	}
}

// redeploy looks at every node again, and gives how many of them something was changed for.
func (p *project) redeploy(t *testing.T) int {
	t.Helper()
	said := p.does(t, "deploy", "--clean-state", "--force", "--verbose")
	// in Ansible's summary; elsewhere it is true or false
	found := regexp.MustCompile(`"changed": (\d+)`).FindAllStringSubmatch(said, -1)
	require.Len(t, found, strings.Count(said, "Executing create"), said)
	changed := 0
	for _, one := range found {
		if one[1] != "0" {
			changed++
		}
	}
	return changed
}

// undeploy takes everything back, whatever has become of it.
func (p *project) undeploy(t *testing.T) {
	t.Helper()
	said := p.does(t, "undeploy", "--resume", "--force")
	require.NotContains(t, said, "already", said)
}

// outputs are the outputs of the deployment.
func (p *project) outputs(t *testing.T) map[string]string {
	t.Helper()
	return testbed.OperaOutputs[string](t, p.does(t, "outputs"))
}

// leavesNothing sees that the cloud has nothing of the project, nor its folder anything of the cloud's.
func (p *project) leavesNothing(t *testing.T) {
	t.Helper()
	require.Empty(t, named(p.cloud.servers(t), p.name))
	require.Empty(t, named(p.cloud.groups(t), p.name))
	known, err := os.ReadFile(filepath.Join(p.folder, ".image-builder", "known_hosts"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
		require.Empty(t, string(known))
	}
	records, err := filepath.Glob(filepath.Join(p.folder, ".image-builder", "hosts", "*"))
	require.NoError(t, err)
	require.Empty(t, records)
}

// onServer runs a command on a server, by a way of our own.
func onServer(t *testing.T, address string, command ...string) string {
	t.Helper()
	ssh := exec.CommandContext(t.Context(), "ssh", append([]string{"-i", identity, "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no",
		"-o", "LogLevel=ERROR", "debian@" + address}, command...)...)
	out, err := ssh.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// answers tells whether a port of a server can be reached: something listens, or the machine says that nothing does.
func answers(t *testing.T, address string, port string) bool {
	t.Helper()
	dialer := net.Dialer{Timeout: 2 * time.Second}
	connection, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(address, port))
	if err != nil {
		return strings.Contains(err.Error(), "connection refused")
	}
	require.NoError(t, connection.Close())
	return true
}
