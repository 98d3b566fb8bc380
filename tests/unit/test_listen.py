"""Where a server is told to listen: the forms that Ollama and llama-server take, and no others."""

from __future__ import annotations

import subprocess

import pytest

from anklume_images.specs.catalog import builtin_specs
from anklume_images.specs.listen import ListenError, hosts, listen
from anklume_images.specs.values import value_problem

OLLAMA = [
    ("", "127.0.0.1", 11434, False, "http://127.0.0.1:11434"),
    ("0.0.0.0", "0.0.0.0", 11434, True, "http://127.0.0.1:11434"),
    ("0.0.0.0:80", "0.0.0.0", 80, True, "http://127.0.0.1:80"),
    (":8000", "", 8000, True, "http://127.0.0.1:8000"),
    ("10.1.2.3:90", "10.1.2.3", 90, True, "http://10.1.2.3:90"),
    ("localhost", "localhost", 11434, False, "http://localhost:11434"),
    ("my-host.lan:1", "my-host.lan", 1, True, "http://my-host.lan:1"),
    ("127.0.0.2:65535", "127.0.0.2", 65535, False, "http://127.0.0.2:65535"),
    ("http://0.0.0.0", "0.0.0.0", 80, True, "http://127.0.0.1:80"),
    ("https://10.1.2.3", "10.1.2.3", 443, True, "http://10.1.2.3:443"),
    ("http://10.1.2.3:90/x", "10.1.2.3", 90, True, "http://10.1.2.3:90"),
    ("http://", "127.0.0.1", 80, False, "http://127.0.0.1:80"),
    ("::", "::", 11434, True, "http://[::1]:11434"),
    ("[::]", "::", 11434, True, "http://[::1]:11434"),
    ("[::]:9", "::", 9, True, "http://[::1]:9"),
    ("::1", "::1", 11434, False, "http://[::1]:11434"),
    ("fd00::1", "fd00::1", 11434, False, "http://[fd00::1]:11434"),
    ("[fd00::1]:9", "fd00::1", 9, False, "http://[fd00::1]:9"),
]


@pytest.mark.parametrize(("text", "host", "port", "served", "url"), OLLAMA)
def test_what_ollama_takes(text, host, port, served, url):
    found = listen(text, 11434)
    assert (found.hosts, found.port, found.served, found.own_url) == ((host,), port, served, url)
    assert value_problem("listen", text) is None


@pytest.mark.parametrize(("text", "url"), [(row[0], row[-1]) for row in OLLAMA])
def test_the_image_asks_its_ollama_at_the_same_address(text, url, tmp_path):
    script = (builtin_specs() / "ollama/files/ollama-url").read_text("utf-8")
    (tmp_path / "ollama.env").write_text(f"HOST={text}\n", "utf-8")
    script = script.replace("/etc/anklume", str(tmp_path))
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == f"{url}\n"


@pytest.mark.parametrize(
    "text",
    [
        *("8080", "0.0.0.0:99999", "0.0.0.0:0", "0.0.0.0:abc", "0.0.0.0:", ":", "0.0.0.0:+80", "0.0.0.0:-1"),
        *("[::", "::]", "[::]x", "[::]:", "[10.0.0.1]:80", "a:b:c", "10.1.2.999", "10.1.2", "010.0.0.1", "*:80"),
        *(" 0.0.0.0", "0.0.0.0 ", "a b", "-a", "ftp://0.0.0.0", "HTTP://0.0.0.0", "a$(id):9", "[fe80::1%eth0]:80"),
        *("0.0.0.0:80\n", "'0.0.0.0'", "0.0.0.0:\uff18\uff10", "a" * 254),
    ],
)
def test_what_ollama_does_not_take(text):
    with pytest.raises(ListenError):
        listen(text, 11434)
    assert value_problem("listen", text)


def test_a_bare_port_says_how_to_write_it():
    for value in (8080, "8080"):
        problem = value_problem("listen", value)
        assert problem
        assert problem.hint == 'a port alone is ":8080"'


@pytest.mark.parametrize(
    ("text", "served", "url"),
    [
        ("0.0.0.0", True, "http://127.0.0.1:80"),
        ("::", True, "http://[::1]:80"),
        ("127.0.0.1,::1", False, "http://127.0.0.1:80"),
        ("::,127.0.0.1", False, "http://[::1]:80"),  # beside another address, :: is IPv6 alone
        ("::,0.0.0.0", True, "http://[::1]:80"),
        ("localhost,10.0.0.1", True, "http://localhost:80"),
        ("fd00::1", False, "http://[fd00::1]:80"),
    ],
)
def test_what_llama_server_takes(text, served, url):
    found = hosts(text, 80)
    assert (found.served, found.own_url) == (served, url)
    assert value_problem("hosts", text) is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[::]", "write ::"),
        ("0.0.0.0:8080", "the port is a variable of its own"),
        ("[::]:8080", "the port is a variable of its own"),
        ("", "0.0.0.0 is every address"),
        ("0.0.0.0,", "0.0.0.0 is every address"),
        ("0.0.0.0, ::1", "the port is a variable of its own"),
        ("/run/llama.sock", None),
        ("8080", "0.0.0.0 is every address"),
        ("*", "0.0.0.0 is every address"),
    ],
)
def test_what_llama_server_does_not_take(text, hint):
    problem = value_problem("hosts", text)
    assert problem
    assert problem.hint == hint
