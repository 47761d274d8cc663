// Package schemas holds the contracts of image-builder as files: the JSON Schemas of what goes in and
// what comes out, the OpenAPI document of the REST service, and documents to start from. It only embeds them; internal/buildparams reads and
// validates documents.
package schemas

import (
	"embed"
	"io/fs"
	"slices"
)

var (
	//go:embed build_params.schema.json
	buildParams []byte
	//go:embed result.schema.json
	result []byte
	//go:embed openapi.yaml
	openAPI []byte
	// all: takes files whose name begins with a dot too, as the sample's .dockerignore.
	//go:embed all:examples
	examples embed.FS
)

// BuildParams is the JSON Schema (draft-07) of a build_params document. The bytes are the caller's own.
func BuildParams() []byte { return slices.Clone(buildParams) }

// Result is the JSON Schema (draft-07) of what a build returns. The bytes are the caller's own.
func Result() []byte { return slices.Clone(result) }

// OpenAPI is the OpenAPI document of the REST service, in YAML. The service serves it as JSON, with the schemas above put in.
// The bytes are the caller's own.
func OpenAPI() []byte { return slices.Clone(openAPI) }

// Examples are the documents and the sample repository that come with image-builder:
//
//	annotated/NAME.yaml  what "image-builder example NAME" prints; the first line is a comment that says what it shows
//	json/NAME.json       documents without comments
//	yaml/NAME.yaml       the same documents in YAML
//	sample-repo/         a small repository with a Dockerfile, to be served to a build
func Examples() fs.FS {
	sub, err := fs.Sub(examples, "examples")
	if err != nil {
		panic(err) // the folder is embedded above: it is missing only if this file is wrong
	}
	return sub
}
