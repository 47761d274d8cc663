// Package engine builds images through BuildKit and pushes them by digest.
//
// It is given everything that a build needs as values: a file system, the Dockerfile's bytes, the
// base images that go under it. It knows nothing of documents, git or tags: a tag is moved by
// the caller, once what was pushed has been looked at.
package engine

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"imagebuilder/internal/event"
)

// Engine builds.
type Engine interface {
	// Name is what the user calls it: buildkit or managed.
	Name() string
	// Build builds all variants in one session and pushes each by digest. The outcomes stand in the
	// order of the variants; one failing variant does not stop the others. The error is for what
	// concerns all of them, as a daemon that is gone.
	Build(ctx context.Context, req Request, emit event.Sink) ([]Outcome, error)
	// Close lets go of the engine.
	Close() error
}

// Request is one source and the variants to build from it.
type Request struct {
	Context    fsutil.FS // what COPY sees
	ContextKey string    // identity and content of Context; two contexts never share one (a shared key makes BuildKit build the wrong bytes)
	Dockerfile []byte
	Secrets    map[string][]byte // id → value, for RUN --mount=type=secret
	Variants   []Variant
	Parallel   int // variants built at once

	// Credentials gives user name and password for a registry host, both empty when there are none.
	Credentials func(ctx context.Context, host string) (username, password string, err error)
	Insecure    bool // push by plain http, or to a certificate that nobody vouches for
	// LayoutDir, if set, is called once for each variant: the image is then not pushed but written to that folder as an OCI layout.
	LayoutDir func(variant int) (string, error)
}

// Variant is one image.
type Variant struct {
	Repository string // registry/path that it is pushed to, without tag
	Platforms  []ocispecs.Platform
	Overrides  []Override
	BuildArgs  map[string]string
	Labels     map[string]string
	Stage      string // target stage; "" is the last
	NoCache    bool
}

// Override puts another image in the place of one that the Dockerfile names.
type Override struct {
	Key string // named context's key, as dockerfile.ContextKey computes it
	Ref string // pinned: name@digest
}

// Outcome is what became of a variant.
type Outcome struct {
	Digest  digest.Digest   // of the index, or of the manifest when there is one platform
	Sources map[string]bool // image references with digests that the daemon reports to have used as sources
	Build   time.Duration
	Push    time.Duration
	Err     error
}
