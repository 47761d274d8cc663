package engine_test

import (
	"context"
	"os"
	"testing"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestCutNodeIsReplaced: in the middle of a RUN the link to a node is cut without a reset. Another node takes the platform up.
func TestCutNodeIsReplaced(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, "nodes", otherVariable+"="+testbed.NewNode(t))
	require.Empty(t, got.Kind, got.Message)
	require.Len(t, got.Notes, 1)
	require.Contains(t, got.Notes[0], "node "+relayed+" is lost")
	require.Less(t, got.After, noticedWithin)
	t.Logf("taken up elsewhere %s after the cut", got.After)
}

// TestCutNodeIsNamed: where no other node can, the build fails, and says which node it was.
func TestCutNodeIsNamed(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, "nodes")
	require.Equal(t, fault.Unavailable, got.Kind, got.Message)
	require.Contains(t, got.Message, "no node is left for linux/")
	require.Contains(t, got.Message, relayed+" went away")
	require.Less(t, got.After, noticedWithin)
}

// buildOnNodes builds on a node behind the link, and cuts the link. The step runs on for ever there, and ends at once in
// the place that takes it up: a cache mount, of which each daemon has its own, tells it where it is.
func buildOnNodes(ctx context.Context, l *link) (outcome, error) {
	claims := []ocispecs.Platform{platforms.DefaultSpec()}
	opts := engine.NodesOptions{
		Main:  engine.Node{Name: "managed", Open: dialer("unix:///nowhere/buildkitd.sock")},
		Nodes: []engine.Node{{Name: "node " + relayed, Platforms: claims, Open: dialer(relayed)}}, Wanted: claims, Emit: event.Discard,
	}
	const step = "[ -e /cache/second ] || { echo started; sleep 1000; }"
	if other := os.Getenv(otherVariable); other != "" {
		second, err := dialer(other)(ctx)
		if err != nil {
			return outcome{}, err
		}
		defer second.Close()
		got, err := cutWhileBuilding(ctx, second, "touch /cache/second", nil)
		if err != nil || got.Kind != "" {
			return got, err
		}
		opts.Nodes = append(opts.Nodes, engine.Node{Name: "second", Platforms: claims, Open: dialer(other)})
	}
	eng, err := engine.OpenNodes(ctx, opts)
	if err != nil {
		return outcome{}, err
	}
	defer eng.Close()
	return cutWhileBuilding(ctx, eng, step, l.cut)
}
