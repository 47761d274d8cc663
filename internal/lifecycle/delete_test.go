package lifecycle_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/contentkey"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/lifecycle"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// The owners of these tests, in the form that package imagenode gives them.
const (
	owner    = "00112233445566778899aabbccddeeff"
	stranger = "ffeeddccbbaa99887766554433221100"
)

// twoPlatforms of an image run on this machine without emulation.
const twoPlatforms = `"platforms":["linux/amd64","linux/386"]`

// app is a target of the images app:TAG.
func app(tags ...string) string {
	var images []string
	for _, tag := range tags {
		images = append(images, fmt.Sprintf(`{"image":"app","tag":%q,"base":"@REG/base/busybox:1",%s}`, tag, twoPlatforms))
	}
	return `{"registry":{"url":"@REG"},"images":[` + strings.Join(images, ",") + `]}`
}

// as is the settings of an owner.
func (b *bed) as(owner string) *result.Settings {
	return &result.Settings{Engine: "buildkit", BuildKitHost: b.address, CacheDir: b.cacheDir, Owner: owner}
}

// push creates the target's images as an owner's.
func (b *bed) push(t *testing.T, url, owner, target string) *result.Result {
	t.Helper()
	out, _, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":%s}`, url, target), b.as(owner))
	require.NoError(t, err)
	return out
}

// look runs delete or verify; into takes the result.
func (b *bed) look(t *testing.T, operation, owner, inputs string, into any) error {
	t.Helper()
	settings, err := json.Marshal(b.as(owner))
	require.NoError(t, err)
	data, err := lifecycle.New("test").Execute(t.Context(), plugin.Request{
		NodeType: lifecycle.ImageNode, Operation: operation, WorkDir: t.TempDir(), Settings: settings,
		Inputs: json.RawMessage(strings.ReplaceAll(inputs, "@REG", b.registry.Host)),
	}, func(plugin.Event) {})
	if data != nil {
		require.NoError(t, json.Unmarshal(data, into))
	}
	return err
}

// remove deletes tags as an owner and gives what became of each: "" is removed.
func (b *bed) remove(t *testing.T, owner, target string) []string {
	t.Helper()
	var out result.Deleted
	require.NoError(t, b.look(t, lifecycle.Delete, owner, `{"target":`+target+`}`, &out))
	var kept []string
	for _, tag := range out.Tags {
		require.Equal(t, tag.Kept == "", tag.Removed)
		kept = append(kept, tag.Kept)
	}
	return kept
}

func (b *bed) verify(t *testing.T, owner, target string) error {
	t.Helper()
	return b.look(t, lifecycle.Verify, owner, `{"target":`+target+`}`, &result.Verified{})
}

func (b *bed) ref(t *testing.T, ref string) name.Reference {
	t.Helper()
	parsed, err := name.ParseReference(b.registry.Host + "/" + ref)
	require.NoError(t, err)
	return parsed
}

// TestDelete removes what the node has pushed and nothing else, however near it stands.
func TestDelete(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n", "code": "1"})
	ours := b.push(t, url, owner, app("1", "2"))
	for _, image := range ours.Images {
		for _, arch := range []string{"amd64", "386"} {
			config, err := b.pull(t, image.Ref, "linux", arch).ConfigFile()
			require.NoError(t, err)
			require.Equal(t, owner, config.Config.Labels[contentkey.OwnerLabel])
		}
	}
	require.NoError(t, b.verify(t, owner, app("1", "2")))

	// Others stand on the same manifests: a tag of the index, one of a platform's, and another index.
	b.retag(t, "app:1", "app:same")
	child := b.pull(t, "@REG/app:1", "linux", "amd64")
	require.NoError(t, remote.Write(b.ref(t, "app:child"), child))
	mine := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: child, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	require.NoError(t, remote.WriteIndex(b.ref(t, "app:mine"), mine))

	require.Equal(t, []string{"kept: it now names an image of somebody else"}, b.remove(t, stranger, app("1")))
	require.Equal(t, []string{"", "was gone already"}, b.remove(t, owner, app("1", "never")))
	require.Equal(t, []string{"2", "child", "mine", "same"}, b.tags(t, "app"))
	for ref, arches := range map[string][]string{"2": {"amd64", "386"}, "child": {"amd64"}, "mine": {"amd64"}, "same": {"amd64", "386"}} {
		for _, arch := range arches {
			require.Equal(t, "1", contents(t, b.pull(t, "@REG/app:"+ref, "linux", arch))["app/code"])
		}
	}
	err := b.verify(t, owner, app("1", "2"))
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	require.EqualError(t, err, "verify "+b.registry.Host+"/app:1: the tag is gone")

	require.Equal(t, []string{"was gone already", ""}, b.remove(t, owner, app("1", "2")))
	require.Equal(t, []string{"was gone already", "was gone already"}, b.remove(t, owner, app("1", "2")))
}

// TestDeleteMoved leaves tags alone that name something else now, even an image that is built on ours.
func TestDeleteMoved(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n"})
	fix, _ := b.repository(t, "fix.git", map[string]string{"Dockerfile": "FROM anything\nCOPY . /fix/\n"})
	b.push(t, url, owner, app("foreign", "fixed", "partly", "broken", "other", "chart"))

	b.retag(t, "base/other:1", "app:foreign")
	b.push(t, fix, "", strings.ReplaceAll(app("fixed"), "base/busybox:1", "app:fixed"))
	config, err := b.pull(t, "@REG/app:fixed", "linux", "amd64").ConfigFile()
	require.NoError(t, err)
	require.Equal(t, owner, config.Config.Labels[contentkey.OwnerLabel], "inherited, which is why it is not enough")
	partly, err := remote.Index(b.ref(t, "app:partly"))
	require.NoError(t, err)
	strange := b.pull(t, "@REG/base/other:1", "linux", "amd64")
	require.NoError(t, remote.WriteIndex(b.ref(t, "app:partly"), mutate.AppendManifests(partly, mutate.IndexAddendum{
		Add: strange, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "riscv64"}},
	})))
	nothing := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	require.NoError(t, remote.WriteIndex(b.ref(t, "app:broken"), nothing))
	require.NoError(t, remote.Write(b.ref(t, "app:chart"), mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.helm.config.v1+json")))

	moved := []string{"foreign", "fixed", "partly", "broken", "chart"}
	err = b.verify(t, owner, app(moved...))
	require.ErrorContains(t, err, "5 of 5 tags are not as they were pushed")
	require.ErrorContains(t, err, "app:fixed: the tag now names an image of somebody else, sha256:")
	for _, kept := range b.remove(t, owner, app(moved...)) {
		require.Equal(t, "kept: it now names an image of somebody else", kept)
	}
	require.Equal(t, []string{""}, b.remove(t, owner, app("other")))
	require.ElementsMatch(t, moved, b.tags(t, "app"))
}

// TestDeleteUnchanged: who finds an image of the same inputs does not become its owner, and the label is no input.
func TestDeleteUnchanged(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n"})
	require.False(t, b.push(t, url, "", app("1")).Images[0].Unchanged)
	out, seen, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":%s}`, url, app("1")), b.as(owner))
	require.NoError(t, err)
	require.True(t, out.Images[0].Unchanged)
	require.Contains(t, seen.text(t), "it stays when this node goes")
	require.Equal(t, []string{"kept: it now names an image of somebody else"}, b.remove(t, owner, app("1")))

	forced := b.as(owner)
	forced.Force = true
	_, _, err = b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":%s}`, url, app("1")), forced)
	require.NoError(t, err)
	require.True(t, b.push(t, url, "", app("1")).Images[0].Unchanged)
	require.Equal(t, []string{""}, b.remove(t, owner, app("1")))
}

// TestDeleteOnePlatform: there is no index then. no_cache leaves out the keys, but not the owner.
func TestDeleteOnePlatform(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n"})
	target := `{"registry":{"url":"@REG"},"images":[{"image":"one","tag":"1","base":"@REG/base/busybox:1","labels":{"` + contentkey.OwnerLabel + `":"me"}}]}`
	_, _, err := b.createWith(t, t.Context(), fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":%s,"options":{"no_cache":true}}`, url, target), b.as(owner))
	require.NoError(t, err)
	require.NoError(t, b.verify(t, owner, target))
	require.Equal(t, []string{""}, b.remove(t, owner, target))
}

func TestDeleteKeeps(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Basic: map[string]string{"me": "hunter2"}})
	var out result.Deleted
	require.NoError(t, b.look(t, lifecycle.Delete, owner, `{"target":`+app("1")+`,"removal":"keep"}`, &out), "nobody is asked")
	require.Equal(t, []result.DeletedTag{{Ref: b.registry.Host + "/app:1", Kept: "kept, as removal says"}}, out.Tags)
	err := b.look(t, lifecycle.Delete, owner, `{"target":`+app("1")+`}`, &out)
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.Equal(t, fault.Denied, out.Tags[0].Error.Kind)
}

// TestDeleteRefused: registries that let nobody delete.
func TestDeleteRefused(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	b := newBed(t, testbed.RegistryOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && refuse.Load() {
				http.Error(w, `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`, http.StatusMethodNotAllowed)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	b.pushBases(t)
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM busybox\nCOPY . /app/\n"})
	b.push(t, url, owner, app("1", "2"))
	refuse.Store(true)
	var out result.Deleted
	err := b.look(t, lifecycle.Delete, owner, `{"target":`+app("1", "2", "3")+`}`, &out)
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "2 of 3 tags could not be removed")
	require.Contains(t, fault.As(err).Hint, "removal: keep")
	require.Contains(t, fault.As(err).Hint, "storage.delete.enabled")
	require.Equal(t, "was gone already", out.Tags[2].Kept)
	require.NoError(t, b.verify(t, owner, app("1", "2")), "the tags stand as they stood")
	refuse.Store(false)
	require.Equal(t, []string{"", ""}, b.remove(t, owner, app("1", "2")))
}

// TestDeleteWithTokens: a token for deletion is another than one for pushing.
func TestDeleteWithTokens(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{Tokens: &testbed.TokenOptions{Users: map[string]testbed.TokenUser{
		"me":     {Password: "hunter2", Access: map[string][]string{"*": {"pull", "push", "delete"}}},
		"pusher": {Password: "hunter2", Access: map[string][]string{"*": {"pull", "push"}}},
	}}})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /app/\n"})
	target := func(user string) string {
		return fmt.Sprintf(`{"registry":{"url":"@REG","username":%q,"password":"hunter2"},"images":[{"image":"app","tag":"1"}]}`, user)
	}
	b.push(t, url, owner, target("pusher"))
	var out result.Deleted
	err := b.look(t, lifecycle.Delete, owner, `{"target":`+target("pusher")+`}`, &out)
	require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	require.NotContains(t, err.Error(), "hunter2")
	require.Equal(t, []string{""}, b.remove(t, owner, target("me")))
}

func TestTagInputs(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	for inputs, want := range map[string]string{
		`{}`:      "/target: is missing",
		`[]`:      "cannot unmarshal",
		`{"x":1}`: `unknown field "x"`,
		`{"target":{"registry":{"url":"x"},"images":[]},"removal":"maybe"}`: "/target/images: ",
		`{"target":` + app("1") + `,"removal":"maybe"}`:                     `/removal: is "maybe" (it is delete or keep)`,
	} {
		err := b.look(t, lifecycle.Delete, owner, inputs, &result.Deleted{})
		require.Equal(t, fault.Invalid, fault.KindOf(err), inputs)
		require.ErrorContains(t, err, want)
	}
	err := b.look(t, lifecycle.Verify, "", `{"target":`+app("1")+`}`, &result.Verified{})
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.ErrorContains(t, err, "no owner")
}

// TestWorkFolder: temporary files of a build go to the folder that the settings name, and only what was made is removed.
func TestWorkFolder(t *testing.T) {
	t.Parallel()
	b := newBed(t, testbed.RegistryOptions{})
	url, _ := b.repository(t, "app.git", map[string]string{"Dockerfile": "FROM scratch\nCOPY . /app/\n"})
	document := fmt.Sprintf(`{"source":{"git_repo":{"url":%q}},"target":{"registry":{"url":"@REG"},"images":[{"image":"app","tag":"1"}]}}`, url)
	there := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(there, "mine"), nil, 0o600))
	for _, folder := range []string{"", "new", "new/below"} {
		settings := b.as(owner)
		settings.WorkFolder, settings.Force = filepath.Join(there, folder), true
		var seen []string
		data, err := json.Marshal(settings)
		require.NoError(t, err)
		_, err = lifecycle.New("test").Execute(t.Context(), plugin.Request{
			NodeType: lifecycle.ImageNode, Operation: lifecycle.Create, WorkDir: t.TempDir(), Settings: data,
			Inputs: json.RawMessage(strings.ReplaceAll(document, "@REG", b.registry.Host)),
		}, func(plugin.Event) {
			if files, err := filepath.Glob(filepath.Join(settings.WorkFolder, "image-builder-*", "source")); err == nil && len(files) > 0 && len(seen) == 0 {
				seen = files
			}
		})
		require.NoError(t, err)
		require.NotEmpty(t, seen)
		left, err := os.ReadDir(there)
		require.NoError(t, err)
		require.Len(t, left, 1)
		require.Equal(t, "mine", left[0].Name())
	}
	settings := b.as(owner)
	settings.WorkFolder = filepath.Join(there, "mine", "below")
	_, _, err := b.createWith(t, t.Context(), document, settings)
	require.Equal(t, fault.Invalid, fault.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "make the folder for temporary files")
}

// TestWorkFolderShared: jobs that come and go side by side make and remove the same folder.
func TestWorkFolderShared(t *testing.T) {
	t.Parallel()
	there := t.TempDir()
	var jobs errgroup.Group
	for range 8 {
		jobs.Go(func() error {
			for range 200 {
				remove, err := lifecycle.MakeFolder(filepath.Join(there, "new", "below"))
				if err != nil {
					return err
				}
				remove()
			}
			return nil
		})
	}
	require.NoError(t, jobs.Wait())
	require.DirExists(t, there)
}
