package registry

import (
	"context"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"imagebuilder/internal/fault"
)

// Manifest reads the manifest or index that registry/path@digest names, byte for byte.
func (c *Client) Manifest(ctx context.Context, ref string) ([]byte, error) {
	img, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	if _, ok := img.ref.(name.Digest); !ok {
		return nil, fault.New(fault.Internal, "read %s: it is not named by a digest", ref)
	}
	got, err := img.manifest(asPush(ctx), img.ref.Identifier()) // in the session of the push that follows
	if err != nil {
		return nil, img.fail(ctx, "read "+ref, err)
	}
	return got.Manifest, nil
}

// PutManifest writes a manifest or an index to a repository, named registry/path, under its digest; no tag is made or moved. What
// it names has to be there.
func (c *Client) PutManifest(ctx context.Context, repository, mediaType string, data []byte) error {
	img, err := c.parseRepository(repository)
	if err != nil {
		return err
	}
	ref := img.ref.Context().Digest(digest.FromBytes(data).String())
	err = img.put(asPush(ctx), ref, rawManifest{data: data, mediaType: types.MediaType(mediaType)})
	return img.fail(ctx, "push "+ref.String(), err)
}
