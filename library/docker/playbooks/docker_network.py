"""A network of containers."""
from node_operation import Failure

# Prints the largest packet of the host's default route, in bytes.
MTU = """
device=$(ip -4 route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -n 1)
[ -z "$device" ] || ip -o link show dev "$device" | sed -n 's/.* mtu \\([0-9]*\\) .*/\\1/p'
"""
# Docker's own, whatever the host's is.
USUAL_MTU = 1500


def create(op):
    name, subnet, internal = op.inputs["name"], op.inputs.get("subnet") or "", bool(op.inputs.get("internal"))
    found = op.inspect("network", name)
    if found is None:
        options = ["--subnet", subnet] if subnet else []
        options += ["--internal"] if internal else []
        # Clouds often have less, and what a container sends in larger packets is lost.
        mtu = op.command(["sh", "-c", MTU], check=False).stdout.strip()
        if mtu.isdigit() and int(mtu) < USUAL_MTU:
            options += ["--opt", f"com.docker.network.driver.mtu={mtu}"]
        op.docker("network", "create", *op.labels(), *options, name)
        op.changed = True
        return {"network_id": op.inspect("network", name)["Id"]}
    op.must_be_ours("network", name, found.get("Labels"))
    subnets = [c.get("Subnet") for c in found["IPAM"]["Config"] or []]
    if found["Internal"] != internal or (subnet and subnet not in subnets):
        raise Failure(f"the network {name} has other settings, and containers in it: undeploy it to change them")
    return {"network_id": found["Id"]}


def delete(op):
    name = op.inputs["name"]
    found = op.inspect("network", name)
    if found is None or not op.is_ours(found.get("Labels")):
        return {}
    # What others have put into it would keep it, and has nothing to do with it once it is gone.
    for container in found.get("Containers") or {}:
        op.docker("network", "disconnect", "--force", found["Id"], container, check=False)
    op.docker("network", "rm", found["Id"])
    op.changed = True
    return {}
