"""The objects of a server, by kind and name: every path of Incus' API that is about them stands here.

API: https://linuxcontainers.org/incus/docs/main/rest-api-spec/. Bodies and answers are the API's own documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from anklume_images.errors import IncusError
from anklume_images.incus.api import Requests
from anklume_images.incus.errors import is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Kind", "ObjectId", "Objects", "instances_in"]

Kind = Literal["acl", "certificate", "image", "instance", "network", "pool", "profile", "project", "volume"]
_COLLECTIONS: dict[Kind, str] = {
    "acl": "network-acls",
    "certificate": "certificates",
    "image": "images",
    "instance": "instances",
    "network": "networks",
    "pool": "storage-pools",
    "profile": "profiles",
    "project": "projects",
}
_EVERYWHERE: dict[str, str] = {"all-projects": "true"}
_SNAPSHOT = "/snapshots/"


class ObjectId(NamedTuple):
    """One object: a custom volume's `name` is `pool/volume`; without a `project` it is the connection's."""

    kind: Kind
    name: str
    project: str = ""

    @property
    def collection(self) -> str:
        """The path of its kind below /1.0."""
        if self.kind == "volume":
            return f"storage-pools/{_quoted(self.name.partition('/')[0])}/volumes/custom"
        return _COLLECTIONS[self.kind]

    @property
    def path(self) -> str:
        """Its path below /1.0."""
        return f"{self.collection}/{_quoted(self.name.partition('/')[2] if self.kind == 'volume' else self.name)}"

    @property
    def params(self) -> dict[str, str]:
        """The parameters of a request about it."""
        return {"project": self.project} if self.project else {}


def instances_in(urls: Iterable[str]) -> list[ObjectId]:
    """The instances among URLs of the API, as an object's `used_by` lists them."""
    found = []
    for url in urls:
        parts = urlsplit(url)
        collection, _, name = parts.path.removeprefix("/1.0/").partition("/")
        if collection == _COLLECTIONS["instance"] and "/" not in name:
            project = parse_qs(parts.query).get("project", ["default"])[0]
            found.append(ObjectId("instance", unquote(name), project))
    return found


def _quoted(name: str) -> str:
    return quote(name, safe="")


class Objects(Requests):
    """Typed operations on what a server has; IncusError when one fails."""

    # Any kind

    def list_objects(self, kind: Kind, *, pool: str = "", everywhere: bool = False) -> list[dict[str, Any]]:
        """All of one kind, whole; volumes are those of `pool`; `everywhere` is for all projects."""
        path = ObjectId(kind, f"{pool}/").collection
        objects: list[dict[str, Any]] = self.get(path, recursion=1, **(_EVERYWHERE if everywhere else {}))
        return objects

    def ids(self, kind: Kind, *, pool: str = "", everywhere: bool = False) -> list[ObjectId]:
        """All of one kind by name, with the project where the server tells it; snapshots of volumes are none.

        To give whole ones, Incus looks up the users of every network, ACL and volume: up to a hundred times as long.
        """
        collection = ObjectId(kind, f"{pool}/").collection
        found = []
        for url in self.get(collection, **(_EVERYWHERE if everywhere else {})):
            parts = urlsplit(url)
            name = parts.path.removeprefix(f"/1.0/{collection}/")
            if _SNAPSHOT not in name:
                project = parse_qs(parts.query).get("project", [""])[0]
                found.append(ObjectId(kind, f"{pool}/{unquote(name)}" if pool else unquote(name), project))
        return found

    def get_object(self, what: ObjectId) -> dict[str, Any]:
        """One object, which must be there."""
        body: dict[str, Any] = self.get(what.path, **what.params)
        return body

    def find_object(self, what: ObjectId) -> dict[str, Any] | None:
        """One object, or None when there is none."""
        body: dict[str, Any] | None = self.find_one(what.path, **what.params)
        return body

    def create_object(self, what: ObjectId, body: Mapping[str, Any]) -> None:
        """Make one; its name is put into the body."""
        name = what.name.partition("/")[2] if what.kind == "volume" else what.name
        extra = {"type": "custom", "content_type": "filesystem"} if what.kind == "volume" else {}
        self.send("post", what.collection, {**body, **extra, "name": name}, params=what.params)

    def put_object(self, what: ObjectId, body: Mapping[str, Any]) -> None:
        """Let it be as the body says, and nothing else."""
        self.send("put", what.path, body, params=what.params)

    def patch_object(self, what: ObjectId, body: Mapping[str, Any]) -> None:
        """Change what the body has of it."""
        self.send("patch", what.path, body, params=what.params)

    def delete_object(self, what: ObjectId) -> None:
        """Delete it; what is gone meanwhile is no error."""
        try:
            self.send("delete", what.path, params=what.params)
        except IncusError:  # the operation may be what is missing, as the daemon has ended
            if self.find_object(what) is not None:
                raise

    # Instances

    def instances(self, *, states: bool = False) -> list[dict[str, Any]]:
        """The instances of all projects; with `states`, addresses and more of those that run."""
        instances: list[dict[str, Any]] = self.within(None).get(
            "instances", recursion=2 if states else 1, **_EVERYWHERE
        )
        return instances

    def make_instance(
        self,
        what: ObjectId,
        body: Mapping[str, Any],
        *,
        target: str = "",
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Make an instance, on the cluster member `target`; `progress` gets the operation's metadata as it changes."""
        params = what.params | ({"target": target} if target else {})
        self.send("post", what.collection, {**body, "name": what.name}, params=params, progress=progress)

    def instance_state(self, what: ObjectId) -> dict[str, Any]:
        """Status, main process and interfaces of an instance."""
        state: dict[str, Any] = self.get(f"{what.path}/state", **what.params)
        return state

    def set_instance_state(
        self,
        what: ObjectId,
        action: Literal["start", "stop", "freeze", "unfreeze"],
        *,
        timeout: int = -1,
        force: bool = False,
    ) -> None:
        """Start, stop, pause or resume; `timeout` is in seconds, -1 without end."""
        body = {"action": action, "timeout": timeout, "force": force}
        self.send("put", f"{what.path}/state", body, params=what.params)

    def snapshots(self, what: ObjectId) -> list[str]:
        """The names of an instance's snapshots."""
        return [url.rpartition("/")[2].partition("?")[0] for url in self.get(f"{what.path}/snapshots", **what.params)]

    def rebuild_instance(self, what: ObjectId, source: Mapping[str, str]) -> None:
        """Give an instance a new root file system, out of an image."""
        self.send("post", f"{what.path}/rebuild", {"source": source}, params=what.params)

    def delete_snapshot(self, what: ObjectId, snapshot: str) -> None:
        """Delete a snapshot of an instance or of a volume."""
        self.send("delete", f"{what.path}/snapshots/{_quoted(snapshot)}", params=what.params)

    def push_file(self, what: ObjectId, path: str, body: Any) -> None:
        """Put a file into a running instance, of root's and for all to read; `body` has a `len` and `read`.

        It appears under its name at once, and grows.
        """
        headers = {"X-Incus-type": "file", "X-Incus-uid": "0", "X-Incus-gid": "0", "X-Incus-mode": "0644"}
        headers |= {"X-Incus-write": "overwrite", "Content-Type": "application/octet-stream"}
        self.post_stream(f"{what.path}/files", body, headers, {"path": path, **what.params})

    def make_folder(self, what: ObjectId, path: str) -> None:
        """Have a folder in a running instance, and those above it."""
        headers = {"X-Incus-type": "directory", "X-Incus-uid": "0", "X-Incus-gid": "0", "X-Incus-mode": "0755"}
        self.post_stream(f"{what.path}/files", None, headers, {"path": path, **what.params})

    def console_log(self, name: str) -> bytes:
        """What an instance wrote on its console since its last start."""
        return self.read(f"instances/{_quoted(name)}/console")

    def instance_log(self, name: str, log: str) -> bytes:
        """One of the logs that Incus keeps of an instance, such as `lxc.log`."""
        return self.read(f"instances/{_quoted(name)}/logs/{_quoted(log)}")

    # Networks and pools

    def leases(self, network: str, project: str) -> list[dict[str, Any]]:
        """The DHCP leases on a bridge of the instances of a project; none where there is no such bridge."""
        return self.find_one(f"networks/{_quoted(network)}/leases", project=project) or []

    def network_state(self, name: str) -> dict[str, Any]:
        """The addresses of an interface of the host; empty when it is gone."""
        return self.find_one(f"networks/{_quoted(name)}/state") or {}

    def pool_space(self, name: str) -> dict[str, Any]:
        """`total` and `used` of a storage pool, in bytes."""
        return self.get(f"storage-pools/{_quoted(name)}/resources").get("space") or {}

    def delete_unpacked_image(self, pool: str, fingerprint: str) -> None:
        """Delete the volume that holds an image unpacked; pools of some drivers have none."""
        try:
            self.send("delete", f"storage-pools/{_quoted(pool)}/volumes/image/{fingerprint}")
        except IncusError as error:
            if not is_missing(error):
                raise

    def import_volume(self, what: ObjectId, backup: Any, progress: Callable[[int, int], None] | None = None) -> None:
        """Make a volume of a backup that is sent; `backup` has a `len` and `read`, `progress` gets bytes and total."""
        pool, _, name = what.name.partition("/")
        headers = {"Content-Type": "application/octet-stream", "X-Incus-name": name}
        self.upload(ObjectId("volume", f"{pool}/").collection, backup, headers, progress)

    # The server

    def resources(self, member: str = "") -> dict[str, Any]:
        """Memory, CPUs and cards of the host, or of a cluster's member."""
        resources: dict[str, Any] = self.get("resources", **({"target": member} if member else {}))
        return resources

    def https_addresses(self) -> list[str]:
        """The URLs at which the server is reached over a network, that of this connection first."""
        own = [self.address] if self.address.startswith("https://") else []
        listening = [f"https://{text}" for text in self.get("")["environment"].get("addresses") or ()]
        return list(dict.fromkeys([*own, *listening]))

    def members(self) -> list[str]:
        """The members of a cluster that are online; none when the server is alone."""
        if not self.get("")["environment"].get("server_clustered"):
            return []
        members = self.get("cluster/members", recursion=1)
        return sorted(member["server_name"] for member in members if member.get("status") == "Online")

    def running_operations(self) -> list[dict[str, Any]]:
        """What the server is doing, in all projects."""
        return self.get("operations", recursion=1, **_EVERYWHERE).get("running") or []

    def set_server_config(self, config: Mapping[str, str]) -> None:
        """Change some keys of the server's own configuration."""
        self.send("patch", "", {"config": dict(config)})

    def trust(self, name: str, certificate: str) -> None:
        """Let a client in: `certificate` is its DER in base64."""
        self.send("post", "certificates", {"type": "client", "name": name, "certificate": certificate})
