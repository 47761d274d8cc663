// Package engine builds images through BuildKit and pushes them by digest.
//
// It is given everything that a build needs as values: a file system, the Dockerfile's bytes, the
// base images that go under it. It knows nothing of documents, git or tags: a tag is moved by the
// caller, once what was pushed has been looked at.
package engine

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/event"
)

// Engine builds images.
type Engine interface {
	// Name is what the user calls it: buildkit, docker or managed.
	Name() string
	// Platform is what a stage with --platform=$BUILDPLATFORM runs on in a build for the target platform.
	Platform(target ocispecs.Platform) ocispecs.Platform
	// Pushes tells whether the engine can push. If not, every variant needs a Layout.
	Pushes() bool
	// Open prepares the builds of one source.
	Open(ctx context.Context, src Source) (Session, error)
	// Close lets go of the engine.
	Close() error
}

// Session builds variants of one source; they share one transfer of its context.
type Session interface {
	// Build builds one variant and pushes it by digest; no tag moves. Several may run at once.
	// The image is pushed whole or, as far as a reader can tell, not at all.
	Build(ctx context.Context, v Variant, emit event.Sink) (*Image, error)
	// Close ends the session and what still runs in it.
	Close() error
}

// Source is what all variants of a request are built from.
type Source struct {
	Context fsutil.FS // what COPY sees
	// ContextKey names the identity and content of Context. Two contexts never share one, or BuildKit
	// takes files of equal size and time from the other (moby/buildkit v0.33.1, found by running it).
	ContextKey string
	Dockerfile []byte
	// Dockerignore is the ignore file that goes before the context's own .dockerignore; nil if there is none.
	Dockerignore []byte
	Secrets      map[string][]byte // id → value, for RUN --mount=type=secret
	// Credentials gives user name and password for a registry host; both are empty when there are none.
	Credentials func(ctx context.Context, host string) (username, password string, err error)
	// Layers names the layers of a pinned image for a platform, from the lowest up, as its registry has them. Only an
	// engine that cannot push asks; nil, or an error, means that base layers are compressed anew.
	Layers func(ctx context.Context, ref string, p ocispecs.Platform) ([]Layer, error)
	// MayReach refuses hosts that the daemon must not be sent to for what a Dockerfile names: images, ADD of a URL or a
	// repository. nil refuses none. Where the daemon goes from there it does not know.
	MayReach func(ctx context.Context, host string) error
	// Bases has the images of overrides that the daemon does not pull itself; nil if there are none.
	Bases content.Store
}

// Layer is a layer of an image in a registry.
type Layer struct {
	DiffID digest.Digest       // of the layer, unpacked
	Blob   ocispecs.Descriptor // of what the registry has
}

// Variant is one image.
type Variant struct {
	Name       string // as messages call it
	Repository string // registry/path that it is pushed to, without tag
	Platforms  []ocispecs.Platform
	Overrides  []Override
	BuildArgs  map[string]string
	Labels     map[string]string
	// Annotations are of each platform's manifest; images that are built on this one do not inherit them.
	Annotations map[string]string
	Stage       string // target stage; "" is the last
	NoCache     bool
	Insecure    bool // push by plain http, or to a certificate that nobody vouches for

	Epoch            *time.Time // time of everything new in the image; nil leaves it to the build
	Compression      string     // of new layers: gzip or zstd; "" is gzip
	CompressionLevel int        // 0 is what suits the compression
	CacheTo          []Cache    // what cannot be written is a warning
	CacheFrom        []Cache    // what cannot be read is one, too
	// Index asks for an index where there is just one platform, too.
	Index bool
	// Layout, if set, is an empty folder: the image is written there as an OCI layout and not pushed.
	Layout string
}

// Cache is a build cache that is exported or imported, in BuildKit's terms.
type Cache struct {
	Type  string // registry or inline
	Attrs map[string]string
}

// Override puts another image in the place of one that the Dockerfile names.
type Override struct {
	Key string // named context's key, as package dockerfile computes it
	Ref string // pinned: name@digest
	// FromBases: the daemon gets it from Source.Bases, because it cannot reach its registry as we do.
	FromBases bool
	loaded    string // the name of an image of Source.Bases in an Engine's own store
}

// Image is what became of a variant.
type Image struct {
	Digest digest.Digest // of the index, or of the manifest when there is one platform
	// Sources are the images that the daemon reports to have used, pinned, as
	// docker.io/library/alpine:3.19@sha256:…
	Sources []string
	// Elsewhere are blobs that are not in the variant's Layout, each with the registry/path that has it.
	Elsewhere map[digest.Digest]string
	Build     time.Duration
	Push      time.Duration
}
