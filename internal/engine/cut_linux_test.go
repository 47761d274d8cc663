package engine_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/staticfs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// noticedWithin is how long it may take until a cut is noticed.
const noticedWithin = 15 * time.Second

func TestCutLinkIsNoticed(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, "build")
	require.Equal(t, fault.Unavailable, got.Kind, got.Message)
	require.Contains(t, got.Message, relayed)
	require.Less(t, got.After, noticedWithin)
	t.Logf("noticed %s after the cut", got.After)
}

// TestSilentStepIsNoCut: longer than it takes to notice a cut, nothing is said and nothing happens.
func TestSilentStepIsNoCut(t *testing.T) {
	t.Parallel()
	got := runBehindLink(t, "build", quietVariable+"=25")
	require.Empty(t, got.Kind, got.Message)
}

// buildBehindLink builds through the link and cuts it while a step is running, unless the step is to be quiet.
func buildBehindLink(ctx context.Context, l *link) (outcome, error) {
	eng, err := engine.Dial(ctx, "buildkit", relayed, engine.TLS{}, nil)
	if err != nil {
		return outcome{}, err
	}
	defer eng.Close()
	quiet := os.Getenv(quietVariable)
	if quiet != "" {
		return cutWhileBuilding(ctx, eng, "sleep "+quiet, func() error { return nil })
	}
	return cutWhileBuilding(ctx, eng, "echo started; sleep 1000", l.cut)
}

// buildOnDocker is buildBehindLink with a Docker Engine: see TestCutDockerIsNoticed.
func buildOnDocker(ctx context.Context, l *link) (outcome, error) {
	eng, err := engine.DialDocker(ctx, relayed)
	if err != nil {
		return outcome{}, err
	}
	defer eng.Close()
	return cutWhileBuilding(ctx, eng, "echo started; sleep 1000", l.cut)
}

// cutWhileBuilding builds an image with one step on an engine. When the step says that it has started, the link is cut.
func cutWhileBuilding(ctx context.Context, eng engine.Engine, step string, cut func() error) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session, err := eng.Open(ctx, engine.Source{
		Context: staticfs.NewFS(), ContextKey: fmt.Sprint("cut", os.Getpid()), Credentials: nobody,
		Dockerfile: fmt.Appendf(nil, "FROM busybox\nRUN --mount=type=cache,id=cut%d,target=/cache : %d; %s\n", os.Getpid(), time.Now().UnixNano(), step),
	})
	if err != nil {
		return outcome{}, err
	}
	defer session.Close()
	dir, err := os.MkdirTemp("", "cut-*")
	if err != nil {
		return outcome{}, err
	}
	defer os.RemoveAll(dir)
	var got outcome
	var cutAt time.Time
	_, err = session.Build(ctx, engine.Variant{
		Name: "app", Repository: "localhost/app", Platforms: []ocispecs.Platform{platforms.DefaultSpec()}, Layout: dir,
		Overrides: []engine.Override{{Key: "busybox", Ref: os.Getenv(baseVariable)}},
	}, func(e event.Event) {
		switch {
		case e.Log != nil && strings.Contains(string(e.Log.Data), "started") && cutAt.IsZero():
			cutAt = time.Now()
			if err := cut(); err != nil {
				cancel(err)
			}
		case e.Note != nil:
			got.Notes, got.After = append(got.Notes, e.Note.Text), time.Since(cutAt)
		}
	})
	if err != nil {
		got.Kind, got.Message, got.After = fault.KindOf(err), err.Error(), time.Since(cutAt)
	}
	return got, nil
}
