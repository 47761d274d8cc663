// Package deployment has the tests of library/docker: its node types are deployed by each version of opera, with a Docker Engine of their
// own. They take root, and the build tag blueprints.
package deployment
