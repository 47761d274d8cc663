package chaos

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/store"
	"imagebuilder/internal/testbed"
)

// canaries are secrets that no place but a sealed document may hold, one for each field that can have one.
var canaries = map[string]string{
	"registry":      "canary-registry-5f1c",
	"git":           "canary-git-77ab",
	"build context": "canary-context-901e",
	"dockerfile":    "canary-dockerfile-c3d0",
	"build secret":  "canary-build-secret-1b2d",
	"webhook":       "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rLTAxMjM0NTY3",
}

// own are the service's own secrets, which no plugin and no daemon has to know.
func (f *fleet) own() map[string]string {
	return map[string]string{"API key": apiKey, "database password": f.password, "identity": f.identity}
}

// TestCanaries sends secrets through builds that succeed, fail, are cancelled and are begun anew after a crash, and then
// looks for them everywhere.
func TestCanaries(t *testing.T) {
	t.Parallel()
	f := newFleetWith(t, 1, 1, testbed.RegistryOptions{Basic: map[string]string{"builder": canaries["registry"]}})
	login := remote.WithAuth(&authn.Basic{Username: "builder", Password: canaries["registry"]})
	_, err := testbed.PushBases(t.Context(), f.site.Registry.Host, testbed.BaseOptions{
		Platforms: []string{"linux/amd64"}, Options: []remote.Option{login}})
	require.NoError(t, err)

	answers := &strings.Builder{}
	from := "FROM " + f.site.Registry.Host + "/base/busybox:1\nRUN --mount=type=secret,id=token test -s /run/secrets/token\n"
	begin := func(tag, run string) string { return f.submit(t.Context(), tag, f.canaryBody(t, tag, from+run)) }
	apart := f.submit(t.Context(), "apart", f.apartBody(t, from+"COPY Dockerfile /\n"))
	good := begin("good", "RUN echo fine\n")
	bad := begin("bad", "RUN echo broken; false\n")
	wrong := begin("wrong", "FROM "+f.site.Registry.Host+"/base/nosuch:1\n")
	f.awaitState(t, good, store.StateSuccess)
	f.awaitState(t, apart, store.StateSuccess)
	f.awaitState(t, bad, store.StateFailed)
	f.awaitState(t, wrong, store.StateFailed)

	slow := begin("slow", "RUN echo asleep; sleep 600\n")
	f.awaitOutput(t, slow, "asleep")
	f.searchProcesses(t)
	status, text := f.ask(t, http.MethodPost, "/v1/invocations/"+slow+"/cancel")
	require.Equal(t, http.StatusAccepted, status, text)
	f.awaitState(t, slow, store.StateCancelled)

	crashed := begin("crashed", "RUN echo asleep; sleep 3\n")
	f.awaitOutput(t, crashed, "asleep")
	require.NoError(t, f.members[1].kill())
	f.awaitState(t, crashed, store.StateSuccess)

	for _, id := range []string{good, apart, bad, wrong, slow, crashed} {
		for _, path := range []string{"/status/" + id, "/v1/invocations/" + id, "/v1/invocations/" + id + "/log"} {
			status, text := f.ask(t, http.MethodGet, path)
			require.Equal(t, http.StatusOK, status, path)
			answers.WriteString(text)
		}
	}
	status, text = f.ask(t, http.MethodPost, "/v1/invocations/"+good+"/retry")
	require.Equal(t, http.StatusConflict, status, "a retry needs the secrets again: %s", text)
	answers.WriteString(text)
	_, text = f.ask(t, http.MethodGet, "/v1/invocations")
	answers.WriteString(text)

	search(t, "answers of the API", []byte(answers.String()), canaries, f.own())
	for _, m := range f.members {
		search(t, "what "+m.name+" logs", []byte(m.log.String()), canaries, f.own())
	}
	search(t, "the database", f.dump(t), canaries, f.own())
	for _, tag := range []string{"good", "apart", "crashed"} {
		search(t, "image "+tag, f.image(t, tag, login), canaries, f.own())
	}
	f.searchFiles(t)
}

// canaryBody is a document with a git repository and a secret in each field.
func (f *fleet) canaryBody(t *testing.T, tag, dockerfile string) []byte {
	t.Helper()
	url, _ := f.site.Repository(t, tag+".git", fstest.MapFS{"Dockerfile": {Data: []byte(dockerfile)}})
	return f.body(t, tag, map[string]any{
		"git_repo": map[string]any{"url": url, "username": "u", "password": canaries["git"]}})
}

// apartBody is a document with a Dockerfile by URL, a context, and a secret in each field.
func (f *fleet) apartBody(t *testing.T, dockerfile string) []byte {
	t.Helper()
	url, _ := f.site.Repository(t, "context.git", fstest.MapFS{"Dockerfile": {Data: []byte("FROM scratch\n")}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != canaries["dockerfile"] {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, dockerfile)
	}))
	t.Cleanup(server.Close)
	return f.body(t, "apart", map[string]any{
		"dockerfile":    map[string]any{"url": server.URL + "/Dockerfile", "username": "u", "password": canaries["dockerfile"]},
		"build_context": map[string]any{"url": url, "username": "u", "password": canaries["build context"]}})
}

func (f *fleet) body(t *testing.T, tag string, source map[string]any) []byte {
	t.Helper()
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)
	body, err := json.Marshal(map[string]any{"webhook": map[string]any{"url": hook.URL, "secret": canaries["webhook"]}, "build_params": map[string]any{
		"source": source,
		"target": map[string]any{
			"registry": map[string]any{"url": f.site.Registry.Host, "username": "builder", "password": canaries["registry"]},
			"images":   []any{map[string]any{"image": "canary", "tag": tag}}},
		"options": map[string]any{"secrets": map[string]any{"token": canaries["build secret"]}},
	}})
	require.NoError(t, err)
	return body
}

func (f *fleet) ask(t *testing.T, method, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, f.urls[0]+path, strings.NewReader("{}"))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", apiKey)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

func (f *fleet) awaitState(t *testing.T, id string, want store.State) {
	t.Helper()
	var inv store.Invocation
	for end := time.Now().Add(3 * time.Minute); !inv.State.Ended(); {
		if time.Now().After(end) {
			require.Fail(t, "a build does not end", "%s is %s\n%s", id, inv.State, f.words())
		}
		time.Sleep(50 * time.Millisecond)
		inv, _ = f.store.Get(t.Context(), id)
	}
	require.Equal(t, want, inv.State, inv.Response)
}

// awaitOutput waits until a build has said something.
func (f *fleet) awaitOutput(t *testing.T, id, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		entries, err := f.store.Log(t.Context(), id, 0, 1<<20)
		for _, e := range entries {
			if e.Kind == store.LogOut && bytes.Contains(e.Data, []byte(text)) {
				return true
			}
		}
		return err != nil && t.Context().Err() != nil
	}, 2*time.Minute, 50*time.Millisecond, "build %s does not say %q: %s", id, text, f.words())
}

// search looks for secrets in some bytes, also as they look in base64 and in hexadecimal.
func search(t *testing.T, where string, data []byte, secrets ...map[string]string) {
	t.Helper()
	for _, group := range secrets {
		for what, secret := range group {
			if secret == "" {
				continue
			}
			for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
				require.False(t, bytes.Contains(data, []byte(form)), "%s: the secret of %s is there", where, what)
			}
		}
	}
}

// searchProcesses looks at the command lines of all processes, and at the environments of those that are not the service's own.
func (f *fleet) searchProcesses(t *testing.T) {
	t.Helper()
	for pid, line := range processes() {
		if pid == os.Getpid() {
			continue // this test has all of them
		}
		search(t, "command line of "+line, []byte(line), canaries, f.own())
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // gone, or somebody else's
		}
		search(t, "environment of "+line, environ, canaries)
		if !strings.Contains(line, "/image-builder-api ") { // other tests' too: they have the same key
			search(t, "environment of "+line, environ, f.own())
		}
	}
}

// dump is everything in the database, as text.
func (f *fleet) dump(t *testing.T) []byte {
	t.Helper()
	db, err := pgx.Connect(t.Context(), f.dsn)
	require.NoError(t, err)
	defer db.Close(t.Context())
	rows, err := db.Query(t.Context(), `select table_name from information_schema.tables where table_schema = 'public'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	var all bytes.Buffer
	for _, table := range tables {
		rows, err := db.Query(t.Context(), "select row_to_json(t)::text from "+pgx.Identifier{table}.Sanitize()+" t")
		require.NoError(t, err)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		all.WriteString(strings.Join(texts, "\n"))
	}
	require.Contains(t, all.String(), "canary", "the dump lacks the builds' images") // the repository's name
	return all.Bytes()
}

// image is all that a tag leads to: indices, manifests, configurations and the layers' files.
func (f *fleet) image(t *testing.T, tag string, login remote.Option) []byte {
	t.Helper()
	ref, err := name.NewTag(f.site.Registry.Host + "/canary:" + tag)
	require.NoError(t, err)
	described, err := remote.Get(ref, login)
	require.NoError(t, err)
	all := bytes.NewBuffer(described.Manifest)
	add := func(image v1.Image) {
		manifest, err := image.RawManifest()
		require.NoError(t, err)
		all.Write(manifest)
		config, err := image.RawConfigFile()
		require.NoError(t, err)
		all.Write(config)
		layers, err := image.Layers()
		require.NoError(t, err)
		for _, layer := range layers {
			files, err := layer.Uncompressed()
			require.NoError(t, err)
			_, err = io.Copy(all, files)
			require.NoError(t, err)
		}
	}
	if !described.MediaType.IsIndex() {
		image, err := described.Image()
		require.NoError(t, err)
		add(image)
		return all.Bytes()
	}
	index, err := described.ImageIndex()
	require.NoError(t, err)
	manifests, err := index.IndexManifest()
	require.NoError(t, err)
	for _, m := range manifests.Manifests {
		image, err := index.Image(m.Digest)
		require.NoError(t, err)
		add(image)
	}
	return all.Bytes()
}

// searchFiles looks at what the service has left in its folders: caches, the engine's log, homes. The registry's and the git
// server's folders are not the service's.
func (f *fleet) searchFiles(t *testing.T) {
	t.Helper()
	const most = 4 << 20 // the daemon's databases and layers: large, and the images' own content
	require.NoError(t, filepath.WalkDir(f.folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == f.identities {
			return nil // what the daemon removes while we look
		}
		if info, err := entry.Info(); err != nil || info.Size() > most {
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil {
			search(t, path, data, canaries, f.own())
		}
		return nil
	}))
}
