// Package chaos holds the tests that kill the service's processes at random while it builds, and look afterwards whether anything was
// lost: API replicas, workers, plugins, the BuildKit daemon and PostgreSQL. A short one is part of the usual tests, the
// long one of `make soak`; docs/reliability.md has its figures.
package chaos
