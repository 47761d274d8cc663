// Package enginetest builds the same documents with every engine and compares what comes out. It is a test only, behind the
// build tag "engines": it needs root, and the Docker Engines of scripts/engines.sh. `make test-engines` runs it.
package enginetest
