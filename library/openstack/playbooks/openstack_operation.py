"""Operations of security groups and servers of an OpenStack cloud, by modules of the collection openstack.cloud.

Modules of that collection take anything for theirs that has the name they are given. So everything is looked up here first, what
is ours is told from what is not by a mark, and modules are given ids from then on: only for what is to be made, a name.
"""
import hashlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))
from node_operation import (  # noqa: E402
    HOST_KEYS, OURS, Failure, NodeOperation, another_key, forget_host, has_another_key, host_record, instance_name, known_hosts, known_keys, path_of, private_folder, quoted, server_is_gone, write_private)

# Where Docker's Engine has everything that is worth keeping.
DATA = "/var/lib/docker"
# A security group cannot be removed while a port is in it, and that of a server may be there a little longer than the server.
RELEASE = 30  # seconds
# An image may start to answer by SSH before it knows the key.
KEY_ARRIVES = 120  # seconds


class ActionModule(NodeOperation):

    # Security groups

    def do_create_group(self):
        name, rules = self._name(), self._rules()
        found = self._groups(name)
        others = [g for g in found if g["description"] != self._made_by]
        if others:
            raise Failure(f"there is a security group {name} that is not of this deployment ({others[0]['id']}). It is left as it is: give ours another name")
        group = self._cloud("security_group", name=found[0]["id"] if found else name, description=self._made_by, security_group_rules=rules)
        return {"group_id": group["security_group"]["id"]}

    def do_delete_group(self):
        for group in self._groups(self._name()):
            if group["description"] == self._made_by:
                self._remove_group(group["id"])
        return {"group_id": ""}

    def _remove_group(self, group_id):
        end = time.monotonic() + RELEASE
        while True:
            try:
                return self._cloud("security_group", name=group_id, state="absent")
            except Failure as e:
                if "in use" not in str(e) or time.monotonic() > end:
                    raise
            time.sleep(2)

    def _groups(self, name):
        return [g for g in self._cloud("security_group_info", name=name)["security_groups"] if g["name"] == name]

    def _rules(self):
        """All rules of the group as the module wants them: what the node lists, and everything out."""
        given = self.inputs.get("rules") or []
        if not isinstance(given, list):
            raise Failure("/rules: must be a list")
        rules = [{"direction": "egress", "ether_type": ip} for ip in ("IPv4", "IPv6")]
        for i, rule in enumerate(given):
            rules += [r for r in self._rule(rule, f"/rules/{i}") if r not in rules]
        return rules

    def _rule(self, rule, where):
        if not isinstance(rule, dict):
            raise Failure(f"{where}: must be a map with port, and sources, group or from")
        unknown = set(rule) - {"port", "protocol", "sources", "group", "from"}
        if unknown:
            raise Failure(f"{where}: nobody knows {', '.join(sorted(unknown))}: known are port, protocol, sources, group, from")
        port, protocol = rule.get("port"), rule.get("protocol", "tcp")
        if isinstance(port, bool) or not isinstance(port, int) or not 2 <= port <= 65534:
            raise Failure(f"{where}/port: must be a number from 2 to 65534, and is {json.dumps(port)}")
        if protocol not in ("tcp", "udp"):
            raise Failure(f"{where}/protocol: must be tcp or udp")
        if len({"sources", "group", "from"} & set(rule)) != 1:
            raise Failure(f"{where}: must have one of sources, group and from")
        base = {"direction": "ingress", "protocol": protocol, "port_range_min": port, "port_range_max": port}
        return [{**base, **origin} for origin in self._origins(rule, where)]

    def _origins(self, rule, where):
        if "group" in rule:
            return self._from_group(rule["group"], f"{where}/group")
        if "sources" in rule:
            return self._from_networks(rule["sources"], f"{where}/sources")
        name = rule["from"]
        for kind, read in (("origins", self._from_networks), ("groups", self._from_group)):
            known = self.inputs.get(kind) or {}
            if name in known:
                return read(known[name], f"/{kind}/{name}")
        raise Failure(f"{where}/from: the node has no {json.dumps(name)} in origins or groups")

    @staticmethod
    def _from_group(group, where):
        if not isinstance(group, str) or not group:
            raise Failure(f"{where}: must be the name of a security group")
        return [{"remote_group": group, "ether_type": ip} for ip in ("IPv4", "IPv6")]

    @staticmethod
    def _from_networks(networks, where):
        if isinstance(networks, str):
            networks = [one.strip() for one in networks.split(",") if one.strip()]
        if not isinstance(networks, list):
            raise Failure(f"{where}: must be networks, as in 192.0.2.0/24")
        origins = []
        for network in networks:
            try:
                # as the cloud tells it later, or else it would be another rule
                net = ipaddress.ip_network(network, strict=False)
            except ValueError as e:
                raise Failure(f"{where}: {json.dumps(network)} is no network: as in 192.0.2.0/24") from e
            origins.append({"remote_ip_prefix": str(net), "ether_type": f"IPv{net.version}"})
        return origins

    # Servers

    def do_create_server(self):
        name, timeout = self._name(), self._timeout()
        volume_id = self._data_volume()
        server = self._our_server(name)
        if server and server["status"] == "BUILD":
            server = self._built(server, timeout)
        if server and server["status"] == "ERROR":  # an earlier try
            self._remove_server(server["id"], timeout)
            server = None
        if server and server["status"] != "ACTIVE":
            raise Failure(f"the server {name} ({server['id']}) is {server['status']}: it must be ACTIVE")
        settings = self._settings()
        if server and server["metadata"].get("imagebuilder.settings") != settings:
            raise Failure(f"the server {name} ({server['id']}) was made of another image, flavour, network, key or pool of floating addresses, "
                          "which no server can change: opera undeploy removes it, and opera deploy makes it anew")
        server = self._make_server(name, server, {"imagebuilder.mark": self.mark, "imagebuilder.node": self.inputs["node"], "imagebuilder.settings": settings}, timeout)
        floating = self._floating_address(server)
        private = self._address(server, "fixed")
        address = floating or private
        self._meet(address, server, timeout)
        if volume_id:
            self._mount_data(address, server["id"], volume_id, timeout)
        return {"server_id": server["id"], "public_address": address, "private_address": private or address}

    def do_delete_server(self):
        ours = [s["id"] for s in self._servers(self._name()) if self._is_ours(s)]
        for record in self._records().values():
            if record["server_id"] not in ours and not server_is_gone(record):  # it was renamed
                ours.append(record["server_id"])
        for server_id in ours:
            self._remove_server(server_id, self._timeout())
        if self.inputs.get("floating_ip_pool"):
            # also of a server that somebody else has removed
            for address in self._cloud("resources", service="network", type="ip", parameters={"description": self._made_by})["resources"]:
                self._cloud("resource", service="network", type="ip", attributes={"id": address["id"]}, state="absent")
        self._forget()
        return {"server_id": "", "public_address": "", "private_address": ""}

    def _servers(self, name):
        # the module takes * and ? in names for what they are in file names
        return [s for s in self._cloud("server_info", name=name)["servers"] if s["name"] == name]

    def _is_ours(self, server):
        metadata = server["metadata"]
        return metadata.get("imagebuilder.mark") == self.mark and metadata.get("imagebuilder.node") == self.inputs["node"]

    def _our_server(self, name):
        servers = self._servers(name)
        others = [s for s in servers if not self._is_ours(s)]
        if others:
            raise Failure(f"there is a server {name} that is not of this deployment ({others[0]['id']}). It is left as it is: give ours another name")
        return servers[0] if servers else None

    def _settings(self):
        """A digest of what a server is made of once and for all. The cloud stores it with the server."""
        fixed = [self.inputs.get(name) or "" for name in ("image", "flavor", "network", "key_name", "floating_ip_pool")]
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]

    def _built(self, server, timeout):
        """Waits for a server that an earlier try has not waited for."""
        end = time.monotonic() + timeout
        while server["status"] == "BUILD":
            if time.monotonic() > end:
                raise Failure(f"the cloud has not made the server {server['name']} ({server['id']}) within {timeout} s")
            time.sleep(2)
            now = [s for s in self._cloud("server_info", name=server["id"])["servers"] if s["id"] == server["id"]]
            if not now:
                return None
            server = now[0]
        return server

    def _make_server(self, name, server, metadata, timeout):
        """Makes the server, or sees to its security groups if it is there."""
        arguments = {"name": server["id"] if server else name, "security_groups": self._group_names(), "timeout": timeout,
                     # true, which it is by default, takes a floating address from anywhere, and another one each time
                     "auto_ip": False,
                     # what the user has added stays
                     "metadata": {**(server["metadata"] if server else {}), **metadata}, "tags": server["tags"] if server else []}
        for setting in ("image", "flavor", "network", "key_name"):
            if not self.inputs.get(setting):
                raise Failure(f"/{setting}: must not be empty")
            arguments[setting] = self.inputs[setting]
        try:
            return self._cloud("server", **arguments)["server"]
        except Failure as e:
            # The module's own message about a server in error is about something else.
            raise Failure(f"server {name}: {self._fault(name) or self._plain(str(e))}") from e

    def _fault(self, name):
        """Why the cloud could not make our server, in the cloud's words, or nothing."""
        for server in self._servers(name):
            if self._is_ours(server) and server["status"] == "ERROR":
                # By its id alone: given a name, this module renames.
                found = self._cloud("resource", service="compute", type="server", attributes={"id": server["id"]})
                return ((found.get("resource") or {}).get("fault") or {}).get("message")
        return None

    def _plain(self, text):
        """A message of the collection or the cloud, and what in the node it is about."""
        text = re.sub(r"^\w+Exception: \d+: (Client|Server) Error for url: \S+, ", "", text)
        text = text.replace(" with exclude (deprecated)", "")
        about = {"key_name": "key_name", "etwork": "network", "lavor": "flavor", "ecurity": "security_groups"}
        for word, setting in about.items():
            value = str(self.inputs.get(setting))
            if word in text and value not in text:
                return f"{text} (its {setting} is {value})"
        return text

    def _group_names(self):
        given = self.inputs.get("security_groups") or []
        names = [name.strip() for one in (given if isinstance(given, list) else [given]) for name in str(one).split(",")]
        # none at all is what the module would take away what the cloud gives
        return list(dict.fromkeys(name for name in names if name)) or ["default"]

    def _remove_server(self, server_id, timeout):
        self._cloud("server", name=server_id, state="absent", timeout=timeout)

    @staticmethod
    def _address(server, kind):
        """An address of the server of this kind, fixed or floating; IPv4 if it has one."""
        addresses = [a for network in (server["addresses"] or {}).values() for a in network if a.get("OS-EXT-IPS:type", "fixed") == kind]
        addresses.sort(key=lambda a: a["version"])
        return addresses[0]["addr"] if addresses else ""

    def _floating_address(self, server):
        pool = self.inputs.get("floating_ip_pool")
        if not pool:
            return ""
        networks = self._cloud("networks_info", name=pool)["networks"]
        if not networks:
            raise Failure(f"/floating_ip_pool: the cloud has no network {pool}")
        fixed = self._address(server, "fixed")
        ports = [p for p in self._cloud("port_info", filters={"device_id": server["id"]})["ports"] if any(ip["ip_address"] == fixed for ip in p["fixed_ips"])]
        if not ports:
            raise Failure(f"server {server['name']} has no port with an address")
        # Found by all of these, or made with them: never one that happened to be free.
        made = self._cloud("resource", service="network", type="ip", attributes={
            "floating_network_id": networks[0]["id"], "port_id": ports[0]["id"], "description": self._made_by})
        return made["resource"]["floating_ip_address"]

    # A server's host

    def _ssh(self, address, *command, stdin=None, wait=10):
        """Runs a command on the server, and gives what has become of it."""
        key = self.inputs.get("identity_file") or os.environ.get("OPERA_SSH_IDENTITY_FILE")
        identity = ["-i", path_of(key), "-o", "IdentitiesOnly=yes"] if key else []
        argv = ["ssh", "-o", f"UserKnownHostsFile={quoted(known_hosts())}", *HOST_KEYS, "-o", f"ConnectTimeout={wait}", *identity,
                f"{self.inputs['username']}@{address}", *command]
        return subprocess.run(argv, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              encoding="utf-8", errors="replace")

    def _meet(self, address, server, timeout):
        """Waits for the server to answer by SSH and let us in. The first time, its host key is learned."""
        key = self.inputs.get("identity_file")
        if key and not os.path.isfile(path_of(key)):
            raise Failure(f"/identity_file: {path_of(key)} is not there")
        if host_record(address).get("server_id") != server["id"]:
            forget_host(address)  # those of whoever had the address before
            self._remember(address, server)
        known, start, refused = known_keys(address), time.monotonic(), None
        while True:
            left = start + timeout - time.monotonic()
            done = self._ssh(address, "true", wait=max(1, min(10, int(left))))
            if done.returncode == 0:
                self.changed = self.changed or known_keys(address) != known
                return
            said = done.stderr.strip()
            if has_another_key(said):
                raise another_key(address)
            if "Permission denied" in said:
                refused = refused or time.monotonic()
                left = min(left, refused + KEY_ARRIVES - time.monotonic())
            if left <= 0:
                last = said.splitlines()[-1].strip() if said else f"ssh ended with {done.returncode}"
                why = ""
                if refused:
                    why = ": key_name must be the cloud's name of the key in identity_file"
                elif "timed out" in last:
                    why = f": its security groups ({', '.join(self._group_names())}) must let port 22 in from here"
                raise Failure(f"no SSH to {self.inputs['username']}@{address} within {timeout} s: {last}{why}")
            time.sleep(min(2, max(0, left)))

    def _remember(self, address, server):
        """Writes down which server has an address, for when it does not answer any more."""
        record = {"server_id": server["id"], "project": server["project_id"], "cloud": self.inputs.get("cloud") or "", "mark": self.mark,
                  "node": self.inputs["node"], "instance": instance_name()}
        write_private(os.path.join(self._records_folder(), f"{address}.json"), json.dumps(record))

    @staticmethod
    def _records_folder():
        return private_folder(os.path.join(OURS, "hosts"))

    def _records(self):
        """What was written down of this node's servers, by address."""
        addresses = [file.removesuffix(".json") for file in os.listdir(self._records_folder()) if file.endswith(".json")]
        all_records = {address: host_record(address) for address in addresses}
        return {a: r for a, r in all_records.items() if (r["mark"], r["node"]) == (self.mark, self.inputs["node"])}

    def _forget(self):
        """Removes what was written down of this node's servers, and their host keys."""
        for address in self._records():
            forget_host(address)
            os.remove(os.path.join(self._records_folder(), f"{address}.json"))

    def _data_volume(self):
        """The id of the data volume, None if none is wanted. No server is made for one that is not there."""
        wanted = self.inputs.get("data_volume")
        if not wanted:
            return None
        try:
            found = [v["id"] for v in self._cloud("volume_info")["volumes"] if wanted in (v["id"], v["name"])]
        except Failure as e:
            raise Failure(f"data volume {wanted}: {e}") from e
        if len(found) != 1:
            raise Failure(f"there are several volumes {wanted} ({', '.join(sorted(found))}): name it by its id" if found else f"there is no volume {wanted}")
        return found[0]

    def _mount_data(self, address, server_id, volume_id, timeout):
        """Attaches the data volume and has it mounted."""
        volume = self._cloud("server_volume", server=server_id, volume=volume_id, timeout=timeout)["volume"]
        device = next((a.get("device") for a in volume.get("attachments") or [] if a.get("server_id") == server_id), None)
        # node.yml has put this file into a folder below the others'.
        with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "data_volume.sh"), encoding="utf-8") as f:
            script = f.read()
        done = self._ssh(address, f"sudo -n sh -s -- {volume_id} {device or '-'} {DATA}", stdin=script)
        if done.returncode != 0:
            raise Failure(f"data volume {self.inputs['data_volume']}: {done.stderr.strip()}")
        self.changed = self.changed or done.stdout.strip() == "changed"

    # The cloud

    @property
    def _made_by(self):
        """The mark of what has no metadata: its description."""
        return f"Made by image-builder: {self.inputs['node']} of {self.mark}"

    def _name(self):
        name = self.inputs.get("name")
        if not isinstance(name, str) or not name:
            raise Failure("/name: must be a text")
        return name

    def _timeout(self):
        timeout = self.inputs.get("timeout")
        if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout <= 0:
            raise Failure("/timeout: must be a number of seconds")
        return timeout

    def _cloud(self, module, **arguments):
        """Runs a module of the collection, and gives its result."""
        name = f"openstack.cloud.{module}"
        if self.inputs.get("cloud"):
            arguments["cloud"] = self.inputs["cloud"]
        try:
            return self.module(name, {k: v for k, v in arguments.items() if v is not None})
        except Failure as e:
            raise Failure(str(e).removeprefix(f"{name}: ")) from e
