"""Showdown: a Pokémon Showdown server as a process, in a folder of its own, on the loopback address only."""

import importlib.util
import os
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Site

ADDRESS = "127.0.0.1"
PACKAGE = "POKEMON_SHOWDOWN"
HOW = (
    "NOT RUN: pip install 'poke-env>=0.16'; "
    "npm install --prefix FOLDER --omit=optional --ignore-scripts pokemon-showdown; "
    f"{PACKAGE}=FOLDER/node_modules/pokemon-showdown. Missing here: "
)
CONFIG = f"""
exports.bindaddress = '{ADDRESS}';
exports.subprocesses = 0;
exports.repl = false;
exports.loginserver = 'http://{ADDRESS}:1/';
"""
SHARED = ("dist", "data", "translations", "package.json", "pokemon-showdown")
OWN = ("config/chat-plugins", "databases", "logs/repl")
START_S = 120.0


def needed() -> Path:
    """Where the server's package is; skips, and says how to install what is missing."""
    package = Path(os.environ.get(PACKAGE, "")).absolute()
    found = {
        "node": shutil.which("node"),
        "poke-env": importlib.util.find_spec("poke_env"),
        "pokemon-showdown": PACKAGE in os.environ and (package / "pokemon-showdown").is_file(),
    }
    missing = [name for name, there in found.items() if not there]
    if missing:
        pytest.skip(HOW + ", ".join(missing))
    return package


@contextmanager
def showdown(folder: Path) -> Iterator[str]:
    """Run a server meanwhile; gives its address and port.

    The server writes below the folder that it is started from: that is one of links to the package. The port
    is an argument, because without one the optional package cloud-env has it listen on all addresses,
    whatever its config says.

    Args:
        folder: must not exist yet.
    """
    package, port = needed(), free_port()
    site = Site(folder, env={"NODE_PATH": str(package.parent)})
    for name in OWN:
        (folder / name).mkdir(parents=True)
    for name in SHARED:
        (folder / name).symlink_to(package / name)
    (folder / "config" / "config.js").write_text(CONFIG)
    command = ["node", "--preserve-symlinks", "--preserve-symlinks-main", str(folder / "pokemon-showdown")]
    arguments = ["start", str(port), "--skip-build", "--no-security"]
    with site.process("server", *command, *arguments, exit_codes=(-signal.SIGTERM,)):
        site.wait_for(lambda: answers(port), "the Showdown server", START_S)
        assert listeners(port) == {ADDRESS}
        yield f"{ADDRESS}:{port}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Whether the server takes connections."""
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}/showdown/info", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def listeners(port: int) -> set[str]:
    """The addresses on which anybody listens at this port, as the kernel has it."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, number = local.split(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[at : at + 8]) for at in range(0, len(address), 8)]
                raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
                found.add(socket.inet_ntop(family, raw))
    return found
