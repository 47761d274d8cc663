// Package result holds what image-builder answers: what create, plan and doctor return, and the settings
// that go with a request. It is data only, so that a host can read answers without the code that makes them.
package result

import "imagebuilder/internal/fault"

// Result is what create returns: schemas/result.schema.json describes it for its readers.
type Result struct {
	Images []ImageResult `json:"images"` // in the order of the document
	Source SourceResult  `json:"source"`
	Engine string        `json:"engine"` // buildkit or managed
	Times  Times         `json:"times"`  // of the whole request
}

// SourceResult says what was built.
type SourceResult struct {
	URL    string `json:"url,omitempty"`    // of the repository or the Dockerfile, without credentials
	Commit string `json:"commit,omitempty"` // full id; absent when no repository is involved
}

// ImageResult is one variant.
type ImageResult struct {
	Ref       string           `json:"ref"`                  // registry/repository:tag
	Digest    string           `json:"digest,omitempty"`     // of the manifest, or of the index when multi-platform; absent when it failed
	PinnedRef string           `json:"pinned_ref,omitempty"` // registry/repository@digest
	Platforms []PlatformResult `json:"platforms,omitempty"`
	Bases     []BaseResult     `json:"bases,omitempty"` // what the image, or a stage that it copies from, was built on
	Times     Times            `json:"times"`
	Error     *ErrorResult     `json:"error,omitempty"`
}

// PlatformResult is one platform of a variant.
type PlatformResult struct {
	Platform string `json:"platform"` // linux/arm/v7
	Digest   string `json:"digest"`   // of the platform's manifest
	Size     int64  `json:"size"`     // bytes in the registry: config and compressed layers
}

// BaseResult is one base image.
type BaseResult struct {
	From   string `json:"from"`             // as the Dockerfile names it, arguments expanded
	Ref    string `json:"ref"`              // what was used
	Digest string `json:"digest,omitempty"` // of the index, or of the manifest where there is no index
}

// Times are seconds of wall time per phase.
type Times struct {
	Fetch float64 `json:"fetch,omitempty"`
	Build float64 `json:"build"`
	Push  float64 `json:"push"`
	Total float64 `json:"total"`
}

// ErrorResult is why a variant failed.
type ErrorResult struct {
	Kind    fault.Kind `json:"kind"`
	Message string     `json:"message"`
	Hint    string     `json:"hint,omitempty"`
}

// Settings say how to build, apart from what: they come from flags, environment and configuration.
type Settings struct {
	Engine        string  `json:"engine"`          // auto, buildkit or managed; default auto
	BuildKitHost  string  `json:"buildkit_host"`   // address of a BuildKit daemon, as BUILDKIT_HOST
	BuildKitCA    string  `json:"buildkit_ca"`     // PEM file: who vouches for a tcp:// daemon
	BuildKitCert  string  `json:"buildkit_cert"`   // PEM file: our certificate
	BuildKitKey   string  `json:"buildkit_key"`    // PEM file: its key
	StateDir      string  `json:"state_dir"`       // where the managed engine lives; see managed.Config
	CacheDir      string  `json:"cache_dir"`       // where git mirrors live
	IdleSeconds   float64 `json:"idle_seconds"`    // how long a managed engine is kept after its last build; 0 stops it at once
	CacheCapBytes int64   `json:"cache_cap_bytes"` // cap of the managed engine's build cache
	Parallel      int     `json:"parallel"`        // variants built at once; 0 takes the default
}
