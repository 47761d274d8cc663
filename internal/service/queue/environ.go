package queue

import (
	"slices"
	"strings"
)

const (
	dockerConfig = "DOCKER_CONFIG"
	// noDockerConfig is a folder that is not there, as of users without a home.
	noDockerConfig = "/nonexistent"
)

// pluginNames are the variables of the service's environment that a plugin gets. Everything else stays here: the service's own
// secrets are in it, under names that an operator may choose, and a plugin works for strangers.
func pluginNames() []string {
	return []string{
		"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ",
		"XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", // where the managed engine and mirrors live
		"SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"DOCKER_HOST", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", dockerConfig,
		"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "GOCOVERDIR",
	}
}

// PluginEnvironment is the environment of a plugin, made of this process's. The credentials of a Docker configuration are for builds
// of strangers only if the operator says so by DOCKER_CONFIG: what somebody has logged in to in the service's home is not.
func PluginEnvironment(own []string) []string {
	names := pluginNames()
	kept := []string{dockerConfig + "=" + noDockerConfig} // a later entry of the same name wins
	for _, entry := range own {
		if name, _, ok := strings.Cut(entry, "="); ok && slices.Contains(names, name) {
			kept = append(kept, entry)
		}
	}
	return kept
}
