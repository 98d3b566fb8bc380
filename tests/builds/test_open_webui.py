"""Open WebUI, built from real wheels and booted in both Incus: it answers, keeps its data, and leaks no secret."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import image_files, publish
from launcher.private_incus.daemon import PrivateIncus
from tests.support.instances import create_instance, delete_instance, start_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus, Result
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image

PASSWORD = "Correct \"horse' $staple` \\ battery = 9"  # noqa: S105  of nobody
ANOTHER = "another $staple` password"
SECONDS = 180.0
KEY = "/var/lib/open-webui/.webui_secret_key"
STATE = "/var/lib/open-webui"
SETTINGS = "/etc/anklume/open-webui.env"  # rendered by Incus before the instance boots
WRITTEN = ("/etc", "/run", "/var", "/tmp", "/root")
# A stand-in for an OpenAI-compatible server: it has one model, for who knows the key.
STAND_IN = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "Bearer k$y\\\\1"
        body = json.dumps({"object": "list", "data": [{"id": "stand-in", "object": "model"}]}).encode()
        self.send_response(200 if known and self.path == "/v1/models" else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body if known else b"{}")
http.server.HTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"""


@dataclass
class Machines:
    """Instances of the image in one Incus."""

    client: Incus
    image: Image
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def create(self, *, volume: str | None = None, opens: bool = True, **variables: str) -> Machine:
        """A started instance with these `user.anklume.open_webui_…`; `volume` is one of its data."""
        machine = Machine(self.client, f"web{next(self.numbers)}")
        config = {f"user.anklume.open_webui_{name}": value for name, value in variables.items()}
        disk = {"type": "disk", "pool": "default", "source": volume or "", "path": STATE}
        devices = {"data": disk} if volume else {}
        create_instance(self.client, machine.name, fingerprint=self.image.fingerprint, config=config, devices=devices)
        start_instance(self.client, machine.name)
        machine.wait("active" if opens else "failed")
        return machine


@dataclass
class Machine:
    """One instance."""

    client: Incus
    name: str

    def run(self, *command: str) -> Result:
        return self.client.execute(self.name, command, timeout=SECONDS)

    def output(self, *command: str) -> str:
        result = self.run(*command)
        assert result.code == 0, result.stdout + result.stderr
        return result.stdout.decode()

    def write(self, path: str, text: str) -> None:
        self.output("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text)

    def healthy(self) -> bool:
        return self.run("/usr/lib/anklume/healthcheck").code == 0

    def wait(self, wanted: str = "active") -> None:
        """Until the unit says that it has started, or has failed."""
        end = time.monotonic() + SECONDS
        while (state := self.run("systemctl", "is-active", "open-webui").stdout.decode().strip()) != wanted:
            if state in ("active", "failed") or time.monotonic() > end:
                pytest.fail(f"{state}: {self.output('journalctl', '-u', 'open-webui', '-n', '40', '--no-pager')}")
            time.sleep(0.3)

    def stop(self) -> None:
        self.client.stop(self.name, timeout=60)

    def remove(self) -> None:
        self.client.stop(self.name, force=True)
        delete_instance(self.client, self.name)

    def request(self, path: str, body: Any = None, *, port: int = 3000, headers: tuple[str, ...] = ()) -> Answer:
        options = ["--silent", "--include", "--max-time", "60", "--noproxy", "*"]
        for header in headers:
            options += ["--header", header]
        if body is not None:
            options += ["--header", "Content-Type: application/json", "--data-raw", json.dumps(body)]
        raw = self.output("curl", *options, f"http://127.0.0.1:{port}{path}")
        head, _, text = raw.partition("\r\n\r\n")
        lines = head.splitlines()
        pairs = (line.partition(": ") for line in lines[1:])
        return Answer(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}, text)

    def sign_in(self, password: str = PASSWORD, email: str = "admin@localhost") -> Answer:
        return self.request("/api/v1/auths/signin", {"email": email, "password": password})

    def files_with(self, text: str, *folders: str) -> list[str]:
        """Every file in these folders that has the text, those in memory included; programs' memory is not a file."""
        options = ("--recursive", "--files-with-matches", "--text", "--fixed-strings", "--exclude-dir=proc")
        where = ("--exclude-dir=sys", "--exclude-dir=dev", *(folders or ("/",)))
        return self.run("grep", *options, "-e", text, *where).stdout.decode().split()


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@pytest.fixture(scope="module", params=["incus-6", "incus-7"])
def machines(
    request: pytest.FixtureRequest,
    incus_tree: Callable[[str], Path],
    built: Callable[[str], Image],
    pipeline: Pipeline,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machines]:
    """A private Incus that has the image."""
    image = built("open-webui")
    home = tmp_path_factory.mktemp("incus")
    with PrivateIncus(tree=incus_tree(request.param), home=home) as incus, incus.client() as client:
        publish(image_files(image, pipeline.images, pipeline.store), client)
        yield Machines(client, image)


@pytest.fixture(scope="module")
def machine(machines: Machines) -> Machine:
    """An instance as it is by default, but with an administrator given at launch."""
    administrator = {"admin_password": PASSWORD, "admin_name": "Ada L."}
    return machines.create(**administrator, default_models="of-the-file", banner="Hi *all*")


def test_page_is_served_and_the_system_is_well(machine: Machine) -> None:
    answer = machine.request("/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<title>Open WebUI</title>" in answer.text
    assert machine.healthy()
    assert machine.output("systemctl", "is-system-running", "--wait") == "running\n"


def test_healthcheck_is_the_one_that_the_manifest_names(machines: Machines, machine: Machine) -> None:
    health = machines.image.spec["healthcheck"]
    assert machine.run(*health["command"]).code == 0
    machine.output("systemctl", "stop", "open-webui")
    stopped = machine.run(*health["command"]).code
    machine.output("systemctl", "start", "open-webui")
    assert stopped != 0
    assert machine.healthy()


def test_slim_offline_and_of_the_locked_version(machine: Machine, machines: Machines) -> None:
    config = machine.request("/api/config").json()
    assert config["features"]["slim"] is True
    assert config["features"]["enable_signup"] is False
    assert machines.image.version.startswith(config["version"] + "-")
    token = machine.sign_in().json()["token"]
    updates = machine.request("/api/version/updates", headers=(f"Authorization: Bearer {token}",)).json()
    assert updates["latest"] == updates["current"]


def test_administrator_given_at_launch_signs_in(machine: Machine) -> None:
    account = machine.sign_in().json()
    assert (account["role"], account["name"]) == ("admin", "Ada L.")
    assert machine.sign_in("wrong").status == 400
    stranger = {"name": "x", "email": "x@localhost", "password": "something long"}
    assert machine.request("/api/v1/auths/signup", stranger).status == 403


def test_password_is_in_no_file_and_no_log(machine: Machine) -> None:
    part = "$staple`"  # whatever quoting surrounds it
    machine.write("/var/tmp/canary", part)
    assert machine.files_with(part) == ["/var/tmp/canary"]
    machine.output("rm", "/var/tmp/canary")
    assert machine.files_with(part) == []
    assert part not in machine.output("journalctl", "--no-pager")
    assert machine.output("cat", "/etc/anklume/open-webui-admin.env") == ""
    modes = machine.output("sh", "-c", "stat --format %a:%U /etc/anklume/*.env /run/anklume/*.env").split()
    assert modes == ["600:root"] * 3
    pid = machine.output("systemctl", "show", "open-webui", "--property", "MainPID", "--value").strip()
    assert "WEBUI_ADMIN" not in machine.output("cat", f"/proc/{pid}/environ")


def test_server_runs_confined(machine: Machine) -> None:
    pid = machine.output("systemctl", "show", "open-webui", "--property", "MainPID", "--value").strip()
    status = dict(line.split(":\t", 1) for line in machine.output("cat", f"/proc/{pid}/status").splitlines())
    assert status["Uid"].split() == [machine.output("id", "-u", "open-webui").strip()] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[kind], 16) for kind in ("CapEff", "CapBnd")} == {1 << 10}  # CAP_NET_BIND_SERVICE
    mounts = machine.output("cat", f"/proc/{pid}/mountinfo").splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert "ro" in options["/"]
    assert "rw" in options[STATE]


def test_program_was_compiled_when_the_image_was_built(machine: Machine) -> None:
    package = "/opt/open-webui/lib/python3.11/site-packages/open_webui"
    # Of no time stamp and unchecked: flags 1 (PEP 552).
    compiled = machine.run("head", "-c", "8", f"{package}/__pycache__/main.cpython-311.pyc").stdout
    assert compiled[4:] == b"\1\0\0\0"
    assert machine.output("find", "/opt", "-newer", "/etc/hostname") == ""


def test_restart_of_the_instance_keeps_everything(machine: Machine) -> None:
    key = machine.output("cat", KEY)
    bearer = (f"Authorization: Bearer {machine.sign_in().json()['token']}",)
    page = {"DEFAULT_MODELS": "of-the-page", "DEFAULT_PINNED_MODELS": "pinned-there", "MODEL_ORDER_LIST": []}
    assert machine.request("/api/v1/configs/models", page, headers=bearer).status == 200
    machine.stop()
    start_instance(machine.client, machine.name)
    machine.wait()
    assert machine.sign_in().status == 200
    assert machine.output("cat", KEY) == key
    models = machine.request("/api/v1/configs/models", headers=bearer).json()
    assert models["DEFAULT_PINNED_MODELS"] == "pinned-there"
    assert models["DEFAULT_MODELS"] == "of-the-file"
    (banner,) = machine.request("/api/v1/configs/banners", headers=bearer).json()
    assert banner["content"] == "Hi *all*"
    # The configuration still says it, so Incus wrote it again.
    assert machine.files_with("$staple`", *WRITTEN) == []


def test_variables_reach_the_service(machines: Machines, machine: Machine) -> None:
    other = machines.create(
        port="80",
        url="https://chat.example:8443/somewhere",
        ollama_enabled="false",
        openai_url="http://127.0.0.1:9000/v1",
        openai_key="k$y\\1",
        stt_url="http://speech.example/v1",
        origins="http://chat.lan https://chat.lan:444/x",
        name="Ours",
        signup="true",
        title_generation="false",
        persistent_config="false",
    )
    try:
        assert other.healthy()
        assert other.request("/", port=80).status == 200
        assert other.output("cat", KEY) != machine.output("cat", KEY)
        assert other.output("stat", "--format", "%a %U %s", KEY) == "600 open-webui 64\n"
        for origin, allowed in (("https://chat.example:8443", True), ("https://elsewhere.example", False)):
            answer = other.request("/api/config", port=80, headers=(f"Origin: {origin}",))
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        own = other.output("hostname", "--all-ip-addresses").split()[0]
        origins = ("https://chat.example:8443", "http://chat.lan", "https://chat.lan:444")
        for host, origin, accepted in (
            *(("127.0.0.1", origin, True) for origin in origins),
            ("127.0.0.1", "http://127.0.0.1", True),
            (own, f"http://{own}", True),
            (own, "http://elsewhere.example", False),
        ):
            head = (f"Host: {host}", f"Origin: {origin}")
            socket = other.request("/ws/socket.io/?EIO=4&transport=polling", port=80, headers=head)
            assert ("accepted origin" not in socket.text) is accepted, origin
        assert other.request("/api/config", port=80).json()["name"] == "Ours (Open WebUI)"
        other.write("/var/tmp/stand-in.py", STAND_IN)
        other.output("systemd-run", "--quiet", "python3", "/var/tmp/stand-in.py")
        other.output("sh", "-c", "until ss -lnt | grep -q :9000; do sleep 0.1; done")
        first = {"name": "first", "email": "first@localhost", "password": "something long"}
        account = other.request("/api/v1/auths/signup", first, port=80).json()
        assert account["role"] == "admin"
        bearer = (f"Authorization: Bearer {account['token']}",)
        models = other.request("/api/models", port=80, headers=bearer).json()["data"]
        assert "stand-in" in {model["id"] for model in models}
        assert other.request("/ollama/config", port=80, headers=bearer).json()["ENABLE_OLLAMA_API"] is False
        speech = other.request("/api/v1/audio/config", port=80, headers=bearer).json()["stt"]
        assert (speech["ENGINE"], speech["OPENAI_API_BASE_URL"]) == ("openai", "http://speech.example/v1")
        assert speech["OPENAI_API_KEY"] == ""
        assert other.request("/api/v1/tasks/config", port=80, headers=bearer).json()["ENABLE_TITLE_GENERATION"] is False
        # The first account closes sign-up until the next start.
        other.output("systemctl", "restart", "open-webui")
        config = other.request("/api/config", port=80).json()["features"]
        assert config["enable_signup"] is True
    finally:
        other.remove()


def test_page_stays_closed_until_there_is_the_administrator_that_was_asked_for(machines: Machines) -> None:
    long = "ü" * 36 + "x"
    other = machines.create(opens=False, admin_password=long)
    try:
        health = other.run("/usr/lib/anklume/healthcheck")
        assert health.code != 0
        assert b"72 bytes" in health.stderr
        assert ":3000" not in other.output("ss", "--listening", "--tcp", "--numeric")
        assert other.output("systemctl", "show", "open-webui", "--property", "NRestarts", "--value") == "0\n"
        assert other.files_with("ü" * 36, *WRITTEN) == []
        assert "ü" not in other.output("journalctl", "--no-pager")
        # Without the password it is as closed, and says so.
        other.run("systemctl", "restart", "open-webui")
        assert b"open_webui_admin_password" in other.run("/usr/lib/anklume/healthcheck").stderr
        other.stop()
        config = {"user.anklume.open_webui_admin_password": PASSWORD}
        machines.client.send("patch", f"instances/{other.name}", {"config": config})
        start_instance(machines.client, other.name)
        other.wait()
        assert other.healthy()
        assert other.sign_in().json()["role"] == "admin"
        assert other.files_with("$staple`", *WRITTEN) == []
    finally:
        other.remove()


def test_data_volume_outlives_the_instance(machines: Machines) -> None:
    machines.client.send("post", "storage-pools/default/volumes/custom", {"name": "chats"})
    first = machines.create(volume="chats", admin_password=PASSWORD, admin_email="Ada@Example.org")
    first.remove()
    second = machines.create(volume="chats", admin_password=ANOTHER)
    try:
        assert second.sign_in(email="ada@example.org").json()["role"] == "admin"
        assert second.sign_in(ANOTHER).status == 400
        assert second.files_with("$staple`", *WRITTEN) == []
    finally:
        second.remove()
        machines.client.send("delete", "storage-pools/default/volumes/custom/chats")


def test_server_that_cannot_start_says_so(machines: Machines, machine: Machine) -> None:
    machine.output("systemctl", "stop", "open-webui")
    blocker = "import socket, time; s = socket.create_server(('0.0.0.0', 3000)); time.sleep(600)"
    machine.output("systemd-run", "--quiet", "--unit", "blocker", "python3", "-c", blocker)
    refused = machine.run("systemctl", "start", "open-webui")
    machine.output("systemctl", "stop", "blocker")
    machine.wait()
    assert refused.code != 0
    assert "address already in use" in machine.output("journalctl", "-u", "open-webui", "--no-pager")
    assert machine.healthy()


def test_changes_of_the_newest_versions_are_shown(machine: Machine) -> None:
    changes = machine.request("/api/changelog").json()
    assert len(changes) == 5
    assert next(iter(changes)) == machine.request("/api/version").json()["version"]


def test_instance_makes_its_own_key_and_has_no_user(machines: Machines) -> None:
    fresh = machines.create()
    try:
        made, started = (int(fresh.output("stat", "--format", "%Y", path)) for path in (KEY, SETTINGS))
        assert made >= started
        assert fresh.request("/api/config").json()["onboarding"] is True
        assert "was not created" not in fresh.output("journalctl", "-u", "open-webui", "--no-pager")
    finally:
        fresh.remove()
