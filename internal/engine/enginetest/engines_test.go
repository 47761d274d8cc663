//go:build engines

package enginetest

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	docker "github.com/docker/docker/client"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/buildparams"
	"imagebuilder/internal/dockerfile/awkward"
	"imagebuilder/internal/engine/managed"
	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
	"imagebuilder/internal/testbed"
	"imagebuilder/plugin"
)

// job is one document that every engine builds.
type job struct {
	name     string
	document string
	// sameDigest: nothing in the image depends on when it was built, so all engines agree on its digest.
	sameDigest bool
	// runs: there is a RUN in it. Engines with the old image store give its layer a /etc that did not change.
	runs bool
}

// owner is whose images these are: a label, and an annotation of each manifest.
const owner = "00112233445566778899aabbccddeeff"

// TestEngines has every engine build the same documents, and compares what is in the registry.
func TestEngines(t *testing.T) {
	b := newBed(t, testbed.RegistryOptions{})
	_, err := testbed.PushBases(t.Context(), b.Registry.Host, testbed.BaseOptions{})
	require.NoError(t, err)
	jobs := b.jobs(t)
	if testing.Short() {
		jobs = slices.DeleteFunc(jobs, func(j job) bool { return !slices.Contains(brief(), j.name) })
		require.Len(t, jobs, len(brief()))
	}
	first := &row{bed: b, jobs: jobs, outs: map[string]*result.Result{}, looks: map[string][]look{}}
	require.True(t, t.Run("buildkit", func(t *testing.T) {
		first.build(t, result.Settings{Force: true, Owner: owner, Engine: "buildkit", BuildKitHost: testbed.NewEngine(t)}, nil, false)
	}))
	t.Run("managed", func(t *testing.T) {
		own := managedSettings(t)
		(&row{bed: b, jobs: jobs}).build(t, own, first, false)
		t.Run("private registry", func(t *testing.T) { b.private(t, own) })
		t.Run("failures", func(t *testing.T) { b.failures(t, own) })
	})
	for _, kind := range kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			host := startDocker(t, kind).Host
			settings := result.Settings{Force: true, Owner: owner, Engine: "docker", DockerHost: host}
			(&row{bed: b, jobs: jobs}).build(t, settings, first, kind.Legacy())
			t.Run("private registry", func(t *testing.T) { b.private(t, settings) })
			t.Run("failures", func(t *testing.T) { b.failures(t, settings) })
			t.Run("leaves nothing", func(t *testing.T) { require.Empty(t, images(t, host)) })
		})
	}
}

// kinds are the Engines that are tested: with -short one of each kind that there is.
func kinds() []testbed.DockerKind {
	all := testbed.DockerKinds()
	if !testing.Short() {
		return all
	}
	return slices.DeleteFunc(all, func(k testbed.DockerKind) bool { return strings.HasPrefix(k.Name, "28") })
}

// brief are the jobs that are done with -short: one of each kind.
func brief() []string {
	return []string{
		"01-plain", "13-build-platform", "17-target-arch", "26-syntax", "33-copy-from-image", "34-mount-from-image", "46-onbuild", "48-dockerignore",
		"variants", "seven-platforms", "run", "zstd", "caches",
	}
}

// managedSettings are those of an engine of our own with a state of its own, which is stopped at the end.
func managedSettings(t *testing.T) result.Settings {
	t.Helper()
	state := t.TempDir()
	t.Cleanup(func() { require.NoError(t, managed.Stop(context.Background(), managed.Config{StateDir: state})) })
	return result.Settings{Force: true, Owner: owner, Engine: "managed", StateDir: state, IdleSeconds: 60}
}

// row is what one engine makes of the table.
type row struct {
	bed  *bed
	jobs []job

	mu    sync.Mutex
	outs  map[string]*result.Result
	looks map[string][]look
}

// build builds the table with an engine and compares it with what the first one made, or keeps it where this is the first.
func (r *row) build(t *testing.T, settings result.Settings, first *row, legacy bool) {
	t.Helper()
	t.Run("table", func(t *testing.T) {
		for _, j := range r.jobs {
			t.Run(j.name, func(t *testing.T) {
				t.Parallel()
				out, _, err := r.bed.create(t, t.Context(), settings, j.document)
				require.NoError(t, err)
				require.Equal(t, settings.Engine, out.Engine)
				seen := r.bed.looks(t, out)
				if first != nil {
					first.compare(t, j, out, seen, legacy)
					return
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				r.outs[j.name], r.looks[j.name] = out, seen
			})
		}
	})
}

func (r *row) compare(t *testing.T, j job, out *result.Result, seen []look, legacy bool) {
	t.Helper()
	require.Len(t, seen, len(r.looks[j.name]))
	for i := range seen {
		requireSame(t, r.looks[j.name][i], seen[i], legacy)
	}
	for i, one := range out.Images {
		require.False(t, one.Unchanged)
		require.Equal(t, r.outs[j.name].Images[i].Bases, one.Bases)
		if j.sameDigest && !(j.runs && legacy) {
			require.Equal(t, r.outs[j.name].Images[i].Digest, one.Digest)
		}
	}
}

// private pushes to a registry that wants a password, and whose authority no daemon knows, what stands on a base of another one.
func (b *bed) private(t *testing.T, settings result.Settings) {
	const user, password = "builder", "correct horse"
	own := newBed(t, testbed.RegistryOptions{TLS: true, Basic: map[string]string{user: password}})
	repository := b.files(t, strings.ReplaceAll(t.Name(), "/", "-")+".git", map[string]string{"Dockerfile": "FROM anything\nRUN echo hello >/hello\n"})
	asking := func(registry map[string]any) string {
		registry["url"], registry["username"] = own.Registry.Host, user
		data, err := json.Marshal(map[string]any{
			"source": map[string]any{"git_repo": map[string]any{"url": repository}},
			"target": map[string]any{"registry": registry, "images": []any{map[string]any{
				"image": "team/app", "tag": "1", "base": b.Registry.Host + "/base/busybox:1", "platforms": []string{"linux/amd64", "linux/386"},
			}}},
		})
		require.NoError(t, err)
		return string(data)
	}
	for name, registry := range map[string]map[string]any{
		"authority": {"password": password, "ca_cert": string(own.Registry.CAPEM)},
		"insecure":  {"password": password, "insecure": true},
	} {
		t.Run(name, func(t *testing.T) {
			out, told, err := own.create(t, t.Context(), settings, asking(registry))
			require.NoError(t, err)
			require.Len(t, out.Images[0].Platforms, 2)
			require.NotContains(t, told.text(), password)
		})
	}
	t.Run("wrong password", func(t *testing.T) {
		_, _, err := own.create(t, t.Context(), settings, asking(map[string]any{"password": password + "!", "insecure": true}))
		require.Equal(t, fault.Denied, fault.KindOf(err), "%v", err)
	})
}

// failures are builds that end in the middle: no tag appears, and each says why.
func (b *bed) failures(t *testing.T, settings result.Settings) {
	busybox := b.Registry.Host + "/base/busybox:1"
	t.Run("one platform fails", func(t *testing.T) {
		t.Parallel()
		repository := b.files(t, strings.ReplaceAll(t.Name(), "/", "-")+".git", map[string]string{
			"Dockerfile": "FROM anything\nARG TARGETARCH\nRUN echo on $TARGETARCH; test $TARGETARCH != 386\n",
		})
		name := strings.ToLower("failed/" + path.Base(path.Dir(path.Dir(t.Name()))))
		_, _, err := b.create(t, t.Context(), settings, document(t, repository, b.Registry.Host, buildparams.Options{},
			buildparams.Image{Image: name, Tag: "1", Base: busybox, Platforms: []string{"linux/amd64", "linux/386"}}))
		require.Equal(t, fault.BuildFailed, fault.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "test $TARGETARCH != 386")
		require.ErrorContains(t, err, "on 386")
		require.Empty(t, b.Tags(t, name))
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		repository := b.files(t, strings.ReplaceAll(t.Name(), "/", "-")+".git", map[string]string{
			"Dockerfile": "FROM anything\nRUN echo it runs; sleep 600\n",
		})
		name := strings.ToLower("cancelled/" + path.Base(path.Dir(path.Dir(t.Name()))))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := b.createWith(t, ctx, settings, document(t, repository, b.Registry.Host, buildparams.Options{},
			buildparams.Image{Image: name, Tag: "1", Base: busybox}), func(e plugin.Event) {
			if e.Log != nil && strings.Contains(string(e.Log.Data), "it runs") {
				cancel()
			}
		})
		require.Equal(t, fault.Cancelled, fault.KindOf(err), "%v", err)
		require.Empty(t, b.Tags(t, name))
	})
	t.Run("no such base", func(t *testing.T) {
		t.Parallel()
		repository := b.files(t, strings.ReplaceAll(t.Name(), "/", "-")+".git", map[string]string{
			"Dockerfile": "FROM " + b.Registry.Host + "/base/nothing:1\nRUN true\n",
		})
		name := strings.ToLower("nobase/" + path.Base(path.Dir(path.Dir(t.Name()))))
		_, _, err := b.create(t, t.Context(), settings, document(t, repository, b.Registry.Host, buildparams.Options{}, buildparams.Image{Image: name, Tag: "1"}))
		require.Equal(t, fault.NotFound, fault.KindOf(err), "%v", err)
		require.ErrorContains(t, err, "base/nothing:1")
	})
}

func startDocker(t *testing.T, kind testbed.DockerKind, listen ...testbed.DockerTCP) *testbed.Docker {
	t.Helper()
	d, err := testbed.StartDocker(t.Context(), kind, listen...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// images are the names and IDs of all images that an Engine has.
func images(t *testing.T, host string) []string {
	t.Helper()
	api, err := docker.NewClientWithOpts(docker.WithHost(host), docker.WithAPIVersionNegotiation())
	require.NoError(t, err)
	defer api.Close()
	all, err := api.ImageList(t.Context(), image.ListOptions{All: true})
	require.NoError(t, err)
	var names []string
	for _, one := range all {
		names = append(names, one.ID+" "+strings.Join(one.RepoTags, ","))
	}
	return names
}

// looks are all platforms of all images, in order.
func (b *bed) looks(t *testing.T, out *result.Result) []look {
	t.Helper()
	var all []look
	for _, image := range out.Images {
		for _, p := range image.Platforms {
			all = append(all, b.look(t, image.PinnedRef, p.Platform))
		}
	}
	return all
}

// epoch is a time for builds that must not depend on the time.
const epoch = "1700000000"

func (b *bed) jobs(t *testing.T) []job {
	t.Helper()
	var jobs []job
	for _, c := range awkward.Cases() {
		c := c.At(b.Registry.Host)
		jobs = append(jobs, job{name: c.Name, document: document(t, b.tree(t, c.Name+".git", c.Context), b.Registry.Host, buildparams.Options{}, buildparams.Image{
			Image: "awkward/" + c.Name, Tag: "1", Base: c.Base, Bases: c.Bases, BuildArgs: c.BuildArgs, Stage: c.Stage, Platforms: c.Platforms,
		})})
	}
	busybox := b.Registry.Host + "/base/busybox:1"
	other := b.Registry.Host + "/base/other:1"
	run := b.files(t, "run.git", map[string]string{
		"Dockerfile": "FROM anything AS tools\nRUN echo tool >/tool\nFROM anything\nARG WHO=nobody\nCOPY --from=tools /tool /usr/tool\nCOPY . /src\n" +
			"RUN --mount=type=cache,target=/cache echo $WHO >/who && rm -r /src/gone && ln -s who /link && mkdir -p /a/b && chmod 700 /a/b\nUSER nobody\n",
		"kept": "kept", "gone/file": "gone",
	})
	jobs = append(jobs, job{name: "variants", document: document(t, run, b.Registry.Host, buildparams.Options{},
		buildparams.Image{Image: "variants", Tag: "a", Base: busybox, BuildArgs: map[string]string{"WHO": "a"}, Platforms: []string{"linux/amd64", "linux/386"}},
		buildparams.Image{Image: "variants", Tag: "b", Base: other, BuildArgs: map[string]string{"WHO": "b"}, Platforms: []string{"linux/386"}},
		buildparams.Image{Image: "variants", Tag: "c", Base: other, Platforms: []string{"linux/amd64", "linux/386"}},
	)})
	plain := b.files(t, "plain.git", map[string]string{
		"Dockerfile": "FROM anything\nWORKDIR /work/place\nCOPY hello .\nENV A=b\nCMD [\"cat\", \"hello\"]\n", "hello": "hello",
	})
	timeless := buildparams.Options{SourceDateEpoch: epoch}
	image := func(name string, platforms ...string) buildparams.Image {
		return buildparams.Image{Image: name, Tag: "1", Base: busybox, Platforms: platforms}
	}
	return append(jobs,
		job{name: "seven-platforms", sameDigest: true, document: document(t, plain, b.Registry.Host, timeless, image("seven", testbed.BasePlatforms()...))},
		job{name: "one-platform", sameDigest: true, document: document(t, plain, b.Registry.Host, timeless, image("one"))},
		job{name: "run", sameDigest: true, runs: true, document: document(t, b.files(t, "made.git", map[string]string{
			"Dockerfile": "FROM anything\nRUN mkdir -p /made/here && echo hello >/made/here/hello && ln -s hello /made/here/link && rm /bin/yes\n",
		}), b.Registry.Host, timeless, image("run", "linux/amd64", "linux/386"))},
		job{name: "gzip-9", sameDigest: true, document: document(t, plain, b.Registry.Host,
			buildparams.Options{SourceDateEpoch: epoch, Compression: "gzip", CompressionLevel: 9}, image("gzip"))},
		job{name: "zstd", sameDigest: true, document: document(t, plain, b.Registry.Host,
			buildparams.Options{SourceDateEpoch: epoch, Compression: "zstd"}, image("zstd"))},
		job{name: "caches", document: document(t, plain, b.Registry.Host,
			buildparams.Options{Cache: &buildparams.Cache{Mode: buildparams.CacheRegistry}}, image("cached", "linux/amd64", "linux/386"))},
	)
}

func document(t *testing.T, repository, registry string, options buildparams.Options, images ...buildparams.Image) string {
	t.Helper()
	data, err := json.Marshal(buildparams.Document{
		Source: buildparams.Source{GitRepo: &buildparams.GitRepo{URL: repository}},
		Target: buildparams.Target{Registry: buildparams.Registry{URL: registry}, Images: images}, Options: options,
	})
	require.NoError(t, err)
	return string(data)
}
