// Package wrapper holds the tests of scripts/image-builder-cli.sh: they make the container image of image-builder, load it into
// a real Docker Engine, and run the script there as its users do. It has no code of its own.
package wrapper
