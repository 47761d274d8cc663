"""Runs `image-builder lifecycle OPERATION` for a TOSCA node whose operation opera carries out by a playbook.

The operation's inputs go to its standard input as JSON, and the attributes that it answers with to opera.

It is an action, which Ansible runs in a process of its own on opera's machine, and no module:
  * Inputs are read from the file that opera wrote them to. Ansible's variables of the same names are never looked at,
    and so no input is evaluated as a template, whatever it contains and however it is called.
  * Nothing secret is a module's argument, which Ansible would write to a file, to the system's log and to results.
  * It saves the time to pack a module and to start a Python for it.
"""
import json
import os
import subprocess

import yaml
from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Inputs that are meant for this file.
OPERATION, NODE = "ib_operation", "ib_node"
# What opera adds to the inputs of an operation when notify is given a file.
NOTIFICATION = "notification"


class Failure(Exception):
    """A message for the one who deploys."""


class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        inputs = {}
        try:
            inputs.update(_inputs())
            attributes = _lifecycle(inputs, task_vars or {})
        except Exception as e:
            message = f"{inputs.get(NODE, 'image-builder')}: {e if isinstance(e, Failure) else repr(e)}"
            # Opera 0.7.0 shows no task's message, but it does show what Ansible writes to standard error.
            Display().display(message, stderr=True)
            return {**result, "failed": True, "msg": message}
        stats = {"data": attributes, "per_host": False, "aggregate": False}
        return {**result, "changed": True, "ansible_stats": stats}


def _inputs():
    """The inputs of the operation, as opera wrote them."""
    files = [a[1:] for a in context.CLIARGS["extra_vars"] if a.startswith("@")]
    if len(files) != 1:
        raise Failure("this playbook is for operations of TOSCA nodes under opera")
    with open(files[0], encoding="utf-8") as f:
        inputs = yaml.load(f, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    if OPERATION not in inputs:
        raise Failure("opera gave this operation no inputs: before 0.7.0 it drops them on notify. "
                      "With any version, `opera deploy --clean-state --force` builds what has changed")
    return inputs


def _lifecycle(inputs, variables):
    if variables.get("ansible_host") != "localhost":
        raise Failure("images are built on opera's machine, so the public_address of the node's host must be localhost; "
                      "BUILDKIT_HOST names a builder elsewhere")
    executable = os.environ.get("IMAGE_BUILDER") or "image-builder"
    parameters = {name: value for name, value in inputs.items() if name not in (OPERATION, NODE, NOTIFICATION)}
    request = {"node": inputs[NODE], "folder": _folder(), "inputs": parameters}
    try:
        done = subprocess.run([executable, "lifecycle", inputs[OPERATION]], input=json.dumps(request), check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    except OSError as e:
        raise Failure(f"{executable}: {e.strerror}. IMAGE_BUILDER names the executable, if it is not on PATH") from e
    if done.returncode != 0:
        raise Failure(done.stderr.strip() or f"{executable} ended with {done.returncode} and said nothing")
    try:
        return json.loads(done.stdout)["attributes"]
    except (ValueError, KeyError, TypeError) as e:
        raise Failure(f"{executable} gave no attributes: it is not the one that belongs to this playbook") from e


def _folder():
    """The folder that opera was started in. Ansible is run in a temporary one."""
    try:
        with open(f"/proc/{os.getppid()}/stat", encoding="utf-8", errors="replace") as f:
            # The process of Ansible has opera as its parent. The command's name, in parentheses, may hold anything.
            opera = f.read().rpartition(")")[2].split()[1]
        return os.readlink(f"/proc/{opera}/cwd")
    except OSError:  # there is no /proc
        return os.environ.get("PWD") or os.getcwd()
