package lifecycle_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
)

// misbehaviour is one way for a registry to fail.
type misbehaviour struct {
	name string
	fail http.HandlerFunc
}

func misbehaviours() []misbehaviour {
	status := func(code int) misbehaviour {
		return misbehaviour{fmt.Sprint(code), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }}
	}
	return []misbehaviour{
		status(http.StatusTooManyRequests), status(http.StatusInternalServerError),
		status(http.StatusBadGateway), status(http.StatusServiceUnavailable),
		{"reset before an answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"reset in the middle of a body", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1)
			panic(http.ErrAbortHandler)
		}},
		{"digest of another upload", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}`)
		}},
	}
}

// mostRequests is how many requests about its repository a build of one image needs at least: ours, the daemon's, ours again.
const mostRequests = 18

// passingWithin is the most that one passing failure may cost, besides the build itself; the table of docs/engines.md has it.
const passingWithin = 30 * time.Second

// TestEveryRequestMayFailOnce: whichever request about an image fails once, and however, the image is built once, pushed, and
// served in the end. Each kind of failure is tried on every seventh request, and together they are on each.
func TestEveryRequestMayFailOnce(t *testing.T) {
	t.Parallel()
	front := &switchable{}
	b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{
		"Dockerfile": "FROM busybox\nARG MARK\nRUN echo ran-$MARK; echo $MARK >/mark\n"})
	kinds := misbehaviours()
	counts := make([]atomic.Int32, mostRequests)
	front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		for k := range mostRequests {
			if strings.Contains(r.URL.Path, fmt.Sprintf("/app-%d/", k)) && counts[k].Add(1) == int32(k+1) {
				kinds[k%len(kinds)].fail(w, r)
				return true
			}
		}
		return false
	})
	for k := range mostRequests {
		t.Run(fmt.Sprintf("%s on request %d", kinds[k%len(kinds)].name, k+1), func(t *testing.T) {
			t.Parallel()
			mark := rand.Text()
			start := time.Now()
			out, seen, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"app-%d","tag":"1","base":"@REG/base/busybox:1","build_args":{"MARK":%q}}]}}`, url, k, mark))
			require.NoError(t, err)
			require.Less(t, time.Since(start), passingWithin+time.Minute)
			require.Equal(t, 1, seen.runs("ran-"+mark), "the RUN runs once")
			require.Greater(t, counts[k].Load(), int32(k), "there was such a request")
			digest, err := b.pull(t, fmt.Sprintf("@REG/app-%d:1", k), "linux", "amd64").Digest()
			require.NoError(t, err)
			require.Equal(t, out.Images[0].Digest, digest.String())
		})
	}
}

// runs counts how often a step has said a line.
func (e *events) runs(line string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, event := range e.all {
		if event.Log != nil {
			n += strings.Count(string(event.Log.Data), line+"\n")
		}
	}
	return n
}

// TestDeniedOnce: what a registry forbids is not asked for again, and the error names the registry and the repository, whoever
// was refused: we, before the build, or the engine's daemon, which pushes.
func TestDeniedOnce(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for _, tt := range []struct{ name, method, path string }{
			{"before the build", http.MethodPost, "/team/app/blobs/uploads/"},
			{"while the daemon pushes", http.MethodPut, "/team/app/manifests/sha256:"},
			{"when the tag is moved", http.MethodPut, "/team/app/manifests/1"},
		} {
			t.Run(fmt.Sprintf("%d %s", code, tt.name), func(t *testing.T) {
				t.Parallel()
				front := &switchable{}
				b := newBed(t, testbed.RegistryOptions{Middleware: front.middleware})
				url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
				var asked atomic.Int32
				front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method != tt.method || !strings.Contains(r.URL.Path, tt.path) {
						return false
					}
					asked.Add(1)
					w.WriteHeader(code)
					return true
				})
				_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
					"images":[{"image":"team/app","tag":"1"}]}}`, url))
				require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
				require.Equal(t, fault.ExitDenied, fault.KindOf(err).ExitCode())
				require.ErrorContains(t, err, b.registry.Host+"/team/app")
				require.Equal(t, int32(1), asked.Load())
			})
		}
	}
}

// TestBasesComeBadly: a base whose layers are cut off in the middle, or come slowly, is had in the end, by the daemon itself and
// through our hands.
func TestBasesComeBadly(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("through us %v", tls), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, testbed.RegistryOptions{})
			var cut, slow atomic.Int32
			bases := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: tls, Middleware: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
						w = &badWriter{ResponseWriter: w, cut: cut.Add(1)%2 == 1, slow: &slow}
					}
					next.ServeHTTP(w, r)
				})
			}})
			pushNew(t, bases, "", "", "base/one:1")
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nRUN cp /unique /one\n"})
			settings := &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Registries: map[string]result.RegistrySettings{}}
			if tls {
				settings.Registries[bases.Host] = result.RegistrySettings{CA: caFile(t, bases)}
			}
			_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},
				"images":[{"image":"app","tag":"1","base":"%s/base/one:1"}]}}`, url, bases.Host), settings)
			require.NoError(t, err)
			require.GreaterOrEqual(t, cut.Load(), int32(2))
			require.Positive(t, slow.Load())
		})
	}
}

// badWriter sends a body slowly, or ends the connection in the middle of it.
type badWriter struct {
	http.ResponseWriter
	cut  bool
	slow *atomic.Int32
}

// pieceSize makes of a small layer some dozens of pieces.
const pieceSize = 16 << 10

// Write sends in pieces.
func (b *badWriter) Write(data []byte) (int, error) {
	sent := 0
	for piece := range slices.Chunk(data, pieceSize) {
		if b.cut {
			_, _ = b.ResponseWriter.Write(piece[:len(piece)/2])
			b.ResponseWriter.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		b.slow.Add(1)
		time.Sleep(time.Millisecond) // the slowness that is tested
		n, err := b.ResponseWriter.Write(piece)
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// TestUploadsGetMixedUp: the error that registry 2.8 has been seen to give for an upload that was right is got over, by the daemon's
// push and by ours; see docs/decisions/0004.
func TestUploadsGetMixedUp(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("our push %v", tls), func(t *testing.T) {
			t.Parallel()
			front := &switchable{}
			b := newBed(t, testbed.RegistryOptions{TLS: tls, Middleware: front.middleware})
			mixUp := misbehaviours()[6].fail
			var uploads atomic.Int32
			front.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/app/blobs/uploads/") || uploads.Add(1) > 2 {
					return false
				}
				mixUp(w, r)
				return true
			})
			url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "mark": rand.Text()})
			ca := ""
			if tls {
				ca = fmt.Sprintf(`,"ca_cert":"file:%s"`, caFile(t, b.registry))
			}
			_, _, err := b.create(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"%s},
				"images":[{"image":"app","tag":"1"}]}}`, url, ca))
			require.NoError(t, err)
			require.Greater(t, uploads.Load(), int32(2))
		})
	}
}
