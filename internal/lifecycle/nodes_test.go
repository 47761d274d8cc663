package lifecycle_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

const nodesDocument = `{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
	{"image":"nodes","tag":"plain","base":"@REG/base/busybox:1","platforms":["linux/386","linux/amd64"]},
	{"image":"nodes","tag":"other","base":"@REG/base/other:1","platforms":["linux/386"]}]}}`

func (b *bed) withNodes(nodes ...result.Node) *result.Settings {
	return &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Nodes: nodes}
}

func TestCreateOnNodes(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	node := testbed.NewNode(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox:1.36 AS build\nARG TARGETARCH\nRUN echo $TARGETARCH >/arch\n" +
			"FROM busybox:1.36\nRUN echo made >/made\nCOPY --from=build /arch /arch\n",
	})
	out, seen, err := b.createWith(t, t.Context(), fmt.Sprintf(nodesDocument, url),
		b.withNodes(result.Node{Platforms: []string{"linux/386"}, Address: node}))
	require.NoError(t, err)
	require.Equal(t, "buildkit", out.Engine)
	require.Len(t, out.Images[0].Platforms, 2)
	require.Equal(t, "linux/386", out.Images[0].Platforms[0].Platform)
	require.Len(t, out.Images[1].Platforms, 1)
	require.Equal(t, out.Images[1].Digest, out.Images[1].Platforms[0].Digest, "one platform has no index")
	for ref, arch := range map[string]string{"@REG/nodes:plain": "386", "@REG/nodes:other": "386"} {
		files := contents(t, b.pull(t, ref, "linux", arch))
		require.Equal(t, arch+"\n", files["arch"])
		require.Equal(t, "made\n", files["made"])
	}
	require.Equal(t, "amd64\n", contents(t, b.pull(t, "@REG/nodes:plain", "linux", "amd64"))["arch"])
	require.Contains(t, seen.text(t), " on node "+node)
}

// TestNodeThatIsNotThere: the main engine stands in where it can run the platform's steps, or has none to run.
func TestNodeThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/386", "linux/s390x"}})
	require.NoError(t, err)
	nowhere := result.Node{Platforms: []string{"linux/386", "linux/s390x"}, Address: "unix:///nowhere/buildkitd.sock"}

	url, _ := b.repository(t, "run.git", map[string]string{"Dockerfile": "FROM busybox:1.36\nRUN echo made >/made\n"})
	_, seen, err := b.createWith(t, t.Context(), fmt.Sprintf(nodesDocument, url), b.withNodes(nowhere))
	require.NoError(t, err)
	require.Contains(t, seen.text(t), nowhere.Address)
	require.Equal(t, "made\n", contents(t, b.pull(t, "@REG/nodes:plain", "linux", "386"))["made"])

	url, _ = b.repository(t, "copy.git", map[string]string{"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox:1.36 AS made\nRUN echo made >/made\n" +
		"FROM busybox:1.36\nCOPY f /f\nCOPY --from=made /made /made\n", "f": "copied"})
	_, _, err = b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[
		{"image":"copy","tag":"1","base":"@REG/base/busybox:1","platforms":["linux/amd64","linux/s390x"]}]}}`, url), b.withNodes(nowhere))
	require.NoError(t, err)
	files := contents(t, b.pull(t, "@REG/copy:1", "linux", "s390x"))
	require.Equal(t, "copied", files["f"])
	require.Equal(t, "made\n", files["made"])
}

// TestUnchangedAwaitsNoNode: where nothing has changed, a node that takes connections and says nothing is not waited for.
func TestUnchangedAwaitsNoNode(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox:1.36 AS build\nRUN echo made >/made\nFROM busybox:1.36\nCOPY --from=build /made /made\n",
	})
	document := fmt.Sprintf(nodesDocument, url)
	_, _, err := b.create(t, t.Context(), document)
	require.NoError(t, err)
	dead, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, and nobody reads them
	require.NoError(t, err)
	defer dead.Close()
	start := time.Now()
	out, _, err := b.createWith(t, t.Context(), document, b.withNodes(result.Node{Platforms: []string{"linux/386"}, Address: "tcp://" + dead.Addr().String()}))
	require.NoError(t, err)
	for _, image := range out.Images {
		require.True(t, image.Unchanged)
	}
	require.Equal(t, "buildkit", out.Engine)
	require.Less(t, time.Since(start), 10*time.Second, "the node has 15 s to answer")
}

func TestNodesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox:1.36\n"})
	for text, node := range map[string]result.Node{
		"claims no platform":         {Address: "tcp://builder:1234"},
		`"linux/a b" is no platform`: {Platforms: []string{"linux/a b"}, Address: "tcp://builder:1234"},
		`"builder" has no scheme`:    {Platforms: []string{"linux/386"}, Address: "builder"},
		"could not read certificate": {Platforms: []string{"linux/386"}, Address: "tcp://builder:1234", Cert: "/nowhere.pem", Key: "/nowhere.pem"},
	} {
		_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(nodesDocument, url), b.withNodes(node))
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%s: %v", text, err)
		require.ErrorContains(t, err, text)
	}
}
