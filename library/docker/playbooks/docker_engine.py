"""A Docker Engine: found, or installed from the distribution's packages."""
from node_operation import Failure

# On the host: the packages that were installed by us.
RECORD = "/var/lib/image-builder/docker-engine"
PACKAGE = "docker.io"
LOCK_TIMEOUT = 300  # seconds: a new machine looks for updates by itself


def create(op):
    version = _version(op)
    if version.status == 0:
        return {"version": version.stdout.strip()}
    if not op.inputs.get("install"):
        raise Failure(f"no Docker Engine answers on {op.address}: {version.said}. Start or install it, or set the property install to true")
    op.module("ansible.builtin.apt", {"name": PACKAGE, "state": "present", "update_cache": True, "lock_timeout": LOCK_TIMEOUT})
    op.command(["sh", "-c", f"mkdir -p {RECORD.rpartition('/')[0]} && echo {PACKAGE} >{RECORD}"])
    op.module("ansible.builtin.service", {"name": "docker", "state": "started", "enabled": True})
    version = _version(op)
    if version.status != 0:
        raise Failure(f"the Docker Engine that was installed on {op.address} does not answer: {version.said}")
    return {"version": version.stdout.strip()}


def delete(op):
    if op.inputs.get("removal") != "delete":
        return {}
    if op.command(["grep", "-qx", PACKAGE, RECORD], check=False).status != 0:
        return {}  # it was there before us
    op.module("ansible.builtin.apt", {"name": PACKAGE, "state": "absent", "autoremove": True, "lock_timeout": LOCK_TIMEOUT})
    op.command(["rm", "-f", RECORD])
    return {}


def _version(op):
    return op.command(["docker", "version", "--format", "{{.Server.Version}}"], check=False)
