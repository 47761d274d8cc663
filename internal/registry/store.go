package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"imagebuilder/internal/fault"
)

// Store gives the content of images in registries to a build daemon that cannot pull them itself. It fetches a
// manifest or a blob when that is first asked for, with the client's own connections and credentials; what a daemon has
// already, or has no need of, is never fetched.
type Store struct {
	content.Store // what was fetched, verified
	client        *Client

	mu    sync.Mutex
	parts map[digest.Digest]*part
	roots []*image // whose parts are not all known yet
}

// part is a manifest or a blob of an image.
type part struct {
	image    *image
	manifest bool          // which registries have in a place of their own
	size     int64         // bytes; 0 when nobody has said it yet, as of the root of an image
	turn     chan struct{} // holds one value while it is being fetched
}

var _ content.Store = (*Store)(nil)

// NewStore makes a store that keeps what it fetches in a folder, which is the caller's to remove.
func (c *Client) NewStore(dir string) (*Store, error) {
	fetched, err := local.NewStore(dir)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "make a store for base images: %w", err)
	}
	return &Store{Store: fetched, client: c, parts: map[digest.Digest]*part{}}, nil
}

// Add lets the store serve an image, named registry/path@digest.
func (s *Store) Add(pinned string) error {
	img, err := s.client.parse(pinned)
	if err != nil {
		return err
	}
	root, err := digest.Parse(img.ref.Identifier())
	if err != nil {
		return fault.New(fault.Internal, "serve %s: it is not named by a digest", pinned)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots = append(s.roots, img)
	s.know(img, ocispecs.Descriptor{Digest: root})
	return nil
}

// know notes whose part something is. The caller has the lock.
func (s *Store) know(img *image, d ocispecs.Descriptor) {
	kind := types.MediaType(d.MediaType)
	if s.parts[d.Digest] == nil {
		s.parts[d.Digest] = &part{
			image: img, size: d.Size, turn: make(chan struct{}, 1), manifest: kind == "" || kind.IsImage() || kind.IsIndex(),
		}
	}
}

// Info tells the size of a part.
func (s *Store) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	p, err := s.find(ctx, d)
	if err != nil {
		return content.Info{}, err
	}
	if p.size > 0 {
		return content.Info{Digest: d, Size: p.size}, nil
	}
	if err := s.fetch(ctx, d, p); err != nil {
		return content.Info{}, err
	}
	return s.Store.Info(ctx, d)
}

// ReaderAt opens a part, once it has been fetched.
func (s *Store) ReaderAt(ctx context.Context, d ocispecs.Descriptor) (content.ReaderAt, error) {
	p, err := s.find(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	if err := s.fetch(ctx, d.Digest, p); err != nil {
		return nil, err
	}
	return s.Store.ReaderAt(ctx, d)
}

// find says whose part something is. A daemon that knows an image's manifests from before asks for blobs at once.
func (s *Store) find(ctx context.Context, d digest.Digest) (*part, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	for {
		s.mu.Lock()
		p := s.parts[d]
		var unread *image
		if p == nil && len(s.roots) > 0 {
			unread, s.roots = s.roots[0], s.roots[1:]
		}
		s.mu.Unlock()
		switch {
		case p != nil:
			return p, nil
		case unread == nil:
			return nil, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound)
		}
		if err := s.readAll(ctx, unread, unread.ref.Identifier()); err != nil {
			return nil, err
		}
	}
}

// readAll gets to know all the parts of an image.
func (s *Store) readAll(ctx context.Context, img *image, identifier string) error {
	got, err := img.manifest(ctx, identifier)
	if err != nil {
		return img.fail(ctx, "pull "+img.text, err)
	}
	for _, child := range s.learn(img, got.Manifest) {
		if types.MediaType(child.MediaType).IsImage() || types.MediaType(child.MediaType).IsIndex() {
			if err := s.readAll(ctx, img, child.Digest.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// learn notes the parts that a manifest names.
func (s *Store) learn(img *image, manifest []byte) []ocispecs.Descriptor {
	var names struct {
		Manifests []ocispecs.Descriptor `json:"manifests"`
		Config    *ocispecs.Descriptor  `json:"config"`
		Layers    []ocispecs.Descriptor `json:"layers"`
	}
	if json.Unmarshal(manifest, &names) != nil {
		return nil // a blob that is no manifest
	}
	all := append(names.Manifests, names.Layers...)
	if names.Config != nil {
		all = append(all, *names.Config)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range all {
		if d.Digest.Validate() == nil {
			s.know(img, d)
		}
	}
	return all
}

// fetch gets a part unless it is there.
func (s *Store) fetch(ctx context.Context, d digest.Digest, p *part) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if _, err := s.Store.Info(ctx, d); err == nil {
		return nil
	}
	var err error
	if p.manifest {
		err = s.fetchManifest(ctx, d, p)
	} else {
		err = try(ctx, temporary, func() error { return s.fetchBlob(ctx, d, p) })
	}
	return p.image.fail(ctx, "pull "+p.image.text, err)
}

func (s *Store) fetchManifest(ctx context.Context, d digest.Digest, p *part) error {
	got, err := p.image.manifest(ctx, d.String())
	if err != nil {
		return err
	}
	s.learn(p.image, got.Manifest)
	return s.save(ctx, d, int64(len(got.Manifest)), bytes.NewReader(got.Manifest))
}

func (s *Store) fetchBlob(ctx context.Context, d digest.Digest, p *part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(slowError{stallTimeout}) })
	defer stall.Stop()
	body, err := p.image.open(ctx, p.image.ref.Context().Digest(d.String()))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	err = s.save(ctx, d, p.size, &watchedReader{Reader: body, moved: func() { stall.Reset(stallTimeout) }})
	if cause := context.Cause(ctx); err != nil && errors.As(cause, new(slowError)) {
		return cause
	}
	return err
}

// save keeps a part if its bytes have the digest.
func (s *Store) save(ctx context.Context, d digest.Digest, size int64, from io.Reader) error {
	name := d.String()
	_ = s.Store.Abort(ctx, name) // what a try before has left
	return content.WriteBlob(ctx, s.Store, name, from, ocispecs.Descriptor{Digest: d, Size: size})
}

// watchedReader tells that bytes come.
type watchedReader struct {
	io.Reader
	moved func()
}

// Read reads, and tells.
func (w *watchedReader) Read(into []byte) (int, error) {
	n, err := w.Reader.Read(into)
	w.moved()
	return n, err
}
