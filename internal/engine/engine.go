// Package engine builds images through BuildKit and pushes them by digest.
//
// It is given everything that a build needs as values: a file system, the Dockerfile's bytes, the
// base images that go under it. It knows nothing of documents, git or tags: a tag is moved by the
// caller, once what was pushed has been looked at.
package engine

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/event"
)

// Engine builds images.
type Engine interface {
	// Name is what the user calls it: buildkit or managed.
	Name() string
	// Platform is what a stage with --platform=$BUILDPLATFORM runs on.
	Platform() ocispecs.Platform
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
}

// Variant is one image.
type Variant struct {
	Name       string // as messages call it
	Repository string // registry/path that it is pushed to, without tag
	Platforms  []ocispecs.Platform
	Overrides  []Override
	BuildArgs  map[string]string
	Labels     map[string]string
	Stage      string // target stage; "" is the last
	NoCache    bool
	Insecure   bool // push by plain http, or to a certificate that nobody vouches for
	// Layout, if set, is an empty folder: the image is written there as an OCI layout and not pushed.
	Layout string
}

// Override puts another image in the place of one that the Dockerfile names.
type Override struct {
	Key string // named context's key, as package dockerfile computes it
	Ref string // pinned: name@digest
}

// Image is what became of a variant.
type Image struct {
	Digest digest.Digest // of the index, or of the manifest when there is one platform
	// Sources are the images that the daemon reports to have used, pinned, as
	// docker.io/library/alpine:3.19@sha256:…
	Sources []string
	Build   time.Duration
	Push    time.Duration
}
