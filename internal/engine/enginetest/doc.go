// Package enginetest builds the same documents with every engine and compares what comes out, and reaches Docker Engines in every way
// that the docker command knows. It is a test only, behind the build tag "engines": it needs root, and the Docker Engines of
// scripts/engines.sh. `make test-engines` runs all of it; `make test` runs it with -short, which is fewer Engines and documents.
package enginetest
