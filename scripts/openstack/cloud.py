"""What the tests' OpenStack is furnished with, and what is in it. Runs inside, with Debian's own SDK.

cloud.py identity   the projects, users and services
cloud.py seed       waits for the agents; an empty cloud with images, flavours and the network `provider`
cloud.py list       a line for each thing that somebody has made: KIND PROJECT NAME ID
"""

import os
import sys
import time

import openstack

API = "10.79.1.2"
PROVIDER = "10.79.0"
PRIVATE = "10.79.2"

# Networks, router and key pair that are always there.
OURS = ("provider", "private", "tests")

# Which file system an image stands for is in server.sh; what is stored in glance is nothing.
IMAGES = ("debian-12", "debian-12-docker")

FLAVORS = {
    # name: memory in MB, extra specifications. Nothing is limited by them but by what bed:docker_mb says: the size of /var/lib/docker.
    "m1.tiny": (256, {}),
    "m1.small": (1024, {}),
    "m1.full": (256, {"bed:docker_mb": "300"}),
    "m1.bare": (256, {"bed:docker_mb": "0"}),  # a volume may be mounted there
    "m1.nowhere": (256, {"resources:CUSTOM_FOO": "1"}),  # no host has that
}


def identity(cloud):
    """Makes the projects, users and services, where they are not there yet."""
    keystone = cloud.identity
    with open("/bed/state/password", encoding="ascii") as file:
        password = file.read().strip()
    roles = {role.name: role for role in keystone.roles()}
    for project_name, user_name, role_name in (("service", "service", "service"), ("demo", "demo", "member")):
        project = keystone.find_project(project_name) or keystone.create_project(name=project_name, domain_id="default")
        user = keystone.find_user(user_name) or keystone.create_user(
            name=user_name, password=password, domain_id="default", default_project_id=project.id
        )
        role = roles.get(role_name) or keystone.create_role(name=role_name)
        keystone.assign_project_role_to_user(project, user, role)
    for kind, name, port, path in (
        ("image", "glance", 9292, ""),
        ("placement", "placement", 8778, ""),
        ("network", "neutron", 9696, ""),
        ("compute", "nova", 8774, "/v2.1"),
        ("volumev3", "cinder", 8776, "/v3/%(project_id)s"),
    ):
        service = keystone.find_service(name) or keystone.create_service(type=kind, name=name)
        have = {endpoint.interface for endpoint in keystone.endpoints(service_id=service.id)}
        for interface in {"public", "internal", "admin"} - have:
            keystone.create_endpoint(service_id=service.id, interface=interface, region_id="RegionOne", url=f"http://{API}:{port}{path}")


def seed(cloud):
    """Furnishes the cloud, and removes what an earlier run has left in its database: its servers are no more."""
    agents_are_up(cloud)
    empty(cloud)
    images_and_flavors(cloud)
    networks(cloud)
    keypair()


def images_and_flavors(cloud):
    """Makes the images and flavours, where they are not there yet."""
    for name, (memory, extra) in FLAVORS.items():
        if not cloud.compute.find_flavor(name):
            flavor = cloud.compute.create_flavor(name=name, ram=memory, vcpus=1, disk=1)
            if extra:
                cloud.compute.create_flavor_extra_specs(flavor, extra)
    for name in IMAGES:
        if not cloud.image.find_image(name):
            cloud.create_image(
                name, filename="/scripts/README.md", disk_format="raw", container_format="bare", visibility="public", wait=True
            )


def networks(cloud):
    """Makes the networks: `provider` is reached from this machine and is where floating addresses are of; `private` is the project
    demo's, behind a router."""
    neutron = cloud.network
    provider = neutron.find_network("provider")
    if not provider:
        provider = neutron.create_network(
            name="provider", shared=True, is_router_external=True, provider_network_type="flat", provider_physical_network="provider"
        )
        neutron.create_subnet(
            name="provider", network_id=provider.id, ip_version=4, cidr=f"{PROVIDER}.0/24", gateway_ip=f"{PROVIDER}.1", enable_dhcp=False,
            allocation_pools=[{"start": f"{PROVIDER}.100", "end": f"{PROVIDER}.199"}],
        )
    if not neutron.find_network("private"):
        demo = cloud.identity.find_project("demo").id
        private = neutron.create_network(name="private", project_id=demo)
        subnet = neutron.create_subnet(
            name="private", project_id=demo, network_id=private.id, ip_version=4, cidr=f"{PRIVATE}.0/24", enable_dhcp=False
        )
        router = neutron.create_router(name="private", project_id=demo, external_gateway_info={"network_id": provider.id})
        neutron.add_interface_to_router(router, subnet_id=subnet.id)


def keypair():
    """Makes the key pair `tests` of the user demo, whose private key is state/key."""
    with open("/bed/state/key.pub", encoding="ascii") as file:
        public = file.read()
    demo = openstack.connect(cloud="demo").compute
    if not demo.find_keypair("tests"):
        demo.create_keypair(name="tests", public_key=public)


def agents_are_up(cloud):
    """Waits for the agents of nova, neutron and cinder."""
    end = time.monotonic() + 120
    while True:
        up = {s.binary for s in cloud.compute.services() if s.state == "up"} | {a.binary for a in cloud.network.agents() if a.is_alive}
        up |= {s["binary"] for s in cloud.block_storage.get("/os-services").json().get("services", []) if s["state"] == "up"}
        missing = {
            "nova-compute", "nova-scheduler", "nova-conductor", "neutron-linuxbridge-agent", "neutron-l3-agent", "cinder-scheduler", "cinder-volume"
        } - up
        if not missing:
            return
        if time.monotonic() > end:
            sys.exit(f"not up: {', '.join(sorted(missing))}")
        time.sleep(0.5)


def things(cloud):
    """All that somebody has made, as tuples of kind, project, name and id; servers first, as they hold the rest. A port without a
    name, and a floating address, have that of the server they are of; a keypair has its user for a project, and for an id."""
    projects = {project.id: project.name for project in cloud.identity.projects()}
    names = {}

    def of(kind, project, name, identifier):
        return kind, projects.get(project) or project or "-", name or "-", identifier

    for server in cloud.compute.servers(all_projects=True):
        names[server.id] = server.name
        yield of("server", server.project_id, server.name, server.id)
    ports = list(cloud.network.ports())
    names.update({port.id: names.get(port.device_id) for port in ports})
    for volume in cloud.block_storage.volumes(all_projects=True):
        yield of("volume", volume.project_id, volume.name, volume.id)
    for address in cloud.network.ips():
        yield of("floating-ip", address.project_id, names.get(address.port_id) or address.floating_ip_address, address.id)
    for router in cloud.network.routers():
        if router.name not in OURS:
            yield of("router", router.project_id, router.name, router.id)
    for port in ports:
        # Those of routers and of floating addresses go with them.
        if not port.device_owner.startswith("network:"):
            yield of("port", port.project_id, port.name or names[port.id] or port.device_id, port.id)
    for network in cloud.network.networks():
        if network.name not in OURS:
            yield of("network", network.project_id, network.name, network.id)
    for group in cloud.network.security_groups():
        # Each project has one of this name, and it cannot be done away with.
        if group.name != "default":
            yield of("security-group", group.project_id, group.name, group.id)
    for user in cloud.identity.users():
        answer = cloud.compute.get(f"/os-keypairs?user_id={user.id}", microversion="2.10")
        for entry in answer.json().get("keypairs", []):
            if entry["keypair"]["name"] not in OURS:
                yield "keypair", user.name, entry["keypair"]["name"], user.id


def empty(cloud):
    """Removes everything that things tells."""
    found = list(things(cloud))
    servers = [thing[3] for thing in found if thing[0] == "server"]
    for identifier in servers:
        cloud.compute.delete_server(identifier, force=False)
    end = time.monotonic() + 60
    while servers and any(True for _ in cloud.compute.servers(all_projects=True)):
        if time.monotonic() > end:
            sys.exit("servers of an earlier run cannot be deleted")
        time.sleep(0.5)
    for kind, _, name, identifier in found:
        if kind == "volume":
            cloud.block_storage.post(f"/volumes/{identifier}/action", json={"os-force_delete": {}})
        elif kind == "floating-ip":
            cloud.network.delete_ip(identifier)
        elif kind == "router":
            for port in cloud.network.ports(device_id=identifier, device_owner="network:router_interface"):
                cloud.network.remove_interface_from_router(identifier, port_id=port.id)
            cloud.network.delete_router(identifier)
        elif kind == "port":
            cloud.network.delete_port(identifier)
        elif kind == "network":
            cloud.network.delete_network(identifier)
        elif kind == "security-group":
            cloud.network.delete_security_group(identifier)
        elif kind == "keypair":
            cloud.compute.delete(f"/os-keypairs/{name}?user_id={identifier}", microversion="2.10")


def main():
    commands = {"identity": identity, "seed": seed}
    cloud = openstack.connect(cloud="admin")
    if sys.argv[1:] == ["list"]:
        for thing in things(cloud):
            print(*thing, sep="\t")
    elif len(sys.argv) == 2 and sys.argv[1] in commands:
        commands[sys.argv[1]](cloud)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    os.environ.setdefault("OS_CLIENT_CONFIG_FILE", "/bed/clouds.yaml")
    main()
