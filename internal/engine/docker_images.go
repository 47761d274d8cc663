package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	docker "github.com/docker/docker/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

const (
	// passingNames is the repository of images that stand in an Engine between a build and its `docker save`. The domain
	// exists nowhere (RFC 6761), so no such image can be pulled or pushed by mistake.
	passingNames = "image-builder.invalid/"
	// leftAfter is the age of such an image from which on nobody can be at work with it: its builder was killed.
	leftAfter = 24 * time.Hour
	// forgetWithin is how long removing one may take when a build ends, also when it ends because it was cancelled.
	forgetWithin = 30 * time.Second
	// platformsAtOnce is how many platforms of a variant are built at once. Each is a solve, and an image on its way.
	platformsAtOnce = 4
)

// imageStoreSession builds with an Engine whose BuildKit can put images only into the Engine's old image store:
// one platform at a time, each under a passing name. From there they come here, and become one layout.
type imageStoreSession struct {
	*buildKitSession
	api *docker.Client

	lost     atomic.Bool // the Engine is gone, or the link to it: nothing is asked of it any more
	mu       sync.Mutex
	squeezed map[squeezing]*squeezedLayer // variants and platforms share layers
	loaded   loadedBases
}

// Build builds the variant for each of its platforms and writes the image to the variant's layout.
func (s *imageStoreSession) Build(ctx context.Context, v Variant, emit event.Sink) (*Image, error) {
	if v.Layout == "" {
		return nil, fault.New(fault.Internal, "build %s: this Engine cannot push, and there is no layout", v.Name)
	}
	out := &layout{dir: v.Layout, index: v.Index, annotations: v.Annotations}
	if err := out.create(); err != nil {
		return nil, fault.New(fault.Unavailable, "build %s: %w", v.Name, err)
	}
	if len(v.CacheTo) > 0 {
		v.CacheTo = nil // its BuildKit has exporters for no cache that another daemon could use
		emit.Note(event.Warning, v.Name+": no build cache is exported: a Docker Engine with the old image store cannot")
	}
	name := passingNames + strconv.FormatInt(time.Now().Unix(), 10) + "-" + strings.ToLower(rand.Text())
	parts := make([]*platformPart, len(v.Platforms))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(platformsAtOnce)
	for i, p := range v.Platforms {
		group.Go(func() (err error) {
			parts[i], err = s.platform(groupCtx, v, p, fmt.Sprintf("%s:%d", name, i), out, emit)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	image := &Image{Elsewhere: map[digest.Digest]string{}}
	manifests := make([]ocispecs.Descriptor, len(parts))
	for i, part := range parts {
		manifests[i] = part.manifest
		image.Sources = append(image.Sources, part.built.Sources...)
		image.Build, image.Push = max(image.Build, part.built.Build), max(image.Push, part.shipped)
		for _, at := range part.elsewhere {
			image.Elsewhere[at.blob] = at.repository
		}
	}
	slices.Sort(image.Sources)
	image.Sources = slices.Compact(image.Sources)
	top, err := out.finish(manifests)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "build %s: write its layout: %w", v.Name, err)
	}
	image.Digest = top
	return image, nil
}

// platformPart is an image for one platform.
type platformPart struct {
	built     *Image // its digest is that of the config
	manifest  ocispecs.Descriptor
	elsewhere []foreignBlob
	shipped   time.Duration
}

type foreignBlob struct {
	blob       digest.Digest
	repository string
}

// platform builds for one platform and brings the image here.
func (s *imageStoreSession) platform(ctx context.Context, v Variant, p ocispecs.Platform, name string, out *layout, emit event.Sink) (*platformPart, error) {
	one := v
	one.Platforms, one.Repository, one.Layout = []ocispecs.Platform{p}, name, ""
	if len(v.Platforms) > 1 {
		one.Name += " (" + platforms.Format(p) + ")"
	}
	defer s.forget(ctx, name)
	var err error
	if one.Overrides, err = s.loadBases(ctx, v, p); err != nil {
		return nil, err
	}
	built, err := s.buildKitSession.Build(ctx, one, emit)
	if err != nil {
		if errors.Is(err, errGone) {
			s.lost.Store(true)
		}
		return nil, err
	}
	start := time.Now()
	end := emit.Begin("save "+name, group(one)+": take the image out of the Engine", time.Now)
	part, err := s.ship(ctx, v, built, p, out)
	end(err)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if gone(err) {
			s.lost.Store(true)
		}
		return nil, fault.New(fault.Unavailable, "build %s: take the image out of docker at %s: %w", one.Name, s.engine.address, err)
	}
	part.shipped = time.Since(start)
	return part, nil
}

// ship saves an image, and compresses the layers that its base does not have in a registry.
func (s *imageStoreSession) ship(ctx context.Context, v Variant, built *Image, p ocispecs.Platform, out *layout) (*platformPart, error) {
	known := s.baseLayers(ctx, built.Sources, p)
	dir, err := os.MkdirTemp(out.dir, "save-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stream, err := s.api.ImageSave(ctx, []string{built.Digest.String()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	saved, err := readSaved(stream, built.Digest, dir, func(diff digest.Digest) bool {
		_, ok := known[diff]
		return ok || s.has(squeezing{diff, packingOf(v)})
	})
	if err != nil {
		return nil, fmt.Errorf("docker save %s: %w", built.Digest, err)
	}
	part := &platformPart{built: built}
	layers, diffs := make([]ocispecs.Descriptor, len(saved.layers)), make([]digest.Digest, len(saved.layers))
	group, ctx := errgroup.WithContext(ctx)
	for i, l := range saved.layers {
		if base, ok := known[l.diff]; ok {
			layers[i], diffs[i] = ociLayer(base.Blob), l.diff
			part.elsewhere = append(part.elsewhere, foreignBlob{base.Blob.Digest, base.repository})
			continue
		}
		group.Go(func() (err error) {
			layers[i], diffs[i], err = s.squeeze(ctx, l, packingOf(v), out)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	config, err := withLayers(saved.config, diffs)
	if err != nil {
		return nil, err
	}
	part.manifest, err = out.manifest(config, layers, p)
	return part, err
}

type baseLayer struct {
	Layer
	repository string
}

// baseLayers finds the compressed forms of the layers that an image may have from the images that it was built on. An
// image that is not found costs only the work of compressing its layers.
func (s *imageStoreSession) baseLayers(ctx context.Context, sources []string, p ocispecs.Platform) map[digest.Digest]baseLayer {
	known := map[digest.Digest]baseLayer{}
	if s.source.Layers == nil {
		return known
	}
	for _, ref := range sources {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			continue
		}
		layers, err := s.source.Layers(ctx, ref, p)
		if err != nil {
			continue
		}
		for _, l := range layers {
			known[l.DiffID] = baseLayer{l, named.Name()}
		}
	}
	return known
}

// forget removes an image's passing name, and with it the image unless it has another.
func (s *imageStoreSession) forget(ctx context.Context, name string) {
	if s.lost.Load() {
		return // asking would only show anew, in its time, that nobody answers
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetWithin)
	defer cancel()
	_, _ = s.api.ImageRemove(ctx, name, image.RemoveOptions{PruneChildren: true}) // what is left is swept some day
}

// sweep removes what builders left that were killed.
func sweep(ctx context.Context, api *docker.Client, now time.Time) error {
	left, err := api.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", passingNames+"*"))})
	if err != nil {
		return fault.New(fault.Unavailable, "docker: list images: %w", err)
	}
	for _, one := range left {
		for _, name := range one.RepoTags {
			began, _, ok := strings.Cut(strings.TrimPrefix(name, passingNames), "-")
			at, err := strconv.ParseInt(began, 10, 64)
			if ok && err == nil && now.Sub(time.Unix(at, 0)) > leftAfter {
				_, _ = api.ImageRemove(ctx, name, image.RemoveOptions{PruneChildren: true}) // another builder may be at it
			}
		}
	}
	return nil
}

// squeezing is a way to compress a layer.
type squeezing struct {
	diff digest.Digest
	as   packing
}

// squeezedLayer is a layer in its compressed form.
type squeezedLayer struct {
	once sync.Once
	packedLayer
	path string
	err  error
}

func (s *imageStoreSession) has(one squeezing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.squeezed[one]
	return l != nil && l.path != ""
}

// squeeze compresses a layer, once for all images that have it, and puts it into a layout. It gives the layer's diff ID,
// which is another one when times in it were rewritten.
func (s *imageStoreSession) squeeze(ctx context.Context, l savedLayer, as packing, out *layout) (ocispecs.Descriptor, digest.Digest, error) {
	key := squeezing{l.diff, as}
	s.mu.Lock()
	one := s.squeezed[key]
	if one == nil {
		one = &squeezedLayer{}
		s.squeezed[key] = one
	}
	s.mu.Unlock()
	one.once.Do(func() {
		packed, err := out.pack(ctx, l.path, as)
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.err = err; err == nil {
			one.packedLayer, one.path = packed, out.path(packed.blob.Digest)
		} else {
			delete(s.squeezed, key) // another image may have better luck
		}
	})
	if one.err != nil {
		return ocispecs.Descriptor{}, "", one.err
	}
	return one.blob, one.diff, out.link(one.blob.Digest, one.path)
}
