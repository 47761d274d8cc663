package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout writes an OCI layout. What it writes has the bytes that BuildKit's exporter would give it, so that equal
// layers make equal digests, whatever engine built them.
type layout struct {
	dir   string
	index bool // an index where there is just one platform, too
	// annotations are those of every platform's manifest.
	annotations map[string]string
}

func (l *layout) blobs() string {
	return filepath.Join(l.dir, ocispecs.ImageBlobsDir, string(digest.SHA256))
}

func (l *layout) path(d digest.Digest) string { return filepath.Join(l.blobs(), d.Encoded()) }

func (l *layout) create() error { return os.MkdirAll(l.blobs(), 0o700) }

// link adds a blob that another layout has.
func (l *layout) link(d digest.Digest, from string) error {
	to := l.path(d)
	if to == from {
		return nil
	}
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (l *layout) write(mediaType string, data []byte) (ocispecs.Descriptor, error) {
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, os.WriteFile(l.path(d.Digest), data, 0o600)
}

// manifest adds an image for a platform.
func (l *layout) manifest(config []byte, layers []ocispecs.Descriptor, p ocispecs.Platform) (ocispecs.Descriptor, error) {
	about, err := l.write(ocispecs.MediaTypeImageConfig, config)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	d, err := l.writeJSON(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: about, Layers: layers,
		Annotations: l.annotations,
	})
	p = platforms.Normalize(p)
	d.Platform = &p
	return d, err
}

// finish makes the layout hold one image: the manifest, or an index of several, or of one when that is wished.
func (l *layout) finish(manifests []ocispecs.Descriptor) (digest.Digest, error) {
	top := manifests[0]
	var err error
	if len(manifests) > 1 || l.index {
		top, err = l.writeJSON(ocispecs.MediaTypeImageIndex, ocispecs.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: manifests,
		})
		if err != nil {
			return "", err
		}
	}
	top.Platform = nil
	names, err := json.Marshal(ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{top}})
	if err != nil {
		return "", err
	}
	for name, data := range map[string][]byte{
		ocispecs.ImageIndexFile:  names,
		ocispecs.ImageLayoutFile: fmt.Appendf(nil, `{"imageLayoutVersion":%q}`, ocispecs.ImageLayoutVersion),
	} {
		if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o600); err != nil {
			return "", err
		}
	}
	return top.Digest, nil
}

func (l *layout) writeJSON(mediaType string, v any) (ocispecs.Descriptor, error) {
	data, err := json.MarshalIndent(v, "", "  ") // as BuildKit writes it (exporter/containerimage/writer.go)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	return l.write(mediaType, data)
}

// ociLayer is a layer of a registry as an OCI manifest names it.
func ociLayer(d ocispecs.Descriptor) ocispecs.Descriptor {
	out := ocispecs.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, URLs: d.URLs}
	switch d.MediaType {
	case images.MediaTypeDockerSchema2Layer:
		out.MediaType = ocispecs.MediaTypeImageLayer
	case images.MediaTypeDockerSchema2LayerGzip:
		out.MediaType = ocispecs.MediaTypeImageLayerGzip
	case images.MediaTypeDockerSchema2LayerZstd:
		out.MediaType = ocispecs.MediaTypeImageLayerZstd
	case images.MediaTypeDockerSchema2LayerForeign:
		out.MediaType = ocispecs.MediaTypeImageLayerNonDistributable //nolint:staticcheck // what a base has, its image keeps
	case images.MediaTypeDockerSchema2LayerForeignGzip:
		out.MediaType = ocispecs.MediaTypeImageLayerNonDistributableGzip //nolint:staticcheck // as above
	}
	return out
}
