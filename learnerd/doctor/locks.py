"""Who holds the locks, and whose claims wait for nobody. The kernel's list is read: no lock is tried."""

import os
from collections.abc import Iterator
from pathlib import Path

from learnerd import status_file
from learnerd.config import Config
from learnerd.doctor.finding import Finding, failure, notice, ok, warning

PROC = Path("/proc")
STOPPED = ("T", "t")


def check(config: Config) -> Iterator[Finding]:
    """Look at both locks, and at claims."""
    running = status_file.live_document(config)["daemon"]["pid"]
    for name in ("instance", "publish"):
        yield _lock(name, _holders(config.paths.state / "lock" / name), running)
    yield from _claims(config, runs=running is not None)


def _lock(name: str, holders: list[int], running: int | None) -> Finding:
    check = f"lock {name}"
    for pid in holders:
        if _state_of(pid) in STOPPED:
            what = f"process {pid} holds it and is stopped"
            return failure(check, what, f"kill -CONT {pid}, or end it: kill -KILL {pid}")
    others = [str(pid) for pid in holders if pid != running]
    if name == "instance" and others:
        what = f"held by process {others[0]}, which is not the daemon of the status file"
        return warning(check, what, f"look at it: ps -fp {others[0]}; it may be a daemon that starts")
    return ok(check, f"held by the daemon, pid {running}" if holders else "free")


def _holders(path: Path) -> list[int]:
    """Processes that hold ``path``, as /proc/locks lists them: device and inode name the file."""
    try:
        status = path.stat()
        lines = (PROC / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    # "1: FLOCK  ADVISORY  WRITE 5312 fe:00:2255590 0 EOF"; one that waits has "->" behind the number.
    fields = [line.split() for line in lines]
    return [int(one[4]) for one in fields if one[1] != "->" and one[5] == device]


def _state_of(pid: int) -> str:
    """The letter of proc(5); "" when it cannot be seen."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def _claims(config: Config, *, runs: bool) -> Iterator[Finding]:
    """Files that were claimed: by the daemon, for its next start; by others, who may never come back."""
    root = config.paths.spool / "claimed"
    try:
        folders = [folder for folder in root.iterdir() if folder.is_dir()]
        counts = {folder.name: sum(1 for _ in folder.iterdir()) for folder in folders}
    except OSError:
        return
    own = counts.pop(config.daemon.name, 0)
    if own and not runs:
        yield notice("claims", f"{own} files wait for the daemon", "start it: it takes them up")
    for writer, count in counts.items():
        if count:
            what = f"{count} files are claimed by {writer!r}, which is not the name of this daemon"
            remedy = f"start who has that name, or move them from {root / writer} back into in/"
            yield warning("claims", what, remedy)
