"""A Docker Engine: found, or installed from the distribution's packages."""
from node_operation import Failure, Unreachable

# On the host, while an Engine of ours is there: the mark of the deployment that installed it, and the packages that were there before.
RECORD = "/var/lib/image-builder/docker-engine"
PACKAGE = "docker.io"
LOCK_TIMEOUT = 300  # seconds: a new machine looks for updates by itself


def create(op):
    version = _version(op)
    if version.status == 0:
        return {"version": version.stdout.strip()}
    if not op.inputs.get("install"):
        raise Failure(f"no Docker Engine answers on {op.address}: {version.said}. Start or install it, or set the property install to true")
    if _before(op) is None:
        packages = _packages(op)
        if PACKAGE in packages:
            raise Failure(f"{PACKAGE} is installed on {op.address}, but no Docker Engine answers: {version.said}. Start it; what others have installed is not configured")
        # Before it is installed: a connection may be lost meanwhile.
        op.command(["sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "sh", RECORD], stdin="\n".join([op.mark, *packages]))
    try:
        op.module("ansible.builtin.apt", {"name": PACKAGE, "state": "present", "update_cache": True, "lock_timeout": LOCK_TIMEOUT})
    except Unreachable:
        raise
    except Failure:
        if PACKAGE not in _packages(op):
            op.command(["rm", "-f", RECORD])
        raise
    op.module("ansible.builtin.service", {"name": "docker", "state": "started", "enabled": True})
    version = _version(op)
    if version.status != 0:
        raise Failure(f"the Docker Engine that was installed on {op.address} does not answer: {version.said}")
    return {"version": version.stdout.strip()}


def delete(op):
    if op.inputs.get("removal") != "delete":
        return {}
    before = _before(op)
    if before is None:
        return {}  # it was there before us
    _remove(op, [PACKAGE])
    # What came with it and is of no use to anything else. What was of no use before is not ours.
    unused = op.command(["apt-get", "--simulate", "autoremove"]).stdout
    came = [line.split()[1] for line in unused.splitlines() if line.startswith("Remv ")]
    _remove(op, [name for name in came if name.partition(":")[0] not in before])
    op.command(["rm", "-f", RECORD])
    return {}


def _before(op):
    """The packages that were there before this deployment installed the Engine; None if it did not."""
    record = op.command(["cat", RECORD], check=False).stdout.split()
    return record[1:] if record and record[0] == op.mark else None


def _packages(op):
    """The names of the packages that are installed on the host."""
    lines = op.command(["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"]).stdout.splitlines()
    return [line.split()[1] for line in lines if line.startswith("ii ")]


def _remove(op, packages):
    if packages:
        op.module("ansible.builtin.apt", {"name": packages, "state": "absent", "lock_timeout": LOCK_TIMEOUT})


def _version(op):
    return op.command(["docker", "version", "--format", "{{.Server.Version}}"], check=False)
