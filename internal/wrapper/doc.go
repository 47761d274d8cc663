// Package wrapper holds the tests of the container image of image-builder and of what runs it: they make the image, load it into
// a real Docker Engine, and run scripts/image-builder-cli.sh and blueprints/docker-compose there as their users do. It has no code of its own.
package wrapper
