//go:build engines

package engine_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/testbed"
)

// TestCutDockerIsNoticed: in the middle of a RUN the link to a Docker Engine at tcp:// is cut without a reset. It takes root.
func TestCutDockerIsNoticed(t *testing.T) {
	for _, name := range []string{"20.10", "29-containerd"} {
		for _, kind := range testbed.DockerKinds() {
			if kind.Name != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d, err := testbed.StartDocker(t.Context(), kind)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, d.Close()) })
				got := runBehindLinkTo(t, d.Host, "docker", "DOCKER_TLS_VERIFY=", "DOCKER_TLS=")
				require.Equal(t, fault.Unavailable, got.Kind, got.Message)
				require.Contains(t, got.Message, relayed+" went away")
				require.Less(t, got.After, noticedWithin)
				t.Logf("noticed %s after the cut", got.After)
			})
		}
	}
}
