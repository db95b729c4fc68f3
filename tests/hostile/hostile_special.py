"""What a folder may hold besides files with content: links, devices, fifos, folders, odd names."""

import os
import socket
import stat
from pathlib import Path

from hostile_case import Case, arrays, header, npz, quarantined, write


def cases(now, outside: Path):
    """Yield every special case.

    Args:
        now: UTC seconds.
        outside: a folder beside the spool, for what links point to.
    """
    yield from _links(now, outside)
    yield from _kinds()
    yield from _names(now)
    yield from _permissions(now)


def _links(now, outside):
    secret = outside / "secret.npz"
    secret.write_bytes(npz(header("secret", now), **arrays()))
    twin = outside / "twin.npz"
    twin.write_bytes(npz(header("twin", now), **arrays()))
    special = quarantined("not_regular")
    yield Case(name="secret.npz", make=lambda path: path.symlink_to(secret), records=special)
    yield Case(name="shadow.jsonl", make=lambda path: path.symlink_to("/etc/shadow"), records=special)
    yield Case(name="dangling.npz", make=lambda path: path.symlink_to("/nowhere"), records=special)
    yield Case(name="loop.npz", make=lambda path: path.symlink_to(path), records=special)
    yield Case(name="hard-link.npz", make=lambda path: path.hardlink_to(twin), records=special)


def _kinds():
    special = quarantined("not_regular")
    yield Case(name="fifo.npz", make=os.mkfifo, records=special)
    yield Case(name="folder.npz", make=Path.mkdir, records=special)
    yield Case(name="full-folder.jsonl", make=_full_folder, records=special)
    yield Case(name="socket.npz", make=_socket, records=special)
    yield Case(
        name="sparse-1-tb.npz", make=lambda path: _sparse(path, 2**40), records=quarantined("too_large")
    )
    yield Case(
        name="sparse-60-mb.npz", make=lambda path: _sparse(path, 60_000_000), records=quarantined("malformed")
    )
    if can_make_devices():
        zero, loop = os.makedev(1, 5), os.makedev(7, 0)
        yield Case(
            name="zero.jsonl", make=lambda path: os.mknod(path, stat.S_IFCHR | 0o666, zero), records=special
        )
        yield Case(
            name="disk.npz", make=lambda path: os.mknod(path, stat.S_IFBLK | 0o666, loop), records=special
        )


def can_make_devices() -> bool:
    """Only a privileged user may; inside some containers not even root."""
    path = Path(f"/tmp/.device-{os.getpid()}")
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError:
        return False
    path.unlink()
    return True


def _full_folder(path):
    path.mkdir()
    (path / "inside.npz").write_bytes(b"x")


def _socket(path):
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:  # by /proc: a socket's path may have 107 bytes only
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _sparse(path, n_bytes):
    with path.open("wb") as file:
        file.truncate(n_bytes)


def _names(now):
    unknown = quarantined("unknown_format")
    for i, name in enumerate(("notes.txt", "noextension", "x.npz.exe", "x.npz ", "x..", "x.pkl")):
        yield Case(name=name, make=write(b"x"), records=unknown, why=str(i))
    for i, raw in enumerate(
        (b"\xff\xfe.npz", b"new\nline.npz", b"\x1b[2J.npz", b"a" * 251 + b".npz", b"-rf.npz", b"CAPS.NPZ")
    ):
        good = npz(header(f"name-{i}", now), **arrays())
        yield Case(name=os.fsdecode(raw), make=write(good), learned=1, why="any name is a name")


def _permissions(now):
    """For root every file is readable; see test_daemon.py for the other way round."""
    content = npz(header("mode-000", now), **arrays())
    readable = os.geteuid() == 0
    yield Case(
        name="mode-000.npz",
        make=lambda path: (path.write_bytes(content), path.chmod(0))[1],
        learned=int(readable),
        records=() if readable else quarantined("unreadable"),
    )
