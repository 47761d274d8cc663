package api_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/api"
	"imagebuilder/internal/testbed"
)

var (
	commands = regexp.MustCompile("(?s)```sh\n(.*?)```")
	answers  = regexp.MustCompile("(?s)```json\n(.*?)```")
)

// The commands of docs/rest-api.md work, in their order.
func TestDocs(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"curl", "jq"} {
		_, err := exec.LookPath(program)
		require.NoError(t, err, "scripts/setup.sh packages %s gets it", program)
	}
	root, err := testbed.RepoRoot()
	require.NoError(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "rest-api.md"))
	require.NoError(t, err)

	s := start(t)
	work, stop := context.WithCancel(t.Context())
	var worker sync.WaitGroup
	worker.Go(func() { s.work(work) })
	defer worker.Wait()
	defer stop()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "build_params.json"), []byte(document("shop/web")), 0o600))
	var script strings.Builder
	for _, block := range commands.FindAllSubmatch(page, -1) {
		script.Write(block[1])
	}
	require.GreaterOrEqual(t, strings.Count(script.String(), "curl "), 9)
	command := exec.Command("bash", "-euxo", "pipefail", "-c", script.String())
	command.Dir = folder
	command.Env = append(os.Environ(), "URL="+s.url, "KEY="+s.keys["alice"])
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "event: end\n")
	require.Contains(t, string(output), "#1 [1/2] RUN make\n")

	// The problem in it is one that the service gives.
	shown := answers.FindSubmatch(page)
	require.NotNil(t, shown)
	var want api.Problem
	require.NoError(t, json.Unmarshal(shown[1], &want))
	body := strings.Replace(build("shop/web"), `,"tag":"v1"`, "", 1)
	got := into[api.Problem](t, s.want(400, "alice", "POST", invocations, body, "X-Request-ID", want.Instance))
	require.Equal(t, want, got)
}
