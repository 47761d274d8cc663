package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

// merge makes one image of the parts.
func (s *nodesSession) merge(ctx context.Context, v Variant, parts []builtPart, emit event.Sink) (*Image, error) {
	image := &Image{Elsewhere: map[digest.Digest]string{}}
	for _, part := range parts {
		image.Sources = append(image.Sources, part.image.Sources...)
		image.Build, image.Push = max(image.Build, part.image.Build), max(image.Push, part.image.Push)
		maps.Copy(image.Elsewhere, part.image.Elsewhere)
	}
	slices.Sort(image.Sources)
	image.Sources = slices.Compact(image.Sources)
	var err error
	switch {
	case v.Layout != "":
		image.Digest, err = mergeLayouts(v, parts)
		if err != nil {
			err = fault.New(fault.Unavailable, "build %s: put its parts together: %w", v.Name, err)
		}
	case len(parts) == 1: // everything was built in one place
		image.Digest = parts[0].image.Digest
	default:
		start := time.Now()
		end := emit.Begin("merge "+v.Name, group(v)+": make one index of "+FormatPlatforms(v.Platforms), time.Now)
		image.Digest, err = s.mergePushed(ctx, v, parts)
		end(err)
		image.Push += time.Since(start)
		if err != nil {
			err = fault.Wrap(err, "build %s: make one index of its parts", v.Name)
		}
	}
	if err != nil {
		return nil, err
	}
	return image, nil
}

// mergePushed pushes an index of parts that the registry has.
func (s *nodesSession) mergePushed(ctx context.Context, v Variant, parts []builtPart) (digest.Digest, error) {
	manifests, err := partsOf(v, parts, func(part builtPart) (digest.Digest, []byte, error) {
		data, err := s.nodes.opts.Manifests.Manifest(ctx, v.Repository+"@"+part.image.Digest.String())
		return part.image.Digest, data, err
	})
	if err != nil {
		return "", err
	}
	data, err := indexOf(manifests)
	if err != nil {
		return "", err
	}
	return digest.FromBytes(data), s.nodes.opts.Manifests.PutManifest(ctx, v.Repository, ocispecs.MediaTypeImageIndex, data)
}

// mergeLayouts makes one layout of those of the parts, which stand in folders below it.
func mergeLayouts(v Variant, parts []builtPart) (digest.Digest, error) {
	out := &layout{dir: v.Layout}
	if err := out.create(); err != nil {
		return "", err
	}
	for _, part := range parts {
		if err := out.take(&layout{dir: part.layout}); err != nil {
			return "", err
		}
	}
	manifests, err := partsOf(v, parts, func(part builtPart) (digest.Digest, []byte, error) {
		var list ocispecs.Index
		data, err := os.ReadFile(filepath.Join(part.layout, ocispecs.ImageIndexFile))
		if err == nil {
			err = json.Unmarshal(data, &list)
		}
		if err != nil || len(list.Manifests) == 0 {
			return "", nil, fmt.Errorf("%s of %s: no image: %w", ocispecs.ImageIndexFile, FormatPlatforms(part.platforms), err)
		}
		top := list.Manifests[0].Digest
		data, err = os.ReadFile(out.path(top))
		return top, data, err
	})
	if err != nil {
		return "", err
	}
	for _, part := range parts {
		if err := os.RemoveAll(part.layout); err != nil {
			return "", err
		}
	}
	return out.finish(manifests)
}

// take moves another layout's blobs here.
func (l *layout) take(from *layout) error {
	blobs, err := os.ReadDir(from.blobs())
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		if err := os.Rename(filepath.Join(from.blobs(), blob.Name()), filepath.Join(l.blobs(), blob.Name())); err != nil {
			return err
		}
	}
	return nil
}

// partsOf lists the manifests of all parts in the order in which the variant names its platforms, and after them what
// belongs to no platform, as BuildKit's exporter would have done. read gives a part's own index or manifest.
func partsOf(v Variant, parts []builtPart, read func(builtPart) (digest.Digest, []byte, error)) ([]ocispecs.Descriptor, error) {
	byPlatform := map[string]ocispecs.Descriptor{}
	var others []ocispecs.Descriptor
	for _, part := range parts {
		top, data, err := read(part)
		if err != nil {
			return nil, err
		}
		manifests, err := manifestsIn(part, top, data)
		if err != nil {
			return nil, err
		}
		for i, p := range part.platforms {
			byPlatform[platforms.FormatAll(p)] = manifests[i]
		}
		others = append(others, manifests[len(part.platforms):]...)
	}
	var all []ocispecs.Descriptor
	for _, p := range v.Platforms {
		d, ok := byPlatform[platforms.FormatAll(p)]
		if !ok {
			return nil, fault.New(fault.Internal, "%s was not built", platforms.Format(p))
		}
		all = append(all, d)
	}
	return append(all, others...), nil
}

// manifestsIn are a part's manifests. Those of its platforms come first, in their order.
func manifestsIn(part builtPart, top digest.Digest, data []byte) ([]ocispecs.Descriptor, error) {
	var index ocispecs.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fault.New(fault.Internal, "%s: %w", top, err)
	}
	manifests := index.Manifests
	if index.MediaType != ocispecs.MediaTypeImageIndex {
		p := platforms.Normalize(part.platforms[0])
		manifests = []ocispecs.Descriptor{{MediaType: index.MediaType, Digest: top, Size: int64(len(data)), Platform: &p}}
	}
	if len(manifests) < len(part.platforms) {
		return nil, fault.New(fault.Internal, "%s: %d manifests for %s", top, len(manifests), FormatPlatforms(part.platforms))
	}
	return manifests, nil
}

// indexOf is an index, byte for byte as BuildKit's exporter writes it (exporter/containerimage/writer.go): the same
// manifests have the same digest, wherever they were built.
func indexOf(manifests []ocispecs.Descriptor) ([]byte, error) {
	return json.MarshalIndent(ocispecs.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: manifests,
	}, "", "  ")
}
