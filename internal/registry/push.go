package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"imagebuilder/internal/fault"
)

// CheckPush tells whether an image could be pushed to a repository, named registry/path. It begins an upload and takes it back, as
// nothing less tells with every registry (Docker Hub gives tokens for what it then refuses). It leaves no blob, no manifest
// and no tag; where credentials do not allow to take an upload back, the registry drops the empty upload after a while.
func (c *Client) CheckPush(ctx context.Context, repository string) error {
	img, err := c.parseRepository(repository)
	if err != nil {
		return err
	}
	err = img.endpoint.request(asPush(ctx), func(ctx context.Context) error {
		return img.beginUpload(ctx)
	})
	return img.fail(ctx, "push "+repository, err)
}

func (i *image) beginUpload(ctx context.Context) error {
	// The scheme is the endpoint's to choose; here it only makes the URL whole.
	url := "https://" + i.endpoint.host + "/v2/" + i.ref.Context().RepositoryStr() + "/blobs/uploads/"
	client := &http.Client{Transport: i.endpoint}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer discard(response)
	if err := transport.CheckError(response, http.StatusAccepted, http.StatusCreated); err != nil {
		return err
	}
	location, err := response.Request.URL.Parse(response.Header.Get("Location"))
	if err != nil || !i.endpoint.serves(location.Host) {
		return nil // nothing to take back there
	}
	if request, err = http.NewRequestWithContext(ctx, http.MethodDelete, location.String(), nil); err != nil {
		return err
	}
	// A registry that does not let an upload be taken back drops it by itself, after a while.
	if response, err := client.Do(request); err == nil {
		discard(response)
	}
	return nil
}

// Tag puts the manifest that repositoryAtDigest (registry/path@digest) names under a tag, byte for byte.
// A tag that stood on something else is moved.
func (c *Client) Tag(ctx context.Context, repositoryAtDigest, tag string) error {
	img, err := c.parse(repositoryAtDigest)
	if err != nil {
		return err
	}
	if _, ok := img.ref.(name.Digest); !ok {
		return fault.New(fault.Internal, "tag %s: it is not named by a digest", repositoryAtDigest)
	}
	ctx = asPush(ctx)
	action := "tag " + repositoryAtDigest + " as " + tag
	got, err := img.manifest(ctx, img.ref.Identifier())
	if err == nil {
		err = img.put(ctx, img.ref.Context().Tag(tag), rawManifest{data: got.Manifest, mediaType: got.MediaType})
	}
	return img.fail(ctx, action, err)
}

// put writes a manifest under a tag or a digest.
func (i *image) put(ctx context.Context, ref name.Reference, manifest rawManifest) error {
	options, err := i.endpoint.remote()
	if err != nil {
		return err
	}
	return i.endpoint.request(ctx, func(ctx context.Context) error {
		return remote.Put(ref, manifest, append(options, remote.WithContext(ctx))...)
	})
}

// rawManifest is a manifest or an index as it was found.
type rawManifest struct {
	data      []byte
	mediaType types.MediaType
}

// RawManifest gives the bytes.
func (r rawManifest) RawManifest() ([]byte, error) { return r.data, nil }

// MediaType gives what the bytes are.
func (r rawManifest) MediaType() (types.MediaType, error) { return r.mediaType, nil }

// parseRepository reads registry/path, with neither tag nor digest.
func (c *Client) parseRepository(text string) (*image, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err == nil && !reference.IsNameOnly(named) {
		err = errors.New("a repository has neither tag nor digest")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "repository %s: %w", text, err)
	}
	return c.parse(text)
}
