//go:build blueprints

package openstack_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestInstalledEngine has an Engine installed where there is none. Only the deployment that installed it removes it, when it is asked to,
// with what came along and nothing else.
func TestInstalledEngine(t *testing.T) {
	inTurn(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		p.inputs["image"] = "debian-12"
		p.fails(t, []string{"engine: no Docker Engine answers on 10.79.0."}, "deploy")
		address := p.outputs(t)["address"]
		packages := func() []string {
			return strings.Split(onServer(t, address, "dpkg-query", "--show", "--showformat", `'${db:Status-Abbrev} ${Package}\n'`, "|", "grep", "^ii"), "\n")
		}
		engine := func() *project {
			one := newProject(t, version, "engine.yaml")
			one.inputs["address"], one.inputs["identity_file"] = address, identity
			return one
		}
		// Of no use to anything, as Debian sees it, and not ours.
		onServer(t, address, "sudo", "apt-mark", "auto", "procps")
		before := packages()
		require.Contains(t, before, "ii  procps")

		ours, other := engine(), engine()
		ours.does(t, "deploy")
		installed := packages()
		require.Contains(t, installed, "ii  docker.io")
		require.Contains(t, installed, "ii  runc")
		require.Zero(t, ours.redeploy(t))

		other.does(t, "deploy")
		other.undeploy(t)
		require.Equal(t, installed, packages())

		// What is there and does not answer is not ours to start.
		onServer(t, address, "sudo", "systemctl", "stop", "docker.socket", "docker")
		other.fails(t, []string{"engine: docker.io is installed on " + address + ", but no Docker Engine answers", "Start it"}, "deploy", "--clean-state", "--force")
		other.undeploy(t)
		ours.does(t, "deploy", "--clean-state", "--force")
		require.Contains(t, onServer(t, address, "sudo", "docker", "version"), "Server:")

		ours.undeploy(t)
		left := packages()
		require.Subset(t, left, before)
		for _, gone := range []string{"docker.io", "containerd", "runc", "git"} { // what something suggests, as perl, Debian keeps
			require.NotContains(t, left, "ii  "+gone)
		}
		p.undeploy(t)
		p.leavesNothing(t)
	})
}
