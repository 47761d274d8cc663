// Package buildparams is the document that says what to build: its typed form, its defaults,
// and how it is decoded, validated, masked and converted. What a field may hold is said once,
// in schemas/build_params.schema.json; this package adds only what a schema cannot say.
//
// It fetches and starts nothing.
package buildparams

import (
	"time"

	"imagebuilder/internal/secret"
)

// Document is a valid build_params with its defaults filled in.
type Document struct {
	Source  Source  `json:"source"`
	Target  Target  `json:"target"`
	Options Options `json:"options,omitzero"`
}

// Source says where the Dockerfile and its context come from: exactly one of GitRepo and Dockerfile is set.
type Source struct {
	GitRepo      *GitRepo      `json:"git_repo,omitempty"`
	Dockerfile   *Dockerfile   `json:"dockerfile,omitempty"`
	BuildContext *BuildContext `json:"build_context,omitempty"` // only with Dockerfile
}

// GitRepo is a repository with code and a Dockerfile.
type GitRepo struct {
	URL        string       `json:"url"`
	Version    string       `json:"version,omitempty"` // branch, tag, commit or HEAD; default HEAD
	Username   string       `json:"username,omitempty"`
	Password   secret.Value `json:"password,omitzero"`
	Dockerfile string       `json:"dockerfile,omitempty"` // from the repository's root; default Dockerfile
	Workdir    string       `json:"workdir,omitempty"`    // the context, from the repository's root; default "."
}

// Dockerfile is a Dockerfile by http(s) or file URL.
type Dockerfile struct {
	URL      string       `json:"url"`
	Username string       `json:"username,omitempty"`
	Password secret.Value `json:"password,omitzero"`
}

// BuildContext is what a Dockerfile by URL is built on: a git repository (URL) or a local folder (Path).
type BuildContext struct {
	URL      string       `json:"url,omitempty"`
	Path     string       `json:"path,omitempty"`
	Version  string       `json:"version,omitempty"` // default HEAD
	Username string       `json:"username,omitempty"`
	Password secret.Value `json:"password,omitzero"`
	Subdir   string       `json:"subdir,omitempty"` // where the build runs; default "."
}

// Target says where images go.
type Target struct {
	Registry Registry `json:"registry"`
	Images   []Image  `json:"images"`
}

// Registry is the registry that all images of a document are pushed to.
type Registry struct {
	URL      string       `json:"url"` // host, host:port, URL, or docker.io
	Username string       `json:"username,omitempty"`
	Password secret.Value `json:"password,omitzero"`
	Insecure bool         `json:"insecure,omitempty"` // plain http, or a certificate that nobody vouches for
	CACert   string       `json:"ca_cert,omitempty"`  // PEM, or "file:PATH"
}

// Image is one variant.
type Image struct {
	Image     string            `json:"image"` // repository path inside the registry
	Tag       string            `json:"tag"`
	Base      string            `json:"base,omitempty"`      // put under the base that the first FROM names
	Bases     map[string]string `json:"bases,omitempty"`     // base as the Dockerfile names it → what is put there
	Platforms []string          `json:"platforms,omitempty"` // normalized; default linux/amd64
	BuildArgs map[string]string `json:"build_args,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Stage     string            `json:"stage,omitempty"` // stage to build; default the last
}

// Options hold for all variants; a variant's own build_args and labels win.
type Options struct {
	BuildArgs map[string]string       `json:"build_args,omitempty"`
	Labels    map[string]string       `json:"labels,omitempty"`
	Secrets   map[string]secret.Value `json:"secrets,omitempty"` // id → value, for RUN --mount=type=secret
	NoCache   bool                    `json:"no_cache,omitempty"`
	Timeout   Duration                `json:"timeout,omitempty"` // of the whole request; 0 is none

	Compression      string `json:"compression,omitempty"`       // gzip or zstd; default gzip
	CompressionLevel int    `json:"compression_level,omitempty"` // 0 leaves it to the engine
	SourceDateEpoch  Epoch  `json:"source_date_epoch,omitempty"`
	Cache            *Cache `json:"cache,omitempty"`
}

// Cache is a build cache in a registry.
type Cache struct {
	Mode  string `json:"mode"`            // CacheRegistry, CacheInline or CacheOff
	Ref   string `json:"ref,omitempty"`   // repository; default that of the image
	Scope string `json:"scope,omitempty"` // default the version of the source
}

// Modes of a cache.
const (
	CacheRegistry = "registry"
	CacheInline   = "inline"
	CacheOff      = "off"
)

// Epoch is a time as SOURCE_DATE_EPOCH stands for, or "commit"; "" is none.
type Epoch string

// EpochCommit takes the time of the source's commit.
const EpochCommit Epoch = "commit"

// Duration is a time.Duration that stands in documents as Go writes it, as in "90s" or "1h30m".
type Duration time.Duration
