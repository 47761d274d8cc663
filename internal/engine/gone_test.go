package engine

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGone tells a daemon that is no more from trouble that it has, by words that BuildKit and gRPC have said.
func TestGone(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]bool{
		`listing workers for Build: failed to list workers: Unavailable: connection error: desc = "transport: Error while dialing: dial unix /run/buildkitd.sock: connect: no such file or directory"`: true,
		`rpc error: code = Unavailable desc = error reading from server: EOF`:                                    true,
		`failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1`:                false,
		`failed to do request: Head "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused`: false,
	} {
		require.Equal(t, want, gone(errors.New(said)), said)
	}
}
