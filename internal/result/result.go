// Package result holds what image-builder answers: what create, plan and doctor return, and the settings
// that go with a request. It is data only, so that a host can read answers without the code that makes them.
package result

import (
	"imagebuilder/internal/fault"
	"imagebuilder/internal/secret"
)

// Result is what create returns: schemas/result.schema.json describes it for its readers.
type Result struct {
	Images []ImageResult `json:"images"` // in the order of the document
	Source SourceResult  `json:"source"`
	Engine string        `json:"engine"` // buildkit, docker or managed
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
	Bases     []BaseResult     `json:"bases,omitempty"`     // what the image, or a stage that it copies from, was built on
	Unchanged bool             `json:"unchanged,omitempty"` // nothing was built: the tag names an image of the same inputs
	Moved     []MovedBase      `json:"moved,omitempty"`     // bases that are others than under the image that the tag named before
	Times     Times            `json:"times"`
	Error     *ErrorResult     `json:"error,omitempty"`
}

// MovedBase is a base that is another image than it was.
type MovedBase struct {
	From string `json:"from"` // as the Dockerfile names it, arguments expanded
	Old  string `json:"old"`  // digest
	New  string `json:"new"`  // digest
}

// PlatformResult is one platform of a variant.
type PlatformResult struct {
	Platform string `json:"platform"` // linux/arm/v7
	Digest   string `json:"digest"`   // of the platform's manifest
	Size     int64  `json:"size"`     // bytes in the registry: config and compressed layers
	// Layers are those of the manifest, from the lowest up.
	Layers []Layer `json:"layers,omitempty"`
}

// Layer is one layer of an image as a registry has it.
type Layer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes, compressed
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
	Engine        string  `json:"engine"`          // auto, buildkit, docker or managed; default auto
	BuildKitHost  string  `json:"buildkit_host"`   // address of a BuildKit daemon, as BUILDKIT_HOST
	BuildKitCA    string  `json:"buildkit_ca"`     // PEM file: who vouches for a tcp:// daemon
	BuildKitCert  string  `json:"buildkit_cert"`   // PEM file: our certificate
	BuildKitKey   string  `json:"buildkit_key"`    // PEM file: its key
	DockerHost    string  `json:"docker_host"`     // address of a Docker Engine, as DOCKER_HOST; "" takes the docker command's
	StateDir      string  `json:"state_dir"`       // where the managed engine lives; see managed.Config
	CacheDir      string  `json:"cache_dir"`       // where git mirrors live
	IdleSeconds   float64 `json:"idle_seconds"`    // how long a managed engine is kept after its last build; 0 stops it at once
	CacheCapBytes int64   `json:"cache_cap_bytes"` // cap of the managed engine's build cache
	Force         bool    `json:"force"`           // build even what has not changed
	Parallel      int     `json:"parallel"`        // variants built at once; 0 takes the default

	Owner      string `json:"owner,omitempty"`       // whose images these are: a label of each that is built, compared before a tag is removed; "" is nobody's
	WorkFolder string `json:"work_folder,omitempty"` // where the build's temporary files go, made if it is missing; "" is the system's folder for them

	// References, unless it is nil, has what every env: and file: of the document stands for: those of the machine that the request
	// comes from. Nothing is looked up on this one.
	References secret.Table `json:"references,omitzero"`

	// LeaseFile, if set, holds the time until which the caller owns the request: Unix milliseconds as text, replaced whole at each
	// renewal. Once that time has passed, or when the file cannot be read, nothing is pushed and no tag moves any more.
	LeaseFile string `json:"lease_file,omitempty"`

	Egress *Egress `json:"egress,omitempty"` // where the plugin may connect to for this request; nil is everywhere

	Registries map[string]RegistrySettings `json:"registries,omitempty"` // by host
	Nodes      []Node                      `json:"nodes,omitempty"`      // BuildKit daemons that build the platforms they claim; the engine builds the others
}

// Egress bounds the connections that the plugin makes for a request: to git servers, registries, token services, and
// for a Dockerfile by URL. Those to the engine, which the operator has chosen, it does not bound.
type Egress struct {
	// Refuse refuses loopback, link-local, metadata, private and other special addresses, whatever name or redirect leads to
	// them, and every way of fetching a source but http and https.
	Refuse bool `json:"refuse"`
	// Allow are prefixes that may be connected to all the same, as in 10.1.0.0/16 or fd12::/16; an address alone is one.
	Allow []string `json:"allow,omitempty"`
}

// Node is a BuildKit daemon that builds what it claims.
type Node struct {
	Platforms []string `json:"platforms"`      // as linux/arm64; a plan takes the first for the node's own
	Address   string   `json:"address"`        // as BUILDKIT_HOST
	CA        string   `json:"ca,omitempty"`   // PEM file: who vouches for a tcp:// daemon
	Cert      string   `json:"cert,omitempty"` // PEM file: our certificate
	Key       string   `json:"key,omitempty"`  // PEM file: its key
}

// Pruned is what prune_cache returns.
type Pruned struct {
	Removed []string `json:"removed"` // tags of caches: registry/repository:tag
	Kept    int      `json:"kept"`    // caches of the scope that are not as old as that
}
