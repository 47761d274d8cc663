package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"imagebuilder/internal/event"
	"imagebuilder/internal/fault"
)

const (
	// parallelUploads is how many blobs are sent at once, as docker does by default.
	parallelUploads = 5
	// stallTimeout is how long an upload may stand still. After its last byte a registry may have to move the blob to
	// its final place, which for large ones on slow storage takes minutes.
	stallTimeout = 5 * time.Minute
	// maxManifest is the most that is read of one manifest or index, in bytes: distribution's own limit.
	maxManifest = 4 << 20
	// progressStep is how many bytes pass between two reports of progress.
	progressStep = 1 << 20
)

// PushLayout pushes the one image or index that the OCI layout in a folder holds to a repository, named registry/path, by its
// digest: no tag is made or moved. What the repository has already is not sent again. It returns the digest.
func (c *Client) PushLayout(ctx context.Context, dir, repository string) (pushed string, err error) {
	return c.PushPartialLayout(ctx, dir, repository, nil)
}

// PushPartialLayout is PushLayout of a layout that lacks blobs: elsewhere names, for each of them, the registry/path that has it.
func (c *Client) PushPartialLayout(ctx context.Context, dir, repository string, elsewhere map[digest.Digest]string) (pushed string, err error) {
	img, err := c.parseRepository(repository)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fault.New(fault.Internal, "push %s: %w", repository, err)
	}
	defer func() { _ = root.Close() }()
	p := &layoutPush{image: img, files: root.FS(), from: elsewhere, seen: map[digest.Digest]bool{}}
	top, err := p.read()
	if err != nil {
		return "", fault.New(fault.Internal, "push %s: read the image in %s: %w", repository, dir, err)
	}
	p.step = "push " + repository + "@" + string(top)
	end := c.config.Emit.Begin(p.step, "push "+repository+"@"+string(top), time.Now)
	err = img.fail(ctx, "push "+repository, p.send(asPush(ctx)))
	end(err)
	if err != nil {
		return "", err
	}
	return string(top), nil
}

// layoutPush is one layout on its way.
type layoutPush struct {
	image *image
	files fs.FS
	from  map[digest.Digest]string // registry/path of blobs that are not in files
	step  string                   // of the events
	seen  map[digest.Digest]bool
	blobs []ocispecs.Descriptor
	// manifests stand in the order in which they may be put: what an index names comes before it.
	manifests []layoutManifest
}

type layoutManifest struct {
	digest digest.Digest
	raw    rawManifest
}

// read walks through the layout from its root.
func (p *layoutPush) read() (digest.Digest, error) {
	data, err := fs.ReadFile(p.files, ocispecs.ImageIndexFile)
	if err != nil {
		return "", err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("%s: %w", ocispecs.ImageIndexFile, err)
	}
	if len(index.Manifests) == 0 {
		return "", errors.New("it holds no image")
	}
	top := index.Manifests[0]
	for _, other := range index.Manifests { // several names of one image stand as several entries
		if other.Digest != top.Digest {
			return "", errors.New("it holds more than one image")
		}
	}
	return top.Digest, p.walk(top)
}

func (p *layoutPush) walk(d ocispecs.Descriptor) error {
	if p.seen[d.Digest] {
		return nil
	}
	p.seen[d.Digest] = true
	mediaType := types.MediaType(d.MediaType)
	if !mediaType.IsIndex() && !mediaType.IsImage() {
		if mediaType.IsDistributable() {
			p.blobs = append(p.blobs, d)
		}
		return nil
	}
	data, err := p.manifest(d)
	if err != nil {
		return err
	}
	var parts struct {
		Manifests []ocispecs.Descriptor `json:"manifests"`
		Config    *ocispecs.Descriptor  `json:"config"`
		Layers    []ocispecs.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	all := append(parts.Manifests, parts.Layers...)
	if parts.Config != nil {
		all = append(all, *parts.Config)
	}
	for _, part := range all {
		if err := p.walk(part); err != nil {
			return err
		}
	}
	p.manifests = append(p.manifests, layoutManifest{digest: d.Digest, raw: rawManifest{data: data, mediaType: mediaType}})
	return nil
}

// manifest reads a manifest's bytes and makes sure that they are the ones that were named.
func (p *layoutPush) manifest(d ocispecs.Descriptor) ([]byte, error) {
	file, err := p.open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxManifest:
		return nil, fmt.Errorf("%s: larger than %d bytes", d.Digest, maxManifest)
	case d.Digest.Algorithm().FromBytes(data) != d.Digest:
		return nil, fmt.Errorf("%s: its bytes have another digest", d.Digest)
	}
	return data, nil
}

func (p *layoutPush) open(d digest.Digest) (fs.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	return p.files.Open(path.Join(ocispecs.ImageBlobsDir, d.Algorithm().String(), d.Encoded()))
}

// send uploads the blobs, and then puts the manifests.
func (p *layoutPush) send(ctx context.Context) error {
	options, err := p.image.endpoint.remote()
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelUploads)
	for _, d := range p.blobs {
		group.Go(func() error { return p.upload(groupCtx, d, options) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, m := range p.manifests {
		if err := p.image.put(ctx, p.image.ref.Context().Digest(m.digest.String()), m.raw); err != nil {
			return err
		}
	}
	return nil
}

// upload sends one blob unless the repository has it, from its beginning on each try.
func (p *layoutPush) upload(ctx context.Context, d ocispecs.Descriptor, options []remote.Option) error {
	hash, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return err
	}
	report := p.report(d)
	report(0, false)
	err = try(ctx, temporaryUpload, func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stall := time.AfterFunc(stallTimeout, func() { cancel(slowError{stallTimeout}) })
		defer stall.Stop()
		blob := &layoutBlob{descriptor: d, hash: hash, moved: func(n int64) {
			stall.Reset(stallTimeout)
			report(n, false)
		}}
		layer, err := p.source(ctx, blob)
		if err != nil {
			return err
		}
		err = remote.WriteLayer(p.image.ref.Context(), layer, append(options, remote.WithContext(ctx))...)
		if cause := context.Cause(ctx); err != nil && errors.As(cause, new(slowError)) {
			return cause
		}
		return err
	})
	if err == nil {
		report(d.Size, true)
	}
	return err
}

// source opens the blob where it is.
func (p *layoutPush) source(ctx context.Context, blob *layoutBlob) (v1.Layer, error) {
	if p.from[blob.descriptor.Digest] != "" {
		return p.elsewhere(ctx, blob)
	}
	blob.open = func() (io.ReadCloser, error) { return p.open(blob.descriptor.Digest) }
	return blob, nil
}

// report tells the progress of a blob, in steps that are worth telling.
func (p *layoutPush) report(d ocispecs.Descriptor) func(current int64, done bool) {
	started := time.Now()
	told := int64(-progressStep)
	return func(current int64, done bool) {
		if !done && current-told < progressStep && current >= told {
			return
		}
		told = current
		progress := &event.Progress{
			ID: p.step + " " + d.Digest.String(), Step: p.step, Name: d.Digest.String(),
			Current: current, Total: d.Size, At: time.Now(), Started: &started,
		}
		if done {
			progress.Completed = &progress.At
		}
		p.image.endpoint.client.config.Emit(event.Event{Progress: progress})
	}
}

// layoutBlob is a blob of a layout as go-containerregistry sends one. It is not looked into.
type layoutBlob struct {
	open       func() (io.ReadCloser, error)
	descriptor ocispecs.Descriptor
	hash       v1.Hash
	moved      func(total int64)
}

var _ v1.Layer = (*layoutBlob)(nil)

// Digest is what the blob is named by.
func (b *layoutBlob) Digest() (v1.Hash, error) { return b.hash, nil }

// DiffID is not known, and nobody asks when a blob is sent.
func (b *layoutBlob) DiffID() (v1.Hash, error) {
	return v1.Hash{}, fmt.Errorf("%s: not unpacked", b.hash)
}

// Uncompressed is not to be had either.
func (b *layoutBlob) Uncompressed() (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s: not unpacked", b.hash)
}

// Size is the blob's, in bytes.
func (b *layoutBlob) Size() (int64, error) { return b.descriptor.Size, nil }

// MediaType is the blob's.
func (b *layoutBlob) MediaType() (types.MediaType, error) {
	return types.MediaType(b.descriptor.MediaType), nil
}

// Compressed opens the blob as it is, from its beginning.
func (b *layoutBlob) Compressed() (io.ReadCloser, error) {
	blob, err := b.open()
	if err != nil {
		return nil, err
	}
	return &countedBlob{ReadCloser: blob, moved: b.moved}, nil
}

// countedBlob tells how much has been read of it.
type countedBlob struct {
	io.ReadCloser
	total int64
	moved func(total int64)
}

// Read reads, and tells.
func (c *countedBlob) Read(into []byte) (int, error) {
	n, err := c.ReadCloser.Read(into)
	c.total += int64(n)
	c.moved(c.total)
	return n, err
}
