package engine_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/staticfs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	fstypes "github.com/tonistiigi/fsutil/types"

	"imagebuilder/internal/engine"
	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// turnsBed is a registry and a session, at a daemon that packs images in turns.
type turnsBed struct {
	registry *testbed.Registry
	session  engine.Session
}

func newTurnsBed(t *testing.T, turns *engine.Turns, options testbed.RegistryOptions, dockerfile string) *turnsBed {
	t.Helper()
	b := &turnsBed{registry: testbed.NewRegistry(t, options)}
	_, err := testbed.PushBases(t.Context(), b.registry.Host, testbed.BaseOptions{Platforms: []string{"linux/amd64", "linux/386"}})
	require.NoError(t, err)
	eng, err := engine.Dial(t.Context(), "buildkit", testbed.NewEngine(t), engine.TLS{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = eng.Close() })
	eng.Turns = turns
	files := staticfs.NewFS()
	files.Add("file", &fstypes.Stat{Mode: 0o644, ModTime: 1}, []byte("content"))
	b.session, err = eng.Open(t.Context(), engine.Source{Context: files, ContextKey: t.Name(), Credentials: nobody,
		Dockerfile: []byte(strings.ReplaceAll(dockerfile, "@REG", b.registry.Host))})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.session.Close() })
	return b
}

func (b *turnsBed) build(ctx context.Context, n string, emit event.Sink, on ...ocispecs.Platform) (*engine.Image, error) {
	epoch := time.Unix(1_700_000_000, 0)
	return b.session.Build(ctx, engine.Variant{
		Name: b.registry.Host + "/app:" + n, Repository: b.registry.Host + "/app", Platforms: on, BuildArgs: map[string]string{"N": n}, Epoch: &epoch,
	}, emit)
}

// TestTurnsEndBeforeThePush: of two images that are built at once, each is pushed only once the other is, too. With one turn for
// both, that never comes to an end if the turn is kept until an image is pushed.
func TestTurnsEndBeforeThePush(t *testing.T) {
	t.Parallel()
	var both sync.WaitGroup
	both.Add(2)
	b := newTurnsBed(t, engine.NewTurns(1), testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v2/app/manifests/") {
				both.Done()
				both.Wait()
			}
			next.ServeHTTP(w, r)
		})
	}}, "FROM @REG/base/busybox:1\nARG N\nCOPY file /file\nRUN echo $N >/n\n")
	var builds sync.WaitGroup
	for _, n := range []string{"1", "2"} {
		builds.Go(func() {
			_, err := b.build(t.Context(), n, event.Discard, amd64)
			require.NoError(t, err)
		})
	}
	builds.Wait()
}

// TestBeforeItsTurn: where nobody ever gets a turn, all steps of an image are carried out, and nothing of it is pushed.
func TestBeforeItsTurn(t *testing.T) {
	t.Parallel()
	var pushed sync.Map
	b := newTurnsBed(t, engine.NewTurns(0), testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v2/app/") {
				pushed.Store(r.Method+" "+r.URL.Path, true)
			}
			next.ServeHTTP(w, r)
		})
	}}, "FROM @REG/base/busybox:1\nARG N\nRUN echo $N >/n\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	steps := map[string]bool{}
	_, err := b.build(ctx, t.Name()+time.Now().String(), func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Step != nil && strings.Contains(e.Step.Name, "RUN ") && e.Step.Completed != nil {
			steps[e.Step.Name] = true
		}
		if len(steps) == 2 {
			cancel()
		}
	}, amd64, i386)
	require.Equal(t, fault.Cancelled, fault.KindOf(err), "%v", err)
	require.Len(t, steps, 2)
	pushed.Range(func(request, _ any) bool { t.Error(request); return true })
}

// TestTurnsAreGivenBack: whatever comes of a build, the next one gets its turn, and its image is the same as without turns.
func TestTurnsAreGivenBack(t *testing.T) {
	t.Parallel()
	refuse := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/app/") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	tests := []struct {
		name, dockerfile string
		on               []ocispecs.Platform
		middleware       func(http.Handler) http.Handler
		kind             fault.Kind // "": it succeeds
	}{
		{name: "steps", dockerfile: "FROM @REG/base/busybox:1\nCOPY file /file\nRUN echo a >/a\n"},
		{name: "two platforms", dockerfile: "FROM @REG/base/busybox:1\nCOPY file /file\n", on: []ocispecs.Platform{amd64, i386}},
		{name: "a base alone", dockerfile: "FROM @REG/base/busybox:1\nLABEL a=b\n"},
		{name: "nothing at all", dockerfile: "FROM scratch\nLABEL a=b\n"},
		{name: "a step that fails", dockerfile: "FROM @REG/base/busybox:1\nRUN echo told && false\n", kind: fault.BuildFailed},
		{name: "a base that is not there", dockerfile: "FROM @REG/base/none:1\n", kind: fault.NotFound},
		{name: "a push that is refused", dockerfile: "FROM @REG/base/busybox:1\nCOPY file /file\n", middleware: refuse, kind: fault.Denied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			on := tt.on
			if on == nil {
				on = []ocispecs.Platform{platforms.Normalize(amd64)}
			}
			var images []*engine.Image
			var errs []string
			b := newTurnsBed(t, engine.NewTurns(1), testbed.RegistryOptions{Middleware: tt.middleware}, tt.dockerfile)
			free := newTurnsBed(t, nil, testbed.RegistryOptions{Middleware: tt.middleware}, tt.dockerfile)
			for _, bed := range []*turnsBed{b, b, free} {
				image, err := bed.build(t.Context(), "1", event.Discard, on...)
				images = append(images, image)
				if tt.kind == "" {
					require.NoError(t, err)
					continue
				}
				require.Equal(t, tt.kind, fault.KindOf(err), "%v", err)
				// A daemon that knows the layers from elsewhere asks the registry to take them from there.
				text := regexp.MustCompile(`/uploads/\S* `).ReplaceAllString(err.Error(), "/uploads/: ")
				errs = append(errs, strings.ReplaceAll(text, bed.registry.Host, "REG"))
			}
			if tt.kind == "" {
				require.Equal(t, images[0].Digest, images[1].Digest)
				require.Equal(t, images[2].Digest, images[1].Digest)
				return
			}
			require.Equal(t, errs[0], errs[1])
			require.Equal(t, errs[2], errs[1])
		})
	}
}
