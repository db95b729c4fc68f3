"""Checks of the machine before the daemon's first start: each says what was found and what to do about it."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from learnerd.config import Config

Verdict = Literal["ok", "warning", "failure"]
PROBE_NAME = ".tmp-learnerd-check"
MIN_FREE_BYTES = 100 * 2**20
GOOD_FREE_BYTES = 2**30
MIN_INOTIFY_WATCHES = 1024
MIN_INOTIFY_INSTANCES = 16


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check's outcome.

    Attributes:
        name: what was checked.
        verdict: "failure" means that the daemon will not work.
        found: what was found.
        remedy: what to do; "" when nothing is wrong.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def run_checks(config: Config) -> list[Check]:
    """All of them, cheap ones first; the folders must exist."""
    checks: tuple[Callable[[Config], Check], ...] = (
        _python,
        _torch,
        _spool_writable,
        _state_writable,
        _renames,
        _fsync,
        _inotify,
        _free_space,
    )
    return [check(config) for check in checks]


def _python(_: Config) -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    return Check(name="python", verdict="ok", found=found)


def _torch(_: Config) -> Check:
    """Looked up, not imported: importing takes seconds."""
    if importlib.util.find_spec("torch") is None:
        return Check(
            name="torch",
            verdict="failure",
            found="not installed",
            remedy=f"{sys.executable} -m pip install torch",
        )
    return Check(name="torch", verdict="ok", found=importlib.metadata.version("torch"))


def _spool_writable(config: Config) -> Check:
    return _writable("spool", config.paths.spool / "in")


def _state_writable(config: Config) -> Check:
    return _writable("state", config.paths.state)


def _writable(name: str, folder: Path) -> Check:
    try:
        with _probe(folder):
            return Check(name=name, verdict="ok", found=f"{folder} is writable")
    except OSError as error:
        return _failure(name, folder, error, f"make it a folder that user {os.getuid()} may write")


def _renames(config: Config) -> Check:
    """Claims, refusals and archiving are renames: they must not cross a file system."""
    spool = config.paths.spool
    targets = [spool / name for name in ("claimed", "work", "archive", "refused", "quarantine")]
    for target in targets:
        try:
            with _probe(spool / "in") as probe:
                moved = target / PROBE_NAME
                probe.rename(moved)
                moved.unlink()
        except OSError as error:
            return _failure("renames", target, error, "keep the whole spool on one file system")
    return Check(name="renames", verdict="ok", found="all of the spool is on one file system")


def _fsync(config: Config) -> Check:
    state = config.paths.state
    try:
        with _probe(state) as probe:
            for path in (probe, state):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
    except OSError as error:
        return _failure("fsync", state, error, "use a local file system for the state, such as ext4 or xfs")
    return Check(name="fsync", verdict="ok", found="files and folders can be flushed")


def _inotify(_: Config) -> Check:
    limits = {}
    for key, least in (
        ("max_user_watches", MIN_INOTIFY_WATCHES),
        ("max_user_instances", MIN_INOTIFY_INSTANCES),
    ):
        try:
            limits[key] = int(Path(f"/proc/sys/fs/inotify/{key}").read_text(encoding="ascii"))
        except (OSError, ValueError):
            found = "limits are unknown"
            return Check(
                name="inotify", verdict="warning", found=found, remedy="files are found by rescans alone"
            )
        if limits[key] < least:
            found, remedy = f"{key} is {limits[key]}", f"sysctl fs.inotify.{key}={8 * least}"
            return Check(name="inotify", verdict="warning", found=found, remedy=remedy)
    return Check(name="inotify", verdict="ok", found=", ".join(f"{key} {n}" for key, n in limits.items()))


def _free_space(config: Config) -> Check:
    try:
        free = min(_free_bytes(folder) for folder in (config.paths.spool, config.paths.state))
    except OSError as error:
        return _failure("free space", config.paths.state, error, "make the folders")
    found = f"{free / 2**30:.1f} GiB free"
    if free >= GOOD_FREE_BYTES:
        return Check(name="free space", verdict="ok", found=found)
    verdict: Verdict = "failure" if free < MIN_FREE_BYTES else "warning"
    remedy = "free some space, or lower keep_bytes in [store], [archive] and [quarantine]"
    return Check(name="free space", verdict=verdict, found=found, remedy=remedy)


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A small file that is gone afterwards."""
    probe = folder / PROBE_NAME
    probe.write_bytes(b"check")
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def _failure(name: str, folder: Path, error: OSError, remedy: str) -> Check:
    return Check(name=name, verdict="failure", found=f"{folder}: {error.strerror or error}", remedy=remedy)
