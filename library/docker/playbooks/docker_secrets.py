"""The secrets of a service, in a folder on opera's machine. Nothing is replaced but by a rotation."""
import json
import os
import secrets
import stat

from docker_container import bring_image, drop_image
from node_operation import Failure, private_folder, write_private

FOLDER = "secrets"
# What we know of the folder: which files are ours, and the last rotation.
RECORD = ".image-builder.json"
PASSWORDS = ("database-password", "registry-password")


def create(op):
    folder = private_folder(FOLDER)
    record = _record(folder)
    rotation = str(op.inputs.get("rotation") or "")
    rotate = "rotation" in record and record["rotation"] != rotation
    made = set(record.get("made") or [])

    def path(name):
        return os.path.join(folder, name)

    def keep(name, content):
        write_private(path(name), content)
        made.add(name)
        op.changed = True

    for name in PASSWORDS:
        if not os.path.exists(path(name)):
            keep(name, secrets.token_hex(24))
    if rotate or not os.path.exists(path("identities")):
        before = _read(path("identities"))
        keep("identities", _run(op, "keygen").stdout + before)
    recipient = _recipient(_read(path("identities")))
    if _read(path("recipient")).strip() != recipient:
        keep("recipient", recipient + "\n")
    if rotate or not os.path.exists(path("api-keys")):
        done = _run(op, "key", "new", "--name", "admin", "--scope", op.inputs.get("scopes") or "builds:admin,builds:submit")
        key = [line.removeprefix("key: ") for line in done.stderr.splitlines() if line.startswith("key: ")]
        if len(key) != 1 or not done.stdout.strip():
            raise Failure(f"{op.inputs['image']} made no API key: it is no image of image-builder-api")
        keep("api-key", key[0] + "\n")
        keep("api-keys", done.stdout)
    _close(op, folder)
    if record != {"rotation": rotation, "made": sorted(made)}:
        write_private(path(RECORD), json.dumps({"rotation": rotation, "made": sorted(made)}))
    return {"recipient": recipient, "api_key_file": path("api-key")}


def delete(op):
    image = op.inspect("image", op.inputs["image"])
    if image:
        drop_image(op, image["Id"], op.inputs["image"])
    folder = private_folder(FOLDER)
    if op.inputs.get("removal") == "delete":
        for name in [*(_record(folder).get("made") or []), RECORD]:
            if os.path.exists(os.path.join(folder, name)):
                os.remove(os.path.join(folder, name))
                op.changed = True
    if not os.listdir(folder):
        os.rmdir(folder)
    return {}


def _record(folder):
    text = _read(os.path.join(folder, RECORD))
    return json.loads(text) if text else {}


def _read(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def _recipient(identities):
    """To whom to seal so that the first identity opens it."""
    for line in identities.splitlines():
        if line.startswith("# recipient: "):
            return line.removeprefix("# recipient: ").strip()
    raise Failure(f"{FOLDER}/identities does not say the recipient of its first identity, in a line that begins with '# recipient: '")


def _run(op, *argv):
    """Runs image-builder-api in a container that has no network and leaves no log. What it says are secrets."""
    image = bring_image(op, op.inputs["image"], op.inputs.get("archive") or "")
    done = op.docker("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--log-driver", "none", *op.labels(), image, *argv, check=False, secret=True)
    for line in [*done.lines, *done.stderr.splitlines()]:
        if not line.startswith("#"):
            op.conceal(line)
    if done.status != 0:
        raise Failure(f"docker run {op.inputs['image']} {argv[0]}: it ended with {done.status}: {done.stderr.strip()}")
    return done


def _close(op, folder):
    """What we made before, or the user, is for nobody else to read."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and mode & 0o077 and not name.endswith(".crt"):
            os.chmod(path, 0o600)
            op.changed = True
