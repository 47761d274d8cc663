package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/service/queue"
)

func TestPluginsGetOnlyWhatTheyNeed(t *testing.T) {
	t.Parallel()
	own := []string{
		"PATH=/bin", "IMAGEBUILDER_DATABASE_PASSWORD=x", "AUTH_API_KEY=x", "OIDC_CLIENT_SECRET=x", "PGPASSWORD=x", "SSH_AUTH_SOCK=x",
		"DOCKER_AUTH_CONFIG=x", "odd", "=odd", "NO_PROXY=a=b",
	}
	require.Equal(t, []string{"DOCKER_CONFIG=/nonexistent", "PATH=/bin", "NO_PROXY=a=b"}, queue.PluginEnvironment(own))
	require.Equal(t, []string{"DOCKER_CONFIG=/nonexistent", "DOCKER_CONFIG=/for/builds"}, queue.PluginEnvironment([]string{"DOCKER_CONFIG=/for/builds"}))
	require.NotNil(t, queue.PluginEnvironment(nil), "nil is the whole environment")
}
