"""The action of all nodes on a Docker host: an operation KIND.NAME is the function NAME of docker_KIND.py, with this action as its argument."""
import importlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
from node_operation import Failure, NodeOperation  # noqa: E402


class ActionModule(NodeOperation):

    # Labels of what we make: whose it is, and which node's.
    MARK, NODE = "imagebuilder.mark", "imagebuilder.node"

    def operation(self, name):
        kind, _, function = name.partition(".")
        return getattr(importlib.import_module(f"docker_{kind}"), function)(self)

    def docker(self, *argv, **options):
        """Runs the docker command on the host; see command."""
        result = self.command(["docker", *argv], **{**options, "check": False})
        if result.status == 127:
            raise Failure(f"there is no docker command on {self.address}: a DockerEngine with install: true gets it, or install Docker there")
        if result.status != 0 and options.get("check", True):
            what = " ".join(argv[:2] if argv[0] in ("network", "volume", "image", "container") else argv[:1])
            said = "" if options.get("secret") else result.said
            raise Failure(f"docker {what}: {said or f'it ended with {result.status}'}")
        return result

    def inspect(self, kind, name):
        """What the Engine knows of a container, network, volume or image, or None if there is no such thing."""
        found = self.docker(kind, "inspect", name, check=False)
        if found.status == 0:
            return json.loads(found.stdout)[0]
        if "no such" in found.said.lower() or "not found" in found.said.lower():
            return None
        raise Failure(f"docker {kind} inspect: {found.said}")

    def labels(self):
        """Arguments that put the mark on what is created."""
        return ["--label", f"{self.MARK}={self.mark}", "--label", f"{self.NODE}={self.inputs['node']}"]

    def is_ours(self, labels):
        """Whether labels say that this node of this deployment made it."""
        labels = labels or {}
        return labels.get(self.MARK) == self.mark and labels.get(self.NODE) == self.inputs["node"]

    def must_be_ours(self, kind, name, labels):
        if not self.is_ours(labels):
            raise Failure(f"there is a {kind} {name} on {self.address} that this node did not make: remove it, or take another name")
