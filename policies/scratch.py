"""Scratch folders and locks: what a writer holds while it publishes, and what it leaves when killed."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from experience.durable import ASIDE
from policies.errors import StoreBusy

PRUNED = ".pruned-"
YOUNGEST_S = 60.0  # a scratch folder this young may be one that its writer has not locked yet
OLD_FILE_S = 3600.0  # no write aside takes this long
POLL_S = 0.005  # filelock's default of 50 ms hands a contended lock over in 30 ms


@contextlib.contextmanager
def hold(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``, which is never deleted.

    Raises:
        StoreBusy: another process held it all the time.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - acting needs no filelock

    lock = FileLock(path, timeout=timeout_s, mode=0o660, fallback_to_soft=False, poll_interval=POLL_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreBusy(path=str(path), timeout_s=timeout_s) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder whose name starts with '.', locked while its writer lives; removed unless renamed."""
    folder = parent / f"{ASIDE}{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # where folders cannot be locked, age alone decides
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(parent: Path, now_s: float) -> None:
    """Remove what dead writers left in ``parent``: scratch folders, and pruned versions half removed."""
    for folder in parent.glob(".*"):
        if folder.name.startswith(PRUNED) or (folder.name.startswith(ASIDE) and _is_dead(folder, now_s)):
            shutil.rmtree(folder, ignore_errors=True)


def sweep_files(parent: Path, now_s: float) -> None:
    """Remove old files that were written aside in ``parent`` and never renamed."""
    for path in parent.glob(f"{ASIDE}*"):
        with contextlib.suppress(OSError):
            if path.is_file() and now_s - path.stat().st_mtime > OLD_FILE_S:
                path.unlink()


def _is_dead(folder: Path, now_s: float) -> bool:
    try:
        if now_s - folder.stat().st_mtime < YOUNGEST_S:
            return False
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # it cannot be locked here
    finally:
        os.close(descriptor)
    return True
