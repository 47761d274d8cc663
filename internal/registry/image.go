package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/result"
)

// maxConfig is the most that is read of an image's config, in bytes. BuildKit, too, stops at 4 MiB of manifests and configs.
const maxConfig = 4 << 20

// parallelReads is how many platforms of an image are looked at at once.
const parallelReads = 4

// Image is what a registry says about an image.
type Image struct {
	Ref       string // as it was asked for
	At        string // registry/path@digest where InspectBase and ResolveBase found it; "" of others
	Digest    string // of the index, or of the manifest where there is no index
	MediaType string
	Platforms []PlatformImage
}

// PlatformImage is an image for one platform. Resolve leaves everything but Platform and Digest empty when there is an index.
type PlatformImage struct {
	Platform ocispecs.Platform // normalized
	Digest   string            // of the manifest
	Size     int64             // bytes in the registry: config and compressed layers
	Layers   []result.Layer    // from the lowest up
	DiffIDs  []string          // of the same layers, uncompressed
	Labels   map[string]string
	// Annotations are the manifest's. Unlike labels, an image that is built on this one does not inherit them.
	Annotations map[string]string
}

// Resolve asks what an image reference points to now: its digest, and the platforms that it is for.
func (c *Client) Resolve(ctx context.Context, ref string) (*Image, error) {
	img, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	result, _, err := img.resolve(ctx)
	return result, img.fail(ctx, "resolve "+ref, err)
}

// Inspect asks for the manifests and configs of an image's platforms, in the order in which they are asked for; nil means
// all that there are. A platform may be served by an image for an older variant of it, as linux/arm/v7 by one for
// linux/arm/v6, as BuildKit takes it; Platform is what was asked for then. It fails with kind NotFound when the image is
// missing, or has nothing for a platform.
func (c *Client) Inspect(ctx context.Context, ref string, wanted []ocispecs.Platform) (*Image, error) {
	img, err := c.parse(ref)
	if err != nil {
		return nil, err
	}
	return img.inspect(ctx, wanted)
}

func (i *image) inspect(ctx context.Context, wanted []ocispecs.Platform) (*Image, error) {
	result, complete, err := i.resolve(ctx)
	if err == nil {
		result.Platforms, err = choose(i.text, result.Platforms, wanted)
	}
	if err == nil && !complete {
		err = i.complete(ctx, result.Platforms)
	}
	if err != nil {
		return nil, i.fail(ctx, "inspect "+i.text, err)
	}
	return result, nil
}

// Digest asks what the registry serves under a reference now.
func (c *Client) Digest(ctx context.Context, ref string) (string, error) {
	img, err := c.parse(ref)
	if err != nil {
		return "", err
	}
	digest, err := img.digest(ctx)
	return digest, img.fail(ctx, "ask for "+ref, err)
}

func (i *image) digest(ctx context.Context) (string, error) {
	options, err := i.endpoint.remote()
	if err != nil {
		return "", err
	}
	var digest string
	err = i.endpoint.request(ctx, func(ctx context.Context) error {
		head, err := remote.Head(i.ref, append(options, remote.WithContext(ctx))...)
		if err == nil {
			digest = head.Digest.String()
		}
		return err
	})
	if err == nil || !headless(err) {
		return digest, err
	}
	manifest, err := i.manifest(ctx, i.ref.Identifier())
	if err != nil {
		return "", err
	}
	return manifest.Digest.String(), nil // of the bytes that came
}

// headless tells whether an error may be due to a registry that answers HEAD poorly: not at all, or without the
// headers that carry the digest, which go-containerregistry reports without having a type for it.
func headless(err error) bool {
	var response *transport.Error
	if errors.As(err, &response) {
		return slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented}, response.StatusCode)
	}
	return strings.Contains(err.Error(), "response did not include")
}

// manifest gets a manifest or an index by tag or digest, with its bytes. Bytes that do not have the digest asked for are an error.
func (i *image) manifest(ctx context.Context, identifier string) (*remote.Descriptor, error) {
	options, err := i.endpoint.remote()
	if err != nil {
		return nil, err
	}
	ref := i.ref
	if identifier != i.ref.Identifier() {
		ref = i.ref.Context().Digest(identifier)
	}
	var got *remote.Descriptor
	err = i.endpoint.request(ctx, func(ctx context.Context) error {
		var err error
		got, err = remote.Get(ref, append(options, remote.WithContext(ctx))...)
		return err
	})
	return got, err
}

// resolve reads what the reference points to. The second value tells that there is no more to know about its platforms.
func (i *image) resolve(ctx context.Context) (*Image, bool, error) {
	root, err := i.manifest(ctx, i.ref.Identifier())
	if err != nil {
		return nil, false, err
	}
	result := &Image{Ref: i.text, Digest: root.Digest.String(), MediaType: string(root.MediaType)}
	switch {
	case root.MediaType.IsIndex():
		var index ocispecs.Index
		if err := json.Unmarshal(root.Manifest, &index); err != nil {
			return nil, false, fmt.Errorf("its index is not valid: %w", err)
		}
		for _, m := range index.Manifests {
			// Attestations stand beside images in an index, as images for no platform.
			if m.Platform == nil || m.Platform.OS == "unknown" || !types.MediaType(m.MediaType).IsImage() {
				continue
			}
			result.Platforms = append(result.Platforms, PlatformImage{Platform: platforms.Normalize(*m.Platform), Digest: m.Digest.String()})
		}
		return result, false, nil
	case root.MediaType.IsImage():
		one := PlatformImage{Digest: result.Digest}
		config, err := i.describe(ctx, root.Manifest, &one)
		if err != nil {
			return nil, false, err
		}
		one.Platform = platforms.Normalize(config.Platform)
		result.Platforms = []PlatformImage{one}
		return result, true, nil
	default:
		return nil, false, fault.New(fault.Invalid, "image %s: it is of media type %s, which is no image", i.text, i.endpoint.quote(string(root.MediaType)))
	}
}

// complete fills in the platforms of an index.
func (i *image) complete(ctx context.Context, all []PlatformImage) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for n := range all {
		group.Go(func() error {
			manifest, err := i.manifest(ctx, all[n].Digest)
			if err != nil {
				return err
			}
			_, err = i.describe(ctx, manifest.Manifest, &all[n])
			return err
		})
	}
	return group.Wait()
}

// describe reads a manifest's bytes and the config that it names.
func (i *image) describe(ctx context.Context, data []byte, into *PlatformImage) (*ocispecs.Image, error) {
	var manifest ocispecs.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, fmt.Errorf("its manifest is not valid: %w", err)
	}
	into.Size, into.Layers = manifest.Config.Size, nil
	for _, layer := range manifest.Layers {
		into.Size += layer.Size
		into.Layers = append(into.Layers, result.Layer{Digest: layer.Digest.String(), Size: layer.Size})
	}
	blob, err := i.blob(ctx, manifest.Config.Digest.String())
	if err != nil {
		return nil, err
	}
	var config ocispecs.Image
	if err := json.Unmarshal(blob, &config); err != nil {
		return nil, fmt.Errorf("its config is not valid: %w", err)
	}
	into.Labels, into.Annotations = config.Config.Labels, manifest.Annotations
	into.DiffIDs = nil
	for _, id := range config.RootFS.DiffIDs {
		into.DiffIDs = append(into.DiffIDs, id.String())
	}
	return &config, nil
}

func (i *image) blob(ctx context.Context, digest string) ([]byte, error) {
	options, err := i.endpoint.remote()
	if err != nil {
		return nil, err
	}
	var data []byte
	err = i.endpoint.request(ctx, func(ctx context.Context) error {
		layer, err := remote.Layer(i.ref.Context().Digest(digest), append(options, remote.WithContext(ctx))...)
		if err != nil {
			return err
		}
		blob, err := layer.Compressed() // as it is in the registry; its digest is checked on the way
		if err != nil {
			return err
		}
		defer func() { _ = blob.Close() }()
		data, err = io.ReadAll(io.LimitReader(blob, maxConfig+1))
		if err == nil && len(data) > maxConfig {
			return fault.New(fault.Invalid, "image %s: its config is larger than %d bytes", i.text, maxConfig)
		}
		return err
	})
	return data, err
}

// choose picks an image for each wanted platform.
func choose(ref string, there []PlatformImage, wanted []ocispecs.Platform) ([]PlatformImage, error) {
	if wanted == nil {
		return there, nil
	}
	var chosen []PlatformImage
	var missing []string
	for _, want := range wanted {
		want = platforms.Normalize(want)
		match := platforms.Only(want)
		var best *PlatformImage
		for n := range there {
			p := there[n].Platform
			// BuildKit would also take 386 for amd64 and arm for arm64; nobody who names a platform means that.
			if p.Architecture == want.Architecture && match.Match(p) && (best == nil || match.Less(p, best.Platform)) {
				best = &there[n]
			}
		}
		if best == nil {
			missing = append(missing, platforms.Format(want))
			continue
		}
		one := *best
		one.Platform = want
		chosen = append(chosen, one)
	}
	if len(missing) > 0 {
		return nil, fault.New(fault.NotFound, "image %s has no %s; it has %s", ref, strings.Join(missing, ", "), names(there)).
			WithHint("take an image that has it, or leave the platform out")
	}
	return chosen, nil
}

func names(there []PlatformImage) string {
	if len(there) == 0 {
		return "no platform at all"
	}
	var all []string
	for _, p := range there {
		if name := platforms.Format(p.Platform); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, ", ")
}
