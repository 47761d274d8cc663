//go:build blueprints && times

package blueprints_test

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestTimes tells how long it takes from `opera deploy` to a build that is accepted, from nothing and again, and which nodes take it. It
// asserts nothing about time:
//
//	go test -tags blueprints,times -run TestTimes -v ./internal/blueprints
func TestTimes(t *testing.T) {
	opera := testbed.OpenStackOperas(t)[1]
	t.Run("docker-local", func(t *testing.T) {
		s := newLocalService(t, opera, 40)
		s.with(t, nil)
		s.times(t, func() {})
		s.undeploy(t)
	})
	for image, of := range map[string]func(testbed.OpenStackImages) string{
		"docker": func(i testbed.OpenStackImages) string { return i.Docker },
		"debian": func(i testbed.OpenStackImages) string { return i.Debian }, // gets an Engine by apt
	} {
		t.Run("openstack-"+image, func(t *testing.T) {
			s := newCloudService(t, opera, "times"+image)
			s.with(t, map[string]any{"image-name": of(s.cloud.Images)})
			s.times(t, func() { s.deployed(t) })
			s.opera(t, "undeploy", "--workers", "3")
			require.Empty(t, s.left(t))
		})
	}
}

// times deploys twice, the second time with every node looked at again. What is to be found out between deployment and build, found does.
func (s *service) times(t *testing.T, found func()) {
	t.Helper()
	document := filepath.Join(t.TempDir(), "first.json")
	require.NoError(t, os.WriteFile(document, []byte(`{"source": {"git_repo": {"url": "https://example.com/app.git"}},
		"target": {"registry": {"url": "registry.example.com"}, "images": [{"image": "app", "tag": "1"}]}}`), 0o600))
	for _, run := range [][]string{{"cold"}, {"again", "--clean-state", "--force"}} {
		began := time.Now()
		nodes := s.timed(t, append([]string{"deploy", "--workers", "3", "-i", "inputs.yaml", "service.yaml"}, run[1:]...)...)
		deployed := time.Since(began)
		found()
		code, _, stderr := s.client(t, "--no-wait", document)
		require.Zero(t, code, stderr)
		slices.SortFunc(nodes, func(a, b nodeTime) int { return cmp.Compare(b.took, a.took) })
		var longest []string
		for _, node := range nodes[:min(len(nodes), 6)] {
			longest = append(longest, fmt.Sprintf("%s %.1f", node.name, node.took.Seconds()))
		}
		t.Logf("| %s | %s | %.1f s | %.1f s | %s |", t.Name(), run[0], time.Since(began).Seconds(), deployed.Seconds(), strings.Join(longest, ", "))
	}
}

type nodeTime struct {
	name string
	took time.Duration
}

// What opera's workers say may stand on one line.
var deploying, deployment = regexp.MustCompile(`Deploying (\w+)_0`), regexp.MustCompile(`Deployment of (\w+)_0 complete`)

// timed runs opera and takes the time of each node, by what opera says.
func (p *project) timed(t *testing.T, args ...string) []nodeTime {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", "opera-private.sh"), args...)
	cmd.Dir, cmd.Env = p.folder, append(slices.Clone(p.env), "PYTHONUNBUFFERED=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	var (
		nodes []nodeTime
		said  strings.Builder
	)
	began := map[string]time.Time{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		for _, m := range deploying.FindAllStringSubmatch(lines.Text(), -1) {
			began[m[1]] = time.Now()
		}
		for _, m := range deployment.FindAllStringSubmatch(lines.Text(), -1) {
			nodes = append(nodes, nodeTime{m[1], time.Since(began[m[1]])})
		}
	}
	require.NoError(t, cmd.Wait(), said.String())
	return nodes
}
