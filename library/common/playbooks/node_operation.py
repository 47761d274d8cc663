"""The frame of an operation of a TOSCA node that opera carries out by a playbook.

An operation is an action of Ansible, which runs on opera's machine and has a connection to the node's host:
  * Inputs are read from the file that opera wrote them to. Ansible's variables of the same names are never looked at, and so
    no input is evaluated as a template, whatever it contains.
  * Commands run on the host by Ansible's connection as they are: nothing of them is written to a file or to the system's log there,
    what they read from standard input neither.

A library's own action is a class derived from NodeOperation, in a file that begins with

    sys.path.insert(0, os.path.dirname(__file__))
    from node_operation import Failure, NodeOperation
"""
import hashlib
import json
import os
import re
import shlex
import socket

import yaml
from ansible import context
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import become_loader
from ansible.utils.display import Display
from ansible.utils.path import unfrackpath

# What the frame keeps in opera's folder.
OURS = ".image-builder"
# Secrets that are shorter are not looked for in messages: they would mask every other word.
SHORTEST_MASKED = 4


class Failure(Exception):
    """A message for the one who deploys."""


class Unreachable(Failure):
    """The node's host does not answer."""


def inputs():
    """The inputs of the operation as opera wrote them, without ib_ before their names."""
    files = [a[1:] for a in context.CLIARGS["extra_vars"] if a.startswith("@")]
    if len(files) != 1:
        raise Failure("this playbook is for operations of TOSCA nodes under opera")
    with open(files[0], encoding="utf-8") as f:
        given = yaml.load(f, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    if "ib_operation" not in given:
        raise Failure("opera gave this operation no inputs: before 0.7.0 it drops them on notify")
    return {name.removeprefix("ib_"): value for name, value in given.items()}


def _opera():
    """The number of opera's process. The process of Ansible has it as its parent, and this one Ansible's."""
    with open(f"/proc/{os.getppid()}/stat", encoding="utf-8", errors="replace") as f:
        # The command's name, in parentheses, may hold anything.
        return f.read().rpartition(")")[2].split()[1]


def folder():
    """The folder that opera was started in, absolute. Ansible is run in a temporary one."""
    try:
        return os.readlink(f"/proc/{_opera()}/cwd")
    except OSError:  # there is no /proc
        return os.environ.get("PWD") or os.getcwd()


def instance_path():
    """Where opera keeps this deployment, absolute: what --instance-path says, or .opera."""
    path = ".opera"
    try:
        with open(f"/proc/{_opera()}/cmdline", encoding="utf-8", errors="surrogateescape") as f:
            before = ""
            for argument in f.read().split("\0"):
                if before in ("-p", "--instance-path"):
                    path = argument
                elif argument.startswith("--instance-path="):
                    path = argument.partition("=")[2]
                before = argument
    except OSError:
        pass
    return os.path.normpath(os.path.join(folder(), path))


def mark(owner=""):
    """The mark of what this deployment makes: the owner if there is one, otherwise a short hash of this machine, folder and instance path."""
    if owner:
        return owner
    try:
        with open("/etc/machine-id", encoding="utf-8") as f:
            machine = f.read().strip()
    except OSError:
        machine = ""
    which = json.dumps([machine or socket.gethostname(), folder(), instance_path()])
    return hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def path_of(path):
    """A path of opera's machine, where a relative one is relative to the folder that opera was started in."""
    return os.path.join(folder(), os.path.expanduser(path))


def private_folder(path):
    """Makes a folder, relative to opera's, that only we can open, and gives its absolute path."""
    absolute = path_of(path)
    os.makedirs(absolute, mode=0o700, exist_ok=True)
    if os.stat(absolute).st_mode & 0o077:
        os.chmod(absolute, 0o700)
    return absolute


def write_private(path, content, mode=0o600):
    """Writes a file, bytes or text, whole or not at all, and for nobody else to read on the way."""
    data = content.encode() if isinstance(content, str) else content
    beside = f"{path}.new"
    if os.path.lexists(beside):
        os.remove(beside)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(data)
        os.fchmod(f.fileno(), mode)
        f.flush()
        os.fsync(f.fileno())
    os.replace(beside, path)


def reference(value):
    """What a value stands for, as bytes: env:NAME is a variable of opera's environment, file:PATH a file of opera's machine, and
    anything else is the value itself."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text.startswith("env:"):
        name = text[len("env:"):]
        if name not in os.environ:
            raise Failure(f"{text}: opera's environment has no such variable")
        return os.environb[os.fsencode(name)]
    if text.startswith("file:"):
        path = path_of(text[len("file:"):])
        try:
            with open(path, "rb") as f:
                return f.read()
        except OSError as e:
            raise Failure(f"{text}: {e.strerror}: {path}") from e
    return text.encode()


class Result:
    """How a command ended: its exit status, and what it wrote, as text and as bytes."""

    def __init__(self, status, stdout, stderr):
        self.status, self.stdout, self.stderr = status, stdout, stderr

    @property
    def bytes(self):
        return self.stdout.encode("utf-8", "surrogateescape")

    @property
    def lines(self):
        return self.stdout.splitlines()

    @property
    def said(self):
        """What went wrong, as the command says it."""
        return (self.stderr.strip() or self.stdout.strip()).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class NodeOperation(ActionBase):
    """Runs operation() for the node, and answers opera with the attributes that it returns."""

    _requires_connection = True

    def operation(self, name):
        """Carries the operation out, and gives the node's attributes. A derived class may replace it; here, it is the method of that name."""
        method = getattr(self, f"do_{name}", None)
        if method is None:
            raise Failure(f"this node has no operation {name}")
        return method()

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self.variables = task_vars or {}
        self.inputs, self.changed, self._masked = {}, False, []
        try:
            self.inputs = inputs()
            self._prepare()
            attributes = self._operation_or_gone(self.inputs["operation"])
        except Exception as e:
            message = f"{self.inputs.get('node', 'image-builder')}: {self._cause(e)}"
            # Opera 0.7.0 shows no task's message, but it does show what Ansible writes to standard error.
            Display().display(message, stderr=True)
            return {**result, "failed": True, "msg": message}
        stats = {"data": attributes, "per_host": False, "aggregate": False}
        return {**result, "changed": self.changed, "ansible_stats": stats}

    def _operation_or_gone(self, name):
        """Carries the operation out. What was on a server that is no more needs no removal."""
        try:
            return self.operation(name) or {}
        except Unreachable:
            if name.endswith("delete") and server_is_gone(host_record(self.address)):
                return {}
            raise

    def _cause(self, e):
        if isinstance(e, Failure):
            text = str(e)
        elif isinstance(e, (AnsibleError, OSError)):
            text = str(e)
        else:
            text = repr(e)
        return self.mask(text)

    # Secrets

    def secret(self, value):
        """What a value stands for, as bytes; see reference. From now on, no message shows it."""
        data = reference(value)
        self.conceal(data)
        return data

    def conceal(self, data):
        """Keeps a secret, bytes or text, out of all messages to come."""
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        # A log has the lines of a text one by one.
        for one in [text.strip(), *(line.strip() for line in text.splitlines())]:
            if len(one) >= SHORTEST_MASKED and one not in self._masked:
                self._masked.append(one)
        self._masked.sort(key=len, reverse=True)

    def mask(self, text):
        for one in self._masked:
            text = text.replace(one, "***")
        return text

    # The host

    @property
    def mark(self):
        """The mark of what this deployment makes; see mark."""
        return mark(self.inputs.get("owner") or "")

    @property
    def is_local(self):
        """The host is opera's machine."""
        return self._connection.transport == "local"

    @property
    def address(self):
        """The address that the host is reached by."""
        return "127.0.0.1" if self.is_local else self._connection.get_option("host")

    def private_address(self):
        """The address of the interface that the host's default route leads through."""
        argv = ["ip", "-4", "-o", "route", "get", "192.0.2.1"]
        if self.is_local:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                try:
                    s.connect(("192.0.2.1", 9))  # sends nothing
                    return s.getsockname()[0]
                except OSError:
                    return "127.0.0.1"
        words = self.command(argv).stdout.split()
        if "src" not in words:
            raise Failure(f"{self.address} has no default route")
        return words[words.index("src") + 1]

    def _prepare(self):
        if self.is_local:
            if self.inputs.get("ssh_become"):
                self._become()
            return
        if not self._connection.get_option("host"):
            self._connection.set_option("host", forgotten_address())
        self.use_ssh(self._connection, self.inputs.get("ssh_user"), self.inputs.get("ssh_key"))
        if self.inputs.get("ssh_become"):
            self._become()
        # The packages of every distribution have it there, and to look for it takes as long as a module.
        self.variables = {**self.variables, "ansible_python_interpreter": "/usr/bin/python3"}

    def use_ssh(self, connection, user="", key=""):
        """Has a connection by SSH log in as the user, with our own file of known hosts: a key that is in it is enforced, and one
        that is not is learned. The user's file is neither read nor written."""
        hosts = known_hosts()
        if user:
            connection.set_option("remote_user", user)
            self._play_context.remote_user = user
        if key:
            path = path_of(key)
            if not os.path.isfile(path):
                raise Failure(f"the private key {path} is not there")
            connection.set_option("private_key_file", path)
        address = connection.get_option("host")
        # One that the user's configuration or opera gives would win: ssh takes the first.
        connection.set_option("ssh_common_args", shlex.join(["-o", f"UserKnownHostsFile={quoted(hosts)}", *HOST_KEYS]))
        connection.set_option("host_key_checking", True)
        connection.set_option("pipelining", True)
        # A terminal would mix what a command writes with what it complains about.
        connection.set_option("use_tty", False)
        # An open connection is used again: not by another deployment, nor once the host has another key.
        which = json.dumps([hosts, address, user, key, sorted(known_keys(address))])
        shared = "ib-" + hashlib.sha256(which.encode()).hexdigest()[:16]
        directory = unfrackpath(connection.get_option("control_path_dir"))
        # A socket's path has less than 108 bytes, and ssh adds 17 while it makes one; where there is no room each command connects anew.
        room = len(os.fsencode(os.path.join(directory, shared))) + 17 < 108
        connection.set_option("control_path", "%(directory)s/" + shared if room else "none")

    def _become(self):
        plugin = become_loader.get("sudo")
        plugin.set_options(direct={"become_user": "root"})
        self._connection.set_become_plugin(plugin)
        self._play_context.become = True

    def command(self, argv, stdin=None, secret=False, check=True, sudo=True):
        """Runs a command on the host, as the user that is configured for it.

        argv: the command and its arguments; nothing secret, for process lists show it. stdin: bytes or text. secret: what it
        writes is in no message. check: raise Failure if it does not end with 0. sudo: False has the user who logs in
        run it, even where others are run as root. It gives a Result.
        """
        data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        try:
            # bytes that are no text come out of it as they went in
            done = self._low_level_execute_command(shlex.join(argv), sudoable=sudo, in_data=data, encoding_errors="surrogateescape")
        except AnsibleConnectionFailure as e:
            raise self._unreachable(e) from e
        result = Result(done["rc"], done["stdout"], done["stderr"])
        if check and result.status != 0:
            shown = shlex.join(argv[:3]) + (" …" if len(argv) > 3 else "")
            said = "" if secret else result.said
            raise Failure(f"{shown}: {said or f'it ended with {result.status}'}")
        return result

    def module(self, name, args, secret=False):
        """Runs a module of ansible-core on the host and gives its result. secret: neither it nor the system's log shows the arguments."""
        was = self._task.no_log
        self._task.no_log = was or secret
        try:
            result = self._execute_module(module_name=name, module_args=args, task_vars=self.variables)
        except AnsibleConnectionFailure as e:
            raise self._unreachable(e) from e
        finally:
            self._task.no_log = was
        if result.get("unreachable"):
            raise Unreachable(f"{self.address} cannot be reached: {result.get('msg')}")
        if result.get("failed"):
            raise Failure(f"{name}: {'it failed' if secret else _message(result)}")
        self.changed = self.changed or bool(result.get("changed"))
        return result

    def put(self, path, to):
        """Copies a file of opera's machine to the host, as the user who logs in."""
        try:
            self._connection.put_file(path, to)
        except AnsibleConnectionFailure as e:
            raise self._unreachable(e) from e

    def _unreachable(self, e):
        text = str(e)
        if has_another_key(text):
            return another_key(self.address)
        lines = [line for line in text.splitlines() if line.strip()]
        return Unreachable(f"{self.address} cannot be reached by SSH: {lines[-1] if lines else 'no answer'}")


def _message(result):
    """Why a module failed. One that has ended by an exception has no message of its own: ansible-core 2.19 keeps that apart, an older one its trace as a text."""
    exception = result.get("exception")
    text = result.get("msg")
    if text and text.startswith("MODULE FAILURE"):  # what an older one says instead
        exception = exception or result.get("module_stderr")
        text = "" if exception else text
    text = text or getattr(getattr(exception, "event", None), "msg", None) or str(exception or "").strip()
    if not text or "Traceback" not in text:
        return text
    return re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])  # without the exception's type


HOST_KEYS = ["-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=accept-new", "-o", "HashKnownHosts=no", "-o", "UpdateHostKeys=no",
             "-o", "CheckHostIP=no", "-o", "BatchMode=yes"]


def quoted(path):
    """A path as a value of an option of ssh."""
    return '"' + path.replace("%", "%%").replace('"', '\\"') + '"'


def known_hosts():
    """Our file of hosts' keys, which is made if it is not there."""
    path = os.path.join(private_folder(OURS), "known_hosts")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return path


def known_keys(address):
    """The lines of an address in our file of hosts' keys."""
    with open(known_hosts(), encoding="utf-8") as f:
        return [line.strip() for line in f if address in line.partition(" ")[0].split(",")]


def has_another_key(said):
    """What ssh said means that the host has another key than ours of it."""
    return "HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said


def another_key(address):
    """The failure that follows from it."""
    return Failure(f"{address} has another host key than the one that was learned: it is another machine, or somebody stands between. "
                   f"If that is as it should be, remove its line from {known_hosts()}")


def forget_host(address):
    """Removes the keys of an address: the server that had it is no more."""
    path = known_hosts()
    gone = known_keys(address)
    if not gone:
        return  # and no key is lost that ssh adds to the file meanwhile
    with open(path, encoding="utf-8") as f:
        kept = [line for line in f if line.strip() not in gone]
    write_private(path, "".join(kept))


def host_record(address):
    """What the node that made the server of this address wrote down: server_id, project and cloud; empty if no node did."""
    try:
        with open(path_of(os.path.join(OURS, "hosts", f"{address}.json")), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


def forgotten_address():
    """The address of the server that this deployment has made: at an update, opera forgets the attributes of nodes that it leaves alone."""
    records = path_of(os.path.join(OURS, "hosts"))
    files = sorted(os.listdir(records)) if os.path.isdir(records) else []
    made = [a for a in (f.removesuffix(".json") for f in files if f.endswith(".json")) if host_record(a).get("instance") == instance_name()]
    if len(made) != 1:
        raise Failure("opera does not know the address of the node's host any more, as after an update: `opera deploy --clean-state --force` finds it, and changes what is to be changed")
    return made[0]


def instance_name():
    """The instance path, relative to opera's folder."""
    return os.path.relpath(instance_path(), folder())


def server_is_gone(record):
    """The cloud that made this server says that there is none of its id any more: somebody removed it."""
    if not record:
        return False
    import openstack  # where a node has made a server, the package is there

    with openstack.connect(cloud=record["cloud"] or None) as cloud:
        if cloud.current_project_id != record["project"]:
            raise Failure(f"the server {record['server_id']} was made in the project {record['project']}, and the credentials are for {cloud.current_project_id}")
        return cloud.compute.find_server(record["server_id"]) is None
