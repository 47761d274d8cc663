//go:build blueprints

package openstack_test

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

const machine = "machine.yaml"

// TestLife deploys a server with a Docker Engine and a network, deploys it again, changes it and takes it back.
func TestLife(t *testing.T) {
	inTurn(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		ssh := map[string]any{"port": 22, "from": "ssh"}
		web := map[string]any{"port": 8080, "sources": []any{"10.79.0.1/24"}}
		p.inputs["rules"] = []any{ssh, web, map[string]any{"port": 5432, "from": "ourselves"}, map[string]any{"port": 53, "protocol": "udp", "sources": []any{"2001:db8::/32"}}}
		p.does(t, "deploy")
		outputs := p.outputs(t)
		address := outputs["address"]
		require.Equal(t, address, outputs["private_address"])
		require.NotEmpty(t, outputs["docker"])
		servers := named(p.cloud.servers(t), p.name)
		require.Len(t, servers, 1)
		require.Equal(t, outputs["server_id"], servers[0].ID)
		require.Contains(t, onServer(t, address, "sudo", "docker", "network", "ls"), p.name)
		require.True(t, answers(t, address, "8080"))

		users := knownToUser(t, address)
		known, err := os.ReadFile(filepath.Join(p.folder, ".image-builder", "known_hosts"))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(known), address+" "), string(known))
		for _, file := range []string{"", "known_hosts", "hosts", filepath.Join("hosts", address+".json")} {
			info, err := os.Stat(filepath.Join(p.folder, ".image-builder", file))
			require.NoError(t, err)
			require.Zero(t, info.Mode().Perm()&0o077, file)
		}

		require.Zero(t, p.redeploy(t))
		require.Equal(t, outputs, p.outputs(t))
		if version.Version == "0.7.0" {
			said := p.does(t, "update")
			require.NotContains(t, said, "Executing", said)
		}

		// A rule that the node does not list any more goes; what somebody else has written on the server stays.
		p.cloud.do(t, "POST", "compute", "/servers/"+servers[0].ID+"/metadata", map[string]any{"metadata": map[string]string{"theirs": "1"}}, nil)
		group := named(p.cloud.groups(t), p.name)[0]
		require.Len(t, group.Rules, 8) // four ports, two of them by IPv4 and IPv6, and everything out
		p.inputs["rules"] = []any{ssh}
		require.Equal(t, 1, p.redeploy(t))
		require.Len(t, named(p.cloud.groups(t), p.name)[0].Rules, 4)
		require.Equal(t, "1", named(p.cloud.servers(t), p.name)[0].Metadata["theirs"])
		require.Eventually(t, func() bool { return !answers(t, address, "8080") }, patience, time.Second/2)
		require.True(t, answers(t, address, "22"))

		// Another deployment with the same names gets neither, and leaves both.
		other := p.again(t)
		other.fails(t, []string{"group: there is a security group " + p.name + " that is not of this deployment (" + group.ID + ")"}, "deploy")
		other.does(t, "undeploy", "--resume", "--force")
		require.Len(t, named(p.cloud.servers(t), p.name), 1)
		require.Len(t, named(p.cloud.groups(t), p.name), 1)

		onServer(t, address, "sudo", "sh", "-c", "'rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh'")
		p.fails(t, []string{"machine: " + address + " has another host key than the one that was learned", "remove its line"}, "deploy", "--clean-state", "--force")
		require.NoError(t, os.Truncate(filepath.Join(p.folder, ".image-builder", "known_hosts"), 0))
		require.Equal(t, 1, p.redeploy(t))

		p.undeploy(t)
		p.leavesNothing(t)
		require.Equal(t, users, knownToUser(t, address))
	})
}

// knownToUser counts what the user's own file of known hosts says about an address.
func knownToUser(t *testing.T, address string) int {
	t.Helper()
	// ssh has the folder from the system, whatever HOME says
	me, err := user.Current()
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(me.HomeDir, ".ssh", "known_hosts"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	return strings.Count(string(data), address+" ")
}

// TestFloatingAddress deploys a server in a network behind a router, and reaches it by a floating address, which is neither one that
// somebody has left unused nor left itself. There is no Engine on it, so that the deployment ends half-way.
func TestFloatingAddress(t *testing.T) {
	inTurn(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		provider := demo.list(t, "network", "/networks?name=provider", "networks")[0].ID
		spare := demo.create(t, "network", "/floatingips", "floatingip", map[string]any{"floating_network_id": provider, "description": "spare " + p.name})
		p.inputs["network"], p.inputs["floating_ip_pool"], p.inputs["image"] = "private", "provider", "debian-12"
		p.inputs["owner"] = p.name // which is a part of the description then
		ours := func() []thing {
			return slices.DeleteFunc(demo.floating(t), func(one thing) bool { return !strings.Contains(one.Description, p.name) })
		}
		p.fails(t, []string{"engine: no Docker Engine answers on 10.79.0."}, "deploy")
		outputs := p.outputs(t)
		require.True(t, strings.HasPrefix(outputs["private_address"], "10.79.2."), outputs)
		require.True(t, strings.HasPrefix(outputs["address"], "10.79.0."), outputs)
		require.Contains(t, onServer(t, outputs["address"], "ip", "-4", "addr"), outputs["private_address"])
		p.fails(t, []string{"engine: no Docker Engine answers on " + outputs["address"]}, "deploy", "--clean-state", "--force")
		require.Equal(t, outputs, p.outputs(t))
		require.Len(t, ours(), 2)

		p.undeploy(t)
		p.leavesNothing(t)
		left := ours()
		require.Len(t, left, 1)
		require.Equal(t, spare, left[0].ID)
		require.Empty(t, left[0].Port)
	})
}
