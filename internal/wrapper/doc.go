// Package wrapper holds the tests of the container images of image-builder and of what runs them: they make the images, load them into
// a real Docker Engine, and run scripts/image-builder-cli.sh and blueprints/docker-compose there as their users do. It has no code of its own.
package wrapper
