"""Runs `image-builder lifecycle OPERATION` for a TOSCA node whose operation opera carries out by a playbook.

The operation's inputs go to its standard input as JSON, and the attributes that it answers with to opera. When the node's host is
another machine than opera's, image-builder gets the ssh command that leads there besides, and does the rest.
"""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(__file__))
from node_operation import Failure, NodeOperation, Unreachable, folder  # noqa: E402

# Inputs that are meant for the frame and for this file, and what opera adds to them when notify is given a file.
OURS = ("operation", "node", "ssh_user", "ssh_become", "ssh_key", "notification")
# The exit code of image-builder when something did not answer, and how its error begins when that is the host.
UNAVAILABLE, NO_HOST = 75, "error: connect to "


class ActionModule(NodeOperation):
    def _prepare(self):
        if not self.is_local:  # image-builder asks for sudo itself
            self.use_ssh(self._connection, self.inputs.get("ssh_user"), self.inputs.get("ssh_key"))

    def operation(self, name):
        self.changed = True
        executable = os.environ.get("IMAGE_BUILDER") or "image-builder"
        command = [executable, "lifecycle", name, *self._where()]
        parameters = {key: value for key, value in self.inputs.items() if key not in OURS}
        request = {"node": self.inputs["node"], "folder": folder(), "inputs": parameters}
        try:
            done = subprocess.run(command, input=json.dumps(request), check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  encoding="utf-8", errors="replace")
        except OSError as e:
            raise Failure(f"{executable}: {e.strerror}. IMAGE_BUILDER names the executable, if it is not on PATH") from e
        said = done.stderr.strip()
        if done.returncode == UNAVAILABLE and said.startswith(NO_HOST):
            raise Unreachable(said)
        if done.returncode != 0:
            raise Failure(said or f"{executable} ended with {done.returncode} and said nothing")
        try:
            return json.loads(done.stdout)["attributes"]
        except (ValueError, KeyError, TypeError) as e:
            raise Failure(f"{executable} gave no attributes: it is not the one that belongs to this playbook") from e

    def _where(self):
        """The arguments that say where images are built, if it is not here."""
        if self.is_local:
            return []
        ssh = self._connection.get_option("ssh_executable")
        # As Ansible would call it: with the user's own settings for ssh, and the frame's.
        words = [os.fsdecode(word) for word in self._connection._build_command(ssh, "ssh", self.address)]
        if words[0] != ssh:
            raise Failure(f"{self.address}: images are built on a host that is logged in to with a key, and with no password")
        where = [f"--on={json.dumps(words)}"]
        return where + ["--on-sudo"] if self.inputs.get("ssh_become") else where
