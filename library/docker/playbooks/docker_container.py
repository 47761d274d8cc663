"""Containers, and the images that they are of.

An image that we bring to the host gets a tag of ours besides its own. So what was there before is known from what was not, and
undeploy takes an image back when no container uses it any more.
"""
import hashlib
import io
import json
import re
import tarfile
import time

from node_operation import Failure, path_of, reference

# Label with the digest of all settings that a container was made with.
SETTINGS = "imagebuilder.settings"
# Where secrets are in a container.
SECRETS = "run/secrets"
# How often the state of a container is asked for, and how long one without a health check must run to be up, in seconds.
POLL_LOCAL, POLL_REMOTE, STEADY = 0.5, 1, 1
# So many restarts are no accident.
RESTARTS = 3
LOG_LINES = 20

# Creates a container whose environment comes from standard input, by a file that only this user can read.
CREATE = """
umask 077
file=$(mktemp) || exit 1
trap 'rm -f "$file"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$file"
docker create --env-file "$file" "$@"
"""


def create_registry(op):
    """A container of image-builder's registry image, whose settings follow from the node's."""
    i = op.inputs
    env, secrets, volumes = dict(i.get("env") or {}), dict(i.get("secrets") or {}), list(i.get("volumes") or [])
    if i.get("username"):
        env = {"REGISTRY_USER": i["username"], "REGISTRY_PASSWORD_FILE": f"/{SECRETS}/registry-password", **env}
        secrets = {"registry-password": i["password"], **secrets}
    if i.get("certificate"):
        env = {"REGISTRY_HTTP_TLS_CERTIFICATE": f"/{SECRETS}/server.crt", "REGISTRY_HTTP_TLS_KEY": f"/{SECRETS}/server.key", **env}
        secrets = {"server.crt": f"file:{i['certificate']}", "server.key": f"file:{i['certificate_key']}", **secrets}
    if i.get("volume"):
        volumes.insert(0, f"{i['volume']}:/var/lib/registry")
    op.inputs = {**i, "env": env, "secrets": secrets, "volumes": volumes}
    return create(op)


def create(op):
    wanted = _Wanted(op)
    ours = _ours(op)
    for found in _inspect(op, wanted.names):
        if found["Id"] not in ours:
            op.must_be_ours("container", found["Name"].lstrip("/"), found["Config"]["Labels"])
    image = bring_image(op, op.inputs["image"], op.inputs.get("archive") or "")
    digest = wanted.digest(image)
    by_name = {found["Name"].lstrip("/"): found for found in ours.values()}
    used = {(found["Image"], found["Config"]["Image"]) for found in ours.values()}

    for name, found in by_name.items():
        if name not in wanted.names:
            _remove(op, found)
    containers, fresh = [], []
    for name in wanted.names:
        found = by_name.get(name)
        if found and _is_as_wanted(op, found, wanted, digest):
            containers.append(found["Id"])
            continue
        if found:
            _remove(op, found)
        container = _make(op, name, wanted, digest)
        containers.append(container)
        if found or wanted.once:
            _await(op, name, container, wanted)  # the next one serves in the meantime
        else:
            fresh.append((name, container))
    for name, container in fresh:
        _await(op, name, container, wanted)
    for old, ref in used:
        if old != image:
            drop_image(op, old, ref)

    state = _inspect(op, containers[:1])[0] if containers else None
    networks = state["NetworkSettings"]["Networks"] if state else {}
    first = networks.get(wanted.networks[0]) if wanted.networks else next(iter(networks.values()), None)
    return {"container_id": containers[0] if containers else "", "image_id": image, "address": (first or {}).get("IPAddress") or ""}


def delete(op):
    used = set()
    for found in _ours(op).values():
        used.add((found["Image"], found["Config"]["Image"]))
        _remove(op, found)
    # A deployment that failed halfway may have brought the image and made no container of it.
    image = op.inspect("image", op.inputs["image"])
    if image:
        used.add((image["Id"], op.inputs["image"]))
    for old, ref in used:
        drop_image(op, old, ref)
    return {}


class _Wanted:
    """What the node's properties ask for, with what stands for something else put in place."""

    def __init__(self, op):
        i = op.inputs
        self.once, self.replicas = bool(i.get("once")), int(i.get("replicas", 1))
        self.name = i["name"]
        self.names = [self.name] if self.replicas == 1 else [f"{self.name}-{n + 1}" for n in range(self.replicas)]
        self.networks = list(i.get("networks") or [])
        self.volumes, self.options = list(i.get("volumes") or []), [str(o) for o in i.get("options") or []]
        self.ports = [_with_addresses(op, p) for p in i.get("ports") or []]
        self.command = [_with_addresses(op, c) for c in i.get("command") or []]
        given = {**(i.get("env") or {}), **(i.get("more_env") or {})}
        self.env = {name: _with_addresses(op, _referred(value)) for name, value in given.items()}
        self.stop_timeout, self.health_timeout = int(i.get("stop_timeout", 10)), int(i.get("health_timeout", 120))
        self.revision = i.get("revision") or ""
        for name, value in self.env.items():
            if "\n" in value or "=" in name or name != name.strip() or not name or name.startswith("#"):
                raise Failure(f"/env/{name}: a name without = and spaces, and a value of one line, is what an environment file takes; make it a secret")
        self.secrets = {}
        for name, value in (i.get("secrets") or {}).items():
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise Failure(f"/secrets/{name}: the name of a file is wanted, of letters, digits, _, . and -")
            self.secrets[name] = op.secret(value)

    def digest(self, image):
        """A digest of the settings that a container is made with, secrets aside."""
        everything = [image, self.name, self.once, self.networks, self.volumes, self.options, self.ports, self.command, self.env, self.stop_timeout, str(self.revision),
                      sorted(self.secrets)]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _referred(value):
    """A setting that may stand for something else, see reference; without the end of the line that a file has."""
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        return reference(value).decode("utf-8", "surrogateescape").rstrip("\n")
    return value


def _with_addresses(op, value):
    """A setting as text, in which ${ADDRESS} and ${PRIVATE_ADDRESS} are the host's."""
    text = value if isinstance(value, str) else json.dumps(value)
    if "${ADDRESS}" in text:
        text = text.replace("${ADDRESS}", op.address)
    if "${PRIVATE_ADDRESS}" in text:
        text = text.replace("${PRIVATE_ADDRESS}", op.private_address())
    return text


def _inspect(op, names):
    """The containers of these names or ids that there are."""
    if not names:
        return []
    found = op.docker("container", "inspect", *names, check=False)
    if found.status != 0 and "no such container" not in found.said.lower():
        raise Failure(f"docker container inspect: {found.said}")
    # A name may be the beginning of somebody's id.
    return [one for one in json.loads(found.stdout or "[]") if one["Name"].lstrip("/") in names or one["Id"] in names]


def _ours(op):
    """The containers that this node made, by id."""
    ids = op.docker("ps", "--all", "--no-trunc", "--quiet", "--filter", f"label={op.MARK}={op.mark}", "--filter", f"label={op.NODE}={op.inputs['node']}").lines
    return {found["Id"]: found for found in _inspect(op, ids)}


def _is_as_wanted(op, found, wanted, digest):
    state = found["State"]
    if found["Config"]["Labels"].get(SETTINGS) != digest:
        return False
    if wanted.once:
        if state["Status"] != "exited" or state["ExitCode"] != 0:
            return False
    elif state["Status"] != "running" or (state.get("Health") or {}).get("Status") not in (None, "healthy"):
        return False
    return not wanted.secrets or _secrets_in(op, found["Id"]) == wanted.secrets


def _secrets_in(op, container):
    """The secrets that a container has, as they are in it, or None."""
    archive = op.docker("cp", f"{container}:/{SECRETS}", "-", check=False, secret=True)
    if archive.status != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.bytes)) as tar:
        return {one.name.partition("/")[2]: tar.extractfile(one).read() for one in tar if one.isfile()}


def _make(op, name, wanted, digest):
    """Creates and starts a container, and gives its id. One that does not start is removed: it would be in the way of the next try."""
    argv = [*op.labels(), "--label", f"{SETTINGS}={digest}", "--name", name, "--stop-timeout", str(wanted.stop_timeout),
            "--restart", "no" if wanted.once else "unless-stopped"]
    if wanted.networks:
        argv += ["--network", wanted.networks[0], "--network-alias", wanted.name]
    argv += [f"--publish={p}" for p in wanted.ports] + [f"--volume={v}" for v in wanted.volumes] + wanted.options
    env = "".join(f"{key}={value}\n" for key, value in wanted.env.items())
    done = op.command(["sh", "-c", CREATE, "sh", *argv, op.inputs["image"], *wanted.command], stdin=env, check=False)
    if done.status != 0:
        raise Failure(f"docker create {name}: {done.said}")
    op.changed = True
    container = done.lines[-1]
    try:
        for network in wanted.networks[1:]:
            op.docker("network", "connect", "--alias", wanted.name, network, container)
        if wanted.secrets:
            _put_secrets(op, container, wanted.secrets)
        op.docker("start", container)
    except Failure as e:
        op.docker("rm", "--force", "--volumes", container, check=False)
        raise Failure(f"the container {name} does not start: {e}") from e
    return container


def _put_secrets(op, container, secrets):
    """Puts the secrets into a container that has not been started: nowhere else on the host do they touch the disk."""
    uid, gid = _owner(op, container)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        folder = tarfile.TarInfo(SECRETS)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o500
        entries = [(folder, None)]
        for name, content in secrets.items():
            file = tarfile.TarInfo(f"{SECRETS}/{name}")
            file.mode, file.size = 0o400, len(content)
            entries.append((file, io.BytesIO(content)))
        for entry, content in entries:
            entry.uid, entry.gid, entry.mtime = uid, gid, int(time.time())
            tar.addfile(entry, content)
    op.docker("cp", "-", f"{container}:/", stdin=data.getvalue(), secret=True)


def _owner(op, container):
    """The numbers of the user and group that a container runs as."""
    user, _, group = _inspect(op, [container])[0]["Config"]["User"].partition(":")
    user = user or "0"
    if user.isdigit() and (group.isdigit() or user == "0"):
        return int(user), int(group or 0)
    for line in _file_of(op, container, "/etc/passwd"):
        fields = line.split(":")
        if len(fields) > 3 and user in (fields[0], fields[2]):
            return int(fields[2]), int(group if group.isdigit() else fields[3])
    if user.isdigit():
        return int(user), 0
    raise Failure(f"the image runs as {user}, who is not in its /etc/passwd")


def _file_of(op, container, path):
    """The lines of a file in a container, which need not run."""
    archive = op.docker("cp", "--follow-link", f"{container}:{path}", "-", check=False)
    if archive.status != 0:
        return []
    with tarfile.open(fileobj=io.BytesIO(archive.bytes)) as tar:
        return tar.extractfile(tar.next()).read().decode("utf-8", "replace").splitlines()


def _await(op, name, container, wanted):
    """Returns when a container is healthy; one without a health check, when it runs; one that runs once, when it has ended well."""
    start = up = time.monotonic()
    restarts = 0
    while True:
        found = _inspect(op, [container])
        if not found:
            raise Failure(f"the container {name} is gone: somebody removed it")
        state, now = found[0]["State"], time.monotonic()
        health = (state.get("Health") or {}).get("Status")
        if found[0].get("RestartCount", 0) != restarts:
            restarts, up = found[0]["RestartCount"], now
        ended = state["Status"] in ("exited", "dead")
        code = f" with {state['ExitCode']}" if state["ExitCode"] else ""
        if wanted.once:
            if ended and state["ExitCode"] == 0:
                return
            if ended:
                raise _broken(op, name, found[0], f"ended{code}")
        elif ended or restarts >= RESTARTS or (restarts and health == "unhealthy"):
            raise _broken(op, name, found[0], f"does not stay up: it ended{code}")
        elif state["Status"] == "running" and (health == "healthy" or (health is None and now - up >= STEADY)):
            return
        elif health == "unhealthy":
            raise _broken(op, name, found[0], "is unhealthy")
        if now - start > wanted.health_timeout:
            awaited = "has not ended" if wanted.once else "is not healthy" if health else "does not run"
            raise _broken(op, name, found[0], f"{awaited} after {wanted.health_timeout} s")
        time.sleep(POLL_LOCAL if op.is_local else POLL_REMOTE)


def _broken(op, name, found, what):
    """A failure with what the container says for itself. It stays, to be looked at, until the next deploy or undeploy."""
    said = [f"the container {name} {what}"]
    error = found["State"].get("Error")
    if error:
        said.append(error)
    probes = (found["State"].get("Health") or {}).get("Log") or []
    if probes and probes[-1]["Output"].strip():
        said.append(f"its health check: {probes[-1]['Output'].strip()[-1000:]}")
    log = op.command(["sh", "-c", 'docker logs --tail "$1" "$2" 2>&1', "sh", str(LOG_LINES), found["Id"]], check=False).stdout.strip()
    said.append(f"its last lines:\n{log}" if log else "it wrote nothing")
    return Failure("; ".join(said).encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _remove(op, found):
    """Stops a container, in the time that it has for that, and removes it with the volumes that have no name."""
    op.docker("stop", found["Id"], check=False)  # it has its own --stop-timeout; one that never ran cannot be stopped
    done = op.docker("rm", "--force", "--volumes", found["Id"], check=False)
    if done.status != 0 and "no such container" not in done.said.lower():
        raise Failure(f"docker rm {found['Name'].lstrip('/')}: {done.said}")
    op.changed = True


# Images


def bring_image(op, image, archive=""):
    """Has the image on the host, and gives its id: found there, out of the archive, or pulled."""
    found = op.inspect("image", image)
    path = path_of(archive) if archive else ""
    tags, digest, config = _read_archive(path, image) if archive else ([], "", {})
    if found and (not archive or _is_image(found, digest, config)):
        # What another deployment of ours has brought is shared with it, unless that is just taking it back.
        if not _brought(found) or _is_ours(op, found, image) or op.docker("tag", found["Id"], _tag(op, found["Id"], image), check=False).status == 0:
            return found["Id"]
    elif found and not _is_ours(op, found, image):
        raise Failure(f"there is an image {image} on {op.address} that is another one than that of {path}, and this deployment did not bring it: "
                      "remove it, or give the archive's image another tag")
    if not archive:
        try:
            op.docker("pull", "--quiet", image)
        except Failure as e:
            raise Failure(f"there is no image {image} on {op.address}, and it cannot be had: {e}") from e
    else:
        # An archive may have more tags than the one that is wanted here: they stay as they are.
        others = {tag: op.inspect("image", tag) for tag in tags if tag != image}
        said = _load(op, path)
        if image not in tags:
            loaded = re.findall(r"Loaded image(?: ID)?: (\S+)", said)
            op.docker("tag", loaded[-1] if loaded else digest, image)
        for tag, before in others.items():
            op.docker(*(["tag", before["Id"], tag] if before else ["rmi", tag]), check=False)
    op.changed = True
    found = op.inspect("image", image)
    if found is None:
        raise Failure(f"{path} was loaded, and there is no image {image}")
    op.docker("tag", found["Id"], _tag(op, found["Id"], image))
    return found["Id"]


def drop_image(op, image, ref):
    """Takes an image back that this deployment brought as ref and none of its containers uses any more. What others use stays for them."""
    found = op.inspect("image", image)
    if found is None or not _is_ours(op, found, ref):
        return
    users = op.docker("ps", "--all", "--filter", f"ancestor={image}", "--format", '{{.Label "' + op.MARK + '"}} {{.Image}}').lines
    if any(user.startswith(f"{op.mark} ") for user in users):
        return
    tag = _tag(op, image, ref)
    named = op.inspect("image", ref)
    shared = [one for one in _brought(found) if one != tag and one.rpartition(":")[2] == tag.rpartition(":")[2]]
    if named and named["Id"] == image and not shared and not any(user.endswith(f" {ref}") for user in users):
        op.docker("rmi", ref, check=False)
    op.docker("rmi", tag, check=False)
    op.changed = True


# Repository of the tags that say which deployment of ours has brought an image.
BROUGHT = "image-builder.invalid/"


def _tag(op, image, ref):
    """The tag that says that this deployment brought an image by that name."""
    name = hashlib.sha256(ref.encode()).hexdigest()[:8]
    return f"{BROUGHT}{hashlib.sha256(op.mark.encode()).hexdigest()[:12]}:{name}-{image.rpartition(':')[2][:12]}"


def _brought(found):
    return [tag for tag in found.get("RepoTags") or [] if tag.startswith(BROUGHT)]


def _is_ours(op, found, ref):
    return _tag(op, found["Id"], ref) in _brought(found)


def _is_image(found, digest, config):
    """Whether an image of the Engine is that of an archive. An Engine with containerd's store has another id for it."""
    if found["Id"] == digest:
        return True
    ours, theirs = config.get("config") or {}, found.get("Config") or {}
    same = all((ours.get(key) or None) == (theirs.get(key) or None) for key in ("Env", "Entrypoint", "Cmd", "Labels", "User", "WorkingDir"))
    return same and config.get("rootfs", {}).get("diff_ids") == (found.get("RootFS") or {}).get("Layers") and config.get("created") == found.get("Created")


def _read_archive(path, image):
    """The tags of an image in a docker-archive, the digest of its configuration and the configuration."""
    try:
        with tarfile.open(path) as tar:
            entries = json.load(tar.extractfile("manifest.json"))
            chosen = [e for e in entries if image in (e.get("RepoTags") or [])] or entries
            if len(chosen) != 1:
                raise Failure(f"{path} has several images and none of them is {image}")
            config = tar.extractfile(chosen[0]["Config"]).read()
            return chosen[0].get("RepoTags") or [], "sha256:" + hashlib.sha256(config).hexdigest(), json.loads(config)
    except OSError as e:
        raise Failure(f"the archive {path} cannot be read: {e.strerror or e}") from e
    except (tarfile.TarError, KeyError, ValueError, TypeError, AttributeError, EOFError) as e:
        raise Failure(f"{path} is no docker-archive, as docker save and `make images` write them: {e}") from e


def _load(op, path):
    if op.is_local:
        return op.docker("load", "--input", path).stdout
    folder = op.command(["mktemp", "-d"], sudo=False).stdout.strip()
    try:
        op.put(path, f"{folder}/image.tar")
        return op.docker("load", "--input", f"{folder}/image.tar").stdout
    finally:
        op.command(["rm", "-rf", folder], check=False)
