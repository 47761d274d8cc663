package lifecycle_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

func (b *bed) plan(t *testing.T, document string, nodes ...result.Node) (*result.Plan, error) {
	t.Helper()
	settings, err := json.Marshal(result.Settings{Engine: "managed", CacheDir: b.cacheDir, Nodes: nodes})
	require.NoError(t, err)
	data, err := lifecycle.New("test").Plan(t.Context(), plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: settings,
		Inputs: json.RawMessage(strings.ReplaceAll(document, "@REG", b.registry.Host)),
	})
	if err != nil {
		require.Empty(t, data)
		return nil, err
	}
	plan := &result.Plan{}
	require.NoError(t, json.Unmarshal(data, plan))
	return plan, nil
}

// TestPlan resolves everything and leaves no trace: the registry has no new manifest, blob or tag.
func TestPlan(t *testing.T) {
	t.Parallel()
	var written atomic.Int32
	b := newBed(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/app/") && (r.Method == http.MethodPut || r.Method == http.MethodPatch) {
				written.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	}})
	b.pushBases(t)
	url, commit := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM " + b.registry.Host + "/base/other:1 AS a\nFROM busybox\nCOPY --from=a /other /\n"})
	plan, err := b.plan(t, `{"source":{"git_repo":{"url":"`+url+`"}},"target":{"registry":{"url":"@REG"},
		"images":[{"image":"app","tag":"1","bases":{"busybox":"@REG/base/busybox:1"},"platforms":["linux/amd64","linux/386"]}]}}`)
	require.NoError(t, err)
	require.Equal(t, commit, plan.Source.Commit)
	require.Equal(t, "managed", plan.Engine)
	require.Len(t, plan.Images, 1)
	image := plan.Images[0]
	require.Equal(t, b.registry.Host+"/app:1", image.Ref)
	require.Equal(t, []string{"linux/amd64", "linux/386"}, image.Platforms)
	require.Equal(t, result.PushAllowed, image.Push)
	require.Len(t, image.Bases, 2)
	for i, replaced := range []bool{false, true} {
		require.Equal(t, replaced, image.Bases[i].Replaced)
		require.Regexp(t, "^sha256:[0-9a-f]{64}$", image.Bases[i].Digest)
	}
	require.Zero(t, written.Load())
	require.Empty(t, b.tags(t, "app"))
}

// TestPlanNamesNodes: the first node that claims a platform builds it, and nobody is asked whether it is there.
func TestPlanNamesNodes(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY Dockerfile /\n"})
	document := `{"source":{"git_repo":{"url":"` + url + `"}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"app","tag":"1","base":"@REG/base/busybox:1","platforms":["linux/amd64","linux/386"]},
		{"image":"app","tag":"2","base":"@REG/base/busybox:1","platforms":["linux/amd64"]}]}}`
	plan, err := b.plan(t, document, result.Node{Platforms: []string{"linux/arm64", "linux/386"}, Address: "tcp://one.invalid:1"},
		result.Node{Platforms: []string{"linux/386"}, Address: "tcp://two.invalid:1"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"linux/386": "tcp://one.invalid:1"}, plan.Images[0].Nodes)
	require.Empty(t, plan.Images[1].Nodes)
}

func TestPlanChecksThePushFirst(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Basic: map[string]string{"u": "p"}})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	b.git.Reset()
	_, err := b.plan(t, `{"source":{"git_repo":{"url":"`+url+`"}},"target":{"registry":{"url":"@REG"},"images":[{"image":"app","tag":"1"}]}}`)
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.Zero(t, b.git.Requests().InfoRefs, "nothing was fetched")
}
