package testbed

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// basesVariable names the environment variable that says where the busybox programs are.
const basesVariable = "IMAGE_BUILDER_TEST_BASES"

// BasePlatforms are the platforms that base images can be had for.
func BasePlatforms() []string {
	return []string{"linux/amd64", "linux/386", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/ppc64le", "linux/s390x"}
}

// debianArchitecture is how Debian, and so scripts/bases.sh, names a platform.
func debianArchitecture(platform string) string {
	return map[string]string{
		"linux/amd64": "amd64", "linux/386": "i386", "linux/arm64": "arm64", "linux/arm/v7": "armhf",
		"linux/arm/v6": "armel", "linux/ppc64le": "ppc64el", "linux/s390x": "s390x",
	}[platform]
}

// BaseImage is an image made of busybox and some files.
type BaseImage struct {
	Name      string            // repository and tag, without a registry: base/busybox:1
	Files     map[string]string // absolute path → content; a layer of its own, on top of busybox
	Platforms []string          // default all of BasePlatforms
}

// BaseOptions say which base images are pushed, and how.
type BaseOptions struct {
	Folder    string            // where the busybox programs are; default Bases()
	Images    []BaseImage       // default StandardBases()
	Platforms []string          // of images that name none; default all of BasePlatforms
	Transport http.RoundTripper // default go-containerregistry's; for a registry that wants more than a plain request
	Options   []remote.Option   // as credentials
}

// StandardBases are base/busybox:1, and base/other:1 with a file /other more.
func StandardBases() []BaseImage {
	return []BaseImage{
		{Name: "base/busybox:1"},
		{Name: "base/other:1", Files: map[string]string{"/other": "other"}},
	}
}

// PushBases makes base images and pushes them to a registry, each as an index of its platforms.
// The same programs give the same digests at any time and place. It returns the index's digest by name.
func PushBases(ctx context.Context, host string, options BaseOptions) (map[string]string, error) {
	folder := options.Folder
	if folder == "" {
		var err error
		if folder, err = Bases(ctx); err != nil {
			return nil, err
		}
	}
	images := options.Images
	if images == nil {
		images = StandardBases()
	}
	maker, err := newBaseMaker(ctx, folder)
	if err != nil {
		return nil, err
	}
	remoteOptions := append([]remote.Option{remote.WithContext(ctx)}, options.Options...)
	if options.Transport != nil {
		remoteOptions = append(remoteOptions, remote.WithTransport(options.Transport))
	}
	digests := map[string]string{}
	for _, image := range images {
		if image.Platforms == nil {
			image.Platforms = options.Platforms
		}
		index, err := maker.index(image)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", image.Name, err)
		}
		ref, err := name.ParseReference(host+"/"+image.Name, name.Insecure) // plain http or not
		if err != nil {
			return nil, fmt.Errorf("push %s: %w", image.Name, err)
		}
		if err := remote.WriteIndex(ref, index, remoteOptions...); err != nil {
			return nil, fmt.Errorf("push %s: %w", ref, err)
		}
		digest, err := index.Digest()
		if err != nil {
			return nil, fmt.Errorf("push %s: %w", ref, err)
		}
		digests[image.Name] = digest.String()
	}
	return digests, nil
}

// Bases is the folder with a busybox program for each platform: that of IMAGE_BUILDER_TEST_BASES, or .work/bases
// of the repository, which scripts/bases.sh fills when something is missing.
func Bases(ctx context.Context) (string, error) {
	if folder := os.Getenv(basesVariable); folder != "" {
		return folder, nil
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, ".work", "bases")
	var said bytes.Buffer
	script := exec.CommandContext(ctx, filepath.Join(root, "scripts", "bases.sh"), folder)
	script.Stdout, script.Stderr = &said, &said
	if err := script.Run(); err != nil {
		return "", fmt.Errorf("run scripts/bases.sh %s: %w\n%s", folder, err, said.String())
	}
	return folder, nil
}

// repositoryRoot is the folder with this module's go.mod, at or above the working directory.
func repositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module imagebuilder\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no repository of image-builder at or above %s; set %s to a folder that scripts/bases.sh filled", start, basesVariable)
		}
	}
}

// baseMaker makes layers, each once.
type baseMaker struct {
	folder  string
	applets []string
	layers  map[string]v1.Layer // busybox of a platform
}

func newBaseMaker(ctx context.Context, folder string) (*baseMaker, error) {
	// Debian builds the same applets for every architecture, so that the one that runs here speaks for all.
	native := debianArchitecture("linux/" + runtime.GOARCH)
	if native == "" {
		native = "amd64"
	}
	busybox := exec.CommandContext(ctx, filepath.Join(folder, native), "--list")
	busybox.Args[0] = "busybox" // which is how it knows what is asked of it
	out, err := busybox.Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", filepath.Join(folder, native), err)
	}
	return &baseMaker{folder: folder, applets: strings.Fields(string(out)), layers: map[string]v1.Layer{}}, nil
}

func (m *baseMaker) index(image BaseImage) (v1.ImageIndex, error) {
	wanted := image.Platforms
	if wanted == nil {
		wanted = BasePlatforms()
	}
	if err := m.prepare(wanted); err != nil {
		return nil, err
	}
	extra, err := filesLayer(image.Files)
	if err != nil {
		return nil, err
	}
	adds := make([]mutate.IndexAddendum, 0, len(wanted))
	for _, text := range wanted {
		layers := []v1.Layer{m.layers[text]}
		if extra != nil {
			layers = append(layers, extra)
		}
		add, err := platformImage(text, layers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		adds = append(adds, add)
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...), nil
}

// prepare makes the busybox layers of platforms side by side: compressing is what takes the time.
func (m *baseMaker) prepare(wanted []string) error {
	made := make([]v1.Layer, len(wanted))
	var group errgroup.Group
	for i, text := range wanted {
		if m.layers[text] != nil {
			continue
		}
		group.Go(func() (err error) {
			made[i], err = m.busybox(text)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, text := range wanted {
		if made[i] != nil {
			m.layers[text] = made[i]
		}
	}
	return nil
}

func (m *baseMaker) busybox(platform string) (v1.Layer, error) {
	architecture := debianArchitecture(platform)
	if architecture == "" {
		return nil, fmt.Errorf("no base image for %s; there is %s", platform, strings.Join(BasePlatforms(), ", "))
	}
	program, err := os.ReadFile(filepath.Join(m.folder, architecture))
	if err != nil {
		return nil, err
	}
	var w layerWriter
	for _, dir := range []string{"bin/", "etc/", "root/", "tmp/"} {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		w.add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode}, "")
	}
	w.add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, applet := range m.applets {
		if applet != "busybox" {
			w.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, "")
		}
	}
	w.add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\nnogroup:x:65534:\n")
	w.add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	return w.layer()
}

// filesLayer is a layer of files, or nil when there are none.
func filesLayer(files map[string]string) (v1.Layer, error) {
	if len(files) == 0 {
		return nil, nil
	}
	var w layerWriter
	for _, file := range slices.Sorted(maps.Keys(files)) {
		w.add(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path.Clean(file), "/"), Mode: 0o755}, files[file])
	}
	return w.layer()
}

// baseTime is the time of everything in a base image: any one will do that never changes.
func baseTime() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func platformImage(text string, layers []v1.Layer) (mutate.IndexAddendum, error) {
	parsed, err := platforms.Parse(text)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	image, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = parsed.OS, parsed.Architecture, parsed.Variant
	config.Created = v1.Time{Time: baseTime()}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.Config.Cmd = []string{"/bin/sh"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return mutate.IndexAddendum{}, err
	}
	return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: parsed.OS, Architecture: parsed.Architecture, Variant: parsed.Variant},
	}}, nil
}

// layerWriter collects a layer's files; the first error is kept for layer.
type layerWriter struct {
	data bytes.Buffer
	tar  *tar.Writer
	err  error
}

func (w *layerWriter) add(header tar.Header, content string) {
	if w.tar == nil {
		w.tar = tar.NewWriter(&w.data)
	}
	header.Size, header.ModTime, header.Format = int64(len(content)), baseTime(), tar.FormatUSTAR
	if w.err == nil {
		w.err = w.tar.WriteHeader(&header)
	}
	if w.err == nil {
		_, w.err = io.WriteString(w.tar, content)
	}
}

func (w *layerWriter) layer() (v1.Layer, error) {
	if err := errors.Join(w.err, w.tar.Close()); err != nil {
		return nil, fmt.Errorf("write a layer: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(w.data.Bytes())), nil }
	// The fastest compression: what is saved here is a test's time, not a registry's space.
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestSpeed),
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}
