// Package load measures how much the service takes: submissions and looks at a status at a fixed rate, whatever the answers do,
// the wait of a build on an idle worker, and many followers of one log. `make soak` runs it; docs/reliability.md has the figures.
// It tests that every request is answered as it should be, and reports times without judging them.
package load
