"""A driver of nova whose servers are Debian in namespaces of this machine: nova's own fake driver, which keeps the books, and
server.sh, which makes them. services.sh puts it among nova's as nova.virt.ibos."""

import os
import subprocess

from oslo_log import log as logging

from nova import exception
from nova.virt import fake

LOG = logging.getLogger(__name__)


def server(command, instance, data="", **settings):
    """Runs server.sh COMMAND for a server; what it needs to know of it goes by the environment."""
    done = subprocess.run(
        ["/scripts/server.sh", command, instance.uuid], input=data, text=True, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **settings},
    )
    LOG.info("server.sh %s %s: %s %s", command, instance.uuid, done.returncode, done.stdout[-500:])
    if done.returncode:
        raise exception.NovaException(f"server.sh {command}: {done.stdout[-500:].strip()}")


class ServerDriver(fake.FakeDriver):
    """What server.sh can do."""

    def spawn(self, context, instance, image_meta, injected_files, admin_password, allocations, network_info=None, **kwargs):
        super().spawn(context, instance, image_meta, injected_files, admin_password, allocations, network_info=network_info, **kwargs)
        vif = network_info[0]
        subnet = next(s for s in vif["network"]["subnets"] if s["version"] == 4)
        server(
            "create", instance, data=instance.key_data or "",
            NAME=instance.hostname, IMAGE=image_meta.name, DOCKER_MB=instance.flavor.extra_specs.get("bed:docker_mb", ""),
            TAP=vif.get("devname") or "tap" + vif["id"][:11], MAC=vif["address"], BRIDGE=vif["network"]["bridge"],
            ADDRESS=subnet["ips"][0]["address"] + "/" + subnet["cidr"].split("/")[1], GATEWAY=subnet["gateway"]["address"],
        )
        server("boot", instance)

    def destroy(self, context, instance, network_info, *args, **kwargs):
        server("delete", instance)
        return super().destroy(context, instance, network_info, *args, **kwargs)

    def cleanup(self, context, instance, network_info, *args, **kwargs):
        server("delete", instance)
        return super().cleanup(context, instance, network_info, *args, **kwargs)

    def attach_volume(self, context, connection_info, instance, mountpoint, **kwargs):
        server("attach", instance, VOLUME=connection_info["serial"], FILE=connection_info["data"]["path"])
        super().attach_volume(context, connection_info, instance, mountpoint, **kwargs)

    def detach_volume(self, context, connection_info, instance, mountpoint, **kwargs):
        server("detach", instance, VOLUME=connection_info["serial"])
        super().detach_volume(context, connection_info, instance, mountpoint, **kwargs)

    def reboot(self, context, instance, network_info, reboot_type, **kwargs):
        server("halt", instance)
        server("boot", instance)
        return super().reboot(context, instance, network_info, reboot_type, **kwargs)

    def power_off(self, instance, timeout=0, retry_interval=0):
        server("halt", instance)
        return super().power_off(instance, timeout, retry_interval)

    def power_on(self, context, instance, network_info, block_device_info=None, **kwargs):
        server("boot", instance)
        return super().power_on(context, instance, network_info, block_device_info, **kwargs)
