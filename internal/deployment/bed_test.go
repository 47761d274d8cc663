//go:build blueprints && linux

package deployment_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// engine is the Docker Engine of all tests, and archives a folder with the test images: web.tar and, with other content, other.tar.
var (
	engine   *testbed.Docker
	root     string
	archives string
)

func TestMain(m *testing.M) {
	code, err := withEngine(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withEngine(run func() int) (code int, err error) {
	if root, err = testbed.RepoRoot(); err != nil {
		return 1, err
	}
	if archives, err = os.MkdirTemp("", "deployment-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(archives)) }()
	if engine, err = testbed.StartDocker(context.Background(), testbed.DockerKinds()[0]); err != nil {
		return 1, fmt.Errorf("%w; `scripts/engines.sh debian` gets it, and it takes root", err)
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	return run(), nil
}

// serve is what runs in the test image. It says when it is stopped, and FAIL has it do one thing or another wrong.
const serve = `#!/bin/sh
trap 'echo stopped in good order; exit 0' TERM
case $FAIL in
exit) echo "the first line"; echo "no table users"; exit 3 ;;
health) echo "the disk is full"; while :; do sleep 1 & wait $!; done ;;
esac
mkdir -p /tmp/www && echo "$GREETING" >/tmp/www/greeting && touch /tmp/www/ready
httpd -f -p 8080 -h /tmp/www &
wait $!
`

// image makes the archive of an image web:TAG, whose user is no number: more is something that makes it another one.
func image(t *testing.T, file, tag, more string) string {
	t.Helper()
	path := filepath.Join(archives, file)
	making.Lock()
	defer making.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	registry := testbed.NewRegistry(t, testbed.RegistryOptions{Dir: t.TempDir()})
	_, err := testbed.PushBases(t.Context(), registry.Host, testbed.BaseOptions{
		Platforms: []string{"linux/" + runtime.GOARCH},
		Images: []testbed.BaseImage{{Name: "base/web:1", Files: map[string]string{
			"/serve": serve, "/more": more, "/etc/passwd": "root:x:0:0::/:/bin/sh\nweb:x:1234:1235::/:/bin/sh\n",
		}}},
	})
	require.NoError(t, err)
	ref, err := name.ParseReference(registry.Host + "/base/web:1")
	require.NoError(t, err)
	base, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	require.NoError(t, err)
	made, err := mutate.Config(base, v1.Config{
		User: "web", Cmd: []string{"/serve"}, Env: []string{"PATH=/bin"},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1:8080/ready || { echo not ready; exit 1; }"},
			Interval: 300 * time.Millisecond, Timeout: 10 * time.Second, Retries: 10,
		},
	})
	require.NoError(t, err)
	local, err := name.NewTag(tag)
	require.NoError(t, err)
	require.NoError(t, tarball.WriteToFile(path+".new", local, made))
	require.NoError(t, os.Rename(path+".new", path))
	return path
}

var making sync.Mutex

// subnets are those that were handed out: an Engine does not know those of the machine's other Engines.
var subnets sync.Map

// subnet is one that no interface of this machine is in.
func subnet(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for range 10_000 {
		prefix := fmt.Sprintf("10.214.%d.", rand.IntN(256))
		if slices.ContainsFunc(all, func(a net.Addr) bool { return strings.HasPrefix(a.String(), prefix) }) {
			continue
		}
		if _, taken := subnets.LoadOrStore(prefix, true); !taken {
			return prefix + "0/24"
		}
	}
	require.Fail(t, "no network is free")
	return ""
}

// docker runs the docker command, which must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(engine.Bin(), "docker"), append([]string{"--host", engine.Host}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "docker %v: %s", args, said.String())
	return strings.TrimSpace(string(out))
}

// onEach runs a test with each version of opera, side by side. Names of what is deployed begin with the project's.
func onEach(t *testing.T, test func(*testing.T, *project)) {
	t.Helper()
	on(t, testbed.Pairs(t), test)
}

// inTurn runs a test of what nodes do by themselves, whichever opera runs them: in short mode with one version.
func inTurn(t *testing.T, test func(*testing.T, *project)) {
	t.Helper()
	versions := testbed.Pairs(t)
	if testing.Short() {
		versions = testbed.Turn(t.Name(), versions)
	}
	on(t, versions, test)
}

func on(t *testing.T, versions []testbed.Opera, test func(*testing.T, *project)) {
	t.Helper()
	t.Parallel()
	for _, version := range versions {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			test(t, newProject(t, version))
		})
	}
}

// project is a folder that someone deploys from.
type project struct {
	version testbed.Opera
	name    string // unique
	folder  string
	service string         // file of the template. Opera keeps its name alone, and so an update compares two files
	host    map[string]any // attributes of the machine that is deployed to
	home    string
	tmp     string
	env     []string
}

var projects atomic.Int32

func newProject(t *testing.T, version testbed.Opera) *project {
	t.Helper()
	p := &project{
		version: version, name: fmt.Sprintf("p%d", projects.Add(1)), folder: t.TempDir(), service: "service.yaml",
		host: map[string]any{"public_address": "localhost", "private_address": "localhost"}, home: t.TempDir(), tmp: t.TempDir(),
	}
	require.NoError(t, os.Symlink(filepath.Join(root, "library"), filepath.Join(p.folder, "library")))
	p.env = append(os.Environ(), "PATH="+version.Bin+":"+engine.Bin()+":"+os.Getenv("PATH"), "HOME="+p.home, "DOCKER_CONFIG="+p.home,
		"TMPDIR="+p.tmp, "LC_ALL=C.UTF-8", "DOCKER_HOST="+engine.Host)
	t.Cleanup(func() { // of a test that failed: an Engine leaves its bridges behind
		for _, one := range p.left(t) {
			kind, name, _ := strings.Cut(one, " ")
			force := map[string][]string{"container": {"--force"}, "image": {"--force"}}[kind]
			_ = exec.Command(filepath.Join(engine.Bin(), "docker"), slices.Concat([]string{"--host", engine.Host, kind, "rm"}, force, []string{name})...).Run()
		}
	})
	return p
}

// nodes are node templates, by name.
type nodes map[string]map[string]any

// node is a node template that is hosted where the tests run, and needs others first.
func node(kind string, properties map[string]any, needs ...string) map[string]any {
	requirements := []any{map[string]any{"host": "host"}}
	if kind != "DockerEngine" && kind != "Certificate" {
		requirements = append(requirements, map[string]any{"engine": "engine"})
	}
	for _, need := range needs {
		requirements = append(requirements, map[string]any{"dependency": need})
	}
	template := map[string]any{"type": "imagebuilder.nodes." + kind, "requirements": requirements}
	if len(properties) > 0 {
		template["properties"] = properties
	}
	return template
}

// template writes the template with a host, an engine and these nodes. JSON is YAML.
func (p *project) template(t *testing.T, all nodes, outputs ...string) {
	t.Helper()
	complete := map[string]any{
		"host":   map[string]any{"type": "imagebuilder.nodes.Host", "attributes": p.host},
		"engine": node("DockerEngine", nil),
	}
	for name, one := range all {
		complete[name] = one
	}
	values := map[string]any{}
	for _, output := range outputs { // NODE.ATTRIBUTE
		of, attribute, _ := strings.Cut(output, ".")
		values[output] = map[string]any{"value": map[string]any{"get_attribute": []string{of, attribute}}}
	}
	topology := map[string]any{"node_templates": complete}
	if len(values) > 0 {
		topology["outputs"] = values
	}
	data, err := json.MarshalIndent(map[string]any{
		"tosca_definitions_version": "tosca_simple_yaml_1_3", "imports": []string{"library/docker/types.yaml"}, "topology_template": topology,
	}, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(p.folder, p.service), data, 0o600))
}

// run runs opera in the project's folder.
func (p *project) run(t *testing.T, args ...string) (said string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.version.Bin, "opera"), args...)
	cmd.Dir, cmd.Env = p.folder, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	require.NotNil(t, cmd.ProcessState, "%v", err)
	return string(out), cmd.ProcessState.ExitCode()
}

// opera runs opera, which must succeed.
func (p *project) opera(t *testing.T, args ...string) string {
	t.Helper()
	said, code := p.run(t, args...)
	require.Zero(t, code, "opera %v:\n%s", args, said)
	return said
}

// operaFails runs opera, which must not succeed.
func (p *project) operaFails(t *testing.T, args ...string) string {
	t.Helper()
	said, code := p.run(t, args...)
	require.NotZero(t, code, "opera %v:\n%s", args, said)
	return said
}

// again deploys once more, every node, and tells how many operations changed something.
func (p *project) again(t *testing.T) (changed int) {
	t.Helper()
	said := p.opera(t, "deploy", "-c", "-f", "-v", p.service)
	_, _, ok := strings.Cut(said, `"changed": 0`)
	require.True(t, ok, "the engine is never changed:\n%s", said)
	// Every operation has one line with a number; results of tasks have true and false.
	return strings.Count(said, `"changed": 1`)
}

// outputs are the outputs of the deployment.
func (p *project) outputs(t *testing.T) map[string]string {
	t.Helper()
	return testbed.OperaOutputs[string](t, p.opera(t, "outputs"))
}

// freePort is a port of 127.0.0.1 that nobody listens at.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// container is the id of a container, or nothing.
func container(t *testing.T, name string) string {
	t.Helper()
	return docker(t, "ps", "--all", "--no-trunc", "--quiet", "--filter", "name=^/"+name+"$")
}

// left is everything in the Engine whose name begins with the project's.
func (p *project) left(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, one := range []struct {
		kind string
		list []string
	}{
		{"container", []string{"ps", "--all", "--format", "{{.Names}}"}},
		{"network", []string{"network", "ls", "--format", "{{.Name}}"}},
		{"volume", []string{"volume", "ls", "--format", "{{.Name}}"}},
		{"image", []string{"images", "--format", "{{.Repository}}:{{.Tag}}"}},
	} {
		for _, name := range strings.Fields(docker(t, one.list...)) {
			if strings.HasPrefix(name, p.name+"-") {
				all = append(all, one.kind+" "+name)
			}
		}
	}
	return all
}

// requireSaid: what opera says has this cause in it, as it stands there or in JSON.
func requireSaid(t *testing.T, said, cause string) {
	t.Helper()
	require.True(t, strings.Contains(said, cause), "%q is not in:\n%s", cause, said)
}
