package registry_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"imagebuilder/internal/fault"
	"imagebuilder/internal/registry"
	"imagebuilder/internal/testbed"
)

// TestDeleteTag removes one of two tags of a manifest: the other one still pulls.
func TestDeleteTag(t *testing.T) {
	t.Parallel()
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	for _, tag := range []string{"one", "two"} {
		ref, err := name.ParseReference(server.Host + "/app:" + tag)
		require.NoError(t, err)
		require.NoError(t, remote.Write(ref, image))
	}
	client, err := registry.New(registry.Config{Host: server.Host, DockerConfigDir: t.TempDir()})
	require.NoError(t, err)
	defer client.Close()
	tags, err := client.Tags(t.Context(), server.Host+"/app")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"one", "two"}, tags)
	require.NoError(t, client.DeleteTag(t.Context(), server.Host+"/app:one"))
	tags, err = client.Tags(t.Context(), server.Host+"/app")
	require.NoError(t, err)
	require.Equal(t, []string{"two"}, tags)
	_, err = client.Resolve(t.Context(), server.Host+"/app:two")
	require.NoError(t, err)
	require.Equal(t, fault.NotFound, fault.KindOf(client.DeleteTag(t.Context(), server.Host+"/app:one")))
	_, err = client.Tags(t.Context(), server.Host+"/nothing")
	require.Equal(t, fault.NotFound, fault.KindOf(err), "%v", err)
}
