//go:build blueprints

package openstack_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"imagebuilder/internal/testbed"
)

// TestFailures tries to make servers that cannot be made: opera says for each node why, and undeploy leaves nothing of them.
func TestFailures(t *testing.T) {
	onEach(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, "failures.yaml")
		p.write(t, "clouds.yaml", readFile(t, clouds)+"\n  switched-off: {auth: {auth_url: 'http://127.0.0.1:9/v3', username: demo, password: demo, project_name: demo}}\n")
		p.env = append(p.env, "OS_CLIENT_CONFIG_FILE="+filepath.Join(p.folder, "clouds.yaml"))
		p.fails(t, []string{
			"no-image: server " + p.name + "-1: Could not find image debian-none",
			"no-flavor: server " + p.name + "-2: No Flavor found for m1.none",
			"no-network: server " + p.name + "-3: ", "nowhere",
			"no-key: server " + p.name + "-4: Invalid key_name provided. (its key_name is key-none)",
			"no-host: server " + p.name + "-5: No valid host was found",
			"no-cloud: Unable to establish connection to http://127.0.0.1:9/v3", "Connection refused",
			"no-volume: there is no volume data",
			`no-port: /rules/0/port: must be a number from 2 to 65534, and is "https"`,
		}, "deploy", "--workers", "8")
		require.Len(t, named(p.cloud.servers(t), p.name), 1) // no-host, in error
		// What cannot ask the cloud cannot take back either.
		p.fails(t, []string{"no-cloud: Unable to establish connection"}, "undeploy", "--workers", "8", "--resume", "--force")
		p.leavesNothing(t)
	})
}

// TestQuota deploys as somebody who may have no servers, by variables of the environment.
func TestQuota(t *testing.T) {
	admin, err := logIn(t.Context(), clouds, "admin", "")
	require.NoError(t, err)
	name := unique()
	project := admin.create(t, "identity", "/projects", "project", map[string]any{"name": name, "domain_id": "default"})
	demos := admin.list(t, "identity", "/users?name=demo", "users")[0].ID
	member := admin.list(t, "identity", "/roles?name=member", "roles")[0].ID
	admin.do(t, http.MethodPut, "identity", "/projects/"+project+"/users/"+demos+"/roles/"+member, nil, nil)
	admin.do(t, http.MethodPut, "compute", "/os-quota-sets/"+project, map[string]any{"quota_set": map[string]any{"instances": 0}}, nil)
	poor, err := logIn(t.Context(), clouds, "demo", name)
	require.NoError(t, err)
	on(t, testbed.OpenStackOperas(t), func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		p.cloud, p.inputs["cloud"] = poor, ""
		for variable, value := range map[string]string{"AUTH_URL": poor.auth["auth_url"], "USERNAME": "demo", "PASSWORD": poor.auth["password"], "PROJECT_NAME": name,
			"USER_DOMAIN_ID": "default", "PROJECT_DOMAIN_ID": "default", "IDENTITY_API_VERSION": "3", "REGION_NAME": "RegionOne", "CLIENT_CONFIG_FILE": ""} {
			p.env = append(p.env, "OS_"+variable+"="+value)
		}
		p.fails(t, []string{"machine: server " + p.name + ": Quota exceeded for instances"}, "deploy")
		require.Len(t, named(poor.groups(t), p.name), 1)
		p.undeploy(t)
		p.leavesNothing(t)
	})
}

// TestServerIsGone deploys a server that nobody lets SSH through to; then lets it through, and goes on with what there is of it.
// Then the server is removed by hand, and what was on it is undeployed all the same.
func TestServerIsGone(t *testing.T) {
	onEach(t, func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		p.inputs["rules"], p.inputs["timeout"] = []any{}, 60
		p.fails(t, []string{"machine: no SSH to debian@10.79.0.", " within 60 s: ", "its security groups (" + p.name + ") must let port 22 in from here"}, "deploy")
		servers := named(p.cloud.servers(t), p.name)
		require.Len(t, servers, 1)

		p.inputs["rules"], p.inputs["timeout"] = []any{map[string]any{"port": 22, "from": "ssh"}}, 300
		p.does(t, "deploy", "--clean-state", "--force")
		require.Equal(t, servers[0].ID, p.outputs(t)["server_id"])
		demo.remove(t, "compute", "/servers/"+servers[0].ID)
		p.does(t, "undeploy", "--force")
		p.leavesNothing(t)
	})
}

// TestOthersThings finds a server and a group with the names of ours: they are refused, and left alone.
func TestOthersThings(t *testing.T) {
	group, server := unique(), unique()
	groupID := demo.create(t, "network", "/security-groups", "security_group", map[string]any{"name": group, "description": "Made by somebody"})
	network := demo.list(t, "network", "/networks?name=provider", "networks")[0].ID
	image := demo.list(t, "image", "/v2/images?name=debian-12", "images")[0].ID
	var flavor string
	for _, one := range demo.list(t, "compute", "/flavors", "flavors") {
		if one.Name == "m1.nowhere" { // it never runs, and would be removed if it were ours
			flavor = one.ID
		}
	}
	serverID := demo.create(t, "compute", "/servers", "server", map[string]any{"name": server, "flavorRef": flavor, "imageRef": image,
		"networks": []any{map[string]string{"uuid": network}}})
	require.Eventually(t, func() bool { return named(demo.servers(t), server)[0].Status == "ERROR" }, patience, time.Second)
	on(t, testbed.OpenStackOperas(t), func(t *testing.T, version testbed.Opera) {
		p := newProject(t, version, machine)
		p.inputs["name"] = group
		p.fails(t, []string{"group: there is a security group " + group + " that is not of this deployment (" + groupID + ")"}, "deploy")
		p.undeploy(t)

		p = newProject(t, version, "server.yaml")
		p.inputs["name"], p.inputs["flavor"] = server, "m1.nowhere"
		p.fails(t, []string{"machine: there is a server " + server + " that is not of this deployment (" + serverID + ")"}, "deploy")
		p.undeploy(t)

		require.Len(t, named(demo.servers(t), server), 1)
		require.Len(t, named(demo.groups(t), group), 1)
	})
}

// TestNextTry makes a server anew that the cloud could not make the last time.
func TestNextTry(t *testing.T) {
	t.Parallel()
	p := newProject(t, testbed.OpenStackOperas(t)[0], "server.yaml")
	p.inputs["flavor"] = "m1.nowhere"
	p.fails(t, []string{"machine: server " + p.name + ": No valid host was found"}, "deploy")
	first := named(demo.servers(t), p.name)
	require.Len(t, first, 1)
	p.fails(t, []string{"machine: server " + p.name + ": No valid host was found"}, "deploy", "--resume", "--force")
	second := named(demo.servers(t), p.name)
	require.Len(t, second, 1)
	require.NotEqual(t, first[0].ID, second[0].ID)
	p.undeploy(t)
	p.leavesNothing(t)
}
