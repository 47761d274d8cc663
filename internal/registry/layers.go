package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is a layer of an image in a registry.
type Layer struct {
	DiffID digest.Digest       // of the layer, unpacked
	Blob   ocispecs.Descriptor // of what the registry has
}

// Layers names the layers of an image for a platform, from the lowest up.
func (c *Client) Layers(ctx context.Context, ref string, p ocispecs.Platform) ([]Layer, error) {
	img, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	layers, err := img.layers(ctx, p)
	return layers, img.fail(ctx, "look up the layers of "+ref, err)
}

func (i *image) layers(ctx context.Context, p ocispecs.Platform) ([]Layer, error) {
	about, _, err := i.resolve(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(i.text, about.Platforms, []ocispecs.Platform{p})
	if err != nil {
		return nil, err
	}
	raw, err := i.manifest(ctx, chosen[0].Digest)
	if err != nil {
		return nil, err
	}
	if _, err := i.describe(ctx, raw.Manifest, &chosen[0]); err != nil {
		return nil, err
	}
	var manifest ocispecs.Manifest
	if err := json.Unmarshal(raw.Manifest, &manifest); err != nil {
		return nil, fmt.Errorf("its manifest is not valid: %w", err)
	}
	if len(manifest.Layers) != len(chosen[0].DiffIDs) {
		return nil, fmt.Errorf("its manifest has %d layers, and its config %d", len(manifest.Layers), len(chosen[0].DiffIDs))
	}
	layers := make([]Layer, len(manifest.Layers))
	for n, blob := range manifest.Layers {
		layers[n] = Layer{DiffID: digest.Digest(chosen[0].DiffIDs[n]), Blob: blob}
	}
	return layers, nil
}

// elsewhere is a blob that is not in the layout: it is taken from a repository that has it. If that is one of the same
// registry, the registry is asked to take it from its own store, and no byte comes here.
func (p *layoutPush) elsewhere(ctx context.Context, blob *layoutBlob) (v1.Layer, error) {
	from, err := p.image.endpoint.client.parse(p.from[blob.descriptor.Digest] + "@" + blob.hash.String())
	if err != nil {
		return nil, err
	}
	ref, ok := from.ref.(name.Digest)
	if !ok {
		return nil, fmt.Errorf("%s: not named by a digest", from.text)
	}
	blob.open = func() (io.ReadCloser, error) { return from.open(ctx, ref) }
	return &remote.MountableLayer{Layer: blob, Reference: ref}, nil
}

// open reads a blob from the registry.
func (i *image) open(ctx context.Context, ref name.Digest) (io.ReadCloser, error) {
	options, err := i.endpoint.remote()
	if err != nil {
		return nil, err
	}
	layer, err := remote.Layer(ref, append(options, remote.WithContext(ctx))...)
	if err != nil {
		return nil, err
	}
	return layer.Compressed() // as it is in the registry; its digest is checked on the way
}
