"""Rights, file systems, room and the cost of a flush."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from learnerd.config import Config
from learnerd.doctor.finding import Finding, failure, notice, ok, warning
from learnerd.doctor.scratch import existing

SPOOL_FOLDERS = ("in", "busy", "claimed", "work", "archive", "refused", "quarantine")
STATE_FOLDERS = ("checkpoints", "ledger", "lock")
MIN_FREE_BYTES = 100 * 2**20
GOOD_FREE_BYTES = 2**30
MIN_FREE_FILES = 10_000
SLOW_FLUSH_S = 0.05
FLUSHES = 9

NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.rclone")
)
VOLATILE = frozenset(("tmpfs", "ramfs"))
LAYERED = "overlay"


def check(config: Config) -> Iterator[Finding]:
    """Look at spool and state."""
    yield _rights("spool", config.paths.spool, SPOOL_FOLDERS)
    yield _rights("state", config.paths.state, STATE_FOLDERS)
    mounts = _mounts()
    yield _file_system("spool", config.paths.spool, mounts)
    yield _file_system("state", config.paths.state, mounts)
    yield _one_file_system(config.paths.spool, mounts)
    yield _room(config)


def _rights(name: str, root: Path, parts: tuple[str, ...]) -> Finding:
    """Writable, of one owner, and not for everybody."""
    there = existing(root)
    if there != root and os.path.lexists(root):
        return failure(name, f"{root} is no folder", "move it away, or name another one under [paths]")
    found = [there, *(path for path in (root / part for part in parts) if existing(path) == path)]
    closed = [path for path in found if not os.access(path, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        what = f"user {os.geteuid()} may not write in {', '.join(map(str, closed))}"
        return failure(name, what, "run as the daemon's user, or give it the folder with chown")
    if there != root:
        return ok(name, f"{root} is not there yet: the daemon makes it")
    owner = root.stat().st_uid
    foreign = [path for path in found if path.stat().st_uid != owner]
    if foreign:
        what = f"{', '.join(map(str, foreign))}: of another owner than {root}"
        return warning(name, what, f"chown -R {owner}: {root}")
    if name == "state" and root.stat().st_mode & 0o002:
        return warning(name, f"anybody may write in {root}", f"chmod o-w {root}")
    return ok(name, f"{root} is writable")


def _mounts() -> list[tuple[Path, str]]:
    """(where, type) of every file system that is mounted; the last one on a place is the one in force."""
    found = []
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        fields, _, rest = line.partition(" - ")
        where = fields.split()[4].encode().decode("unicode_escape")  # blanks are written as \040
        found.append((Path(where), rest.split()[0]))
    return found


def _file_system(name: str, folder: Path, mounts: list[tuple[Path, str]]) -> Finding:
    there = existing(folder).resolve()
    around = [(len(where.parts), kind) for where, kind in mounts if there.is_relative_to(where)]
    kind = around[max(range(len(around)), key=lambda i: (around[i][0], i))][1] if around else "unknown"
    check = f"{name} file system"
    if kind in NETWORK:
        remedy = "use a local one, such as ext4 or XFS: rename and fsync must hold"
        return failure(check, f"{kind}, over the network", remedy)
    if kind in VOLATILE:
        return warning(check, f"{kind}: gone at the next boot", "use one on a disk, such as ext4 or XFS")
    if kind == LAYERED:
        return notice(check, "overlay: gone with its container", "mount a volume there, to keep it")
    return ok(check, kind)


def _one_file_system(spool: Path, mounts: list[tuple[Path, str]]) -> Finding:
    """Claims, refusals and archiving are renames: they must not cross into another one."""
    inside = [str(where) for where, _ in mounts if spool.resolve() in where.parents]
    if inside:
        return failure("renames", f"mounted inside the spool: {', '.join(inside)}", "mount the whole spool")
    return ok("renames", "all of the spool is on one file system")


def _room(config: Config) -> Finding:
    found = [os.statvfs(existing(folder)) for folder in (config.paths.spool, config.paths.state)]
    free_bytes = min(one.f_bavail * one.f_frsize for one in found)
    free_files = min((one.f_favail for one in found if one.f_files), default=None)  # btrfs counts none
    remedy = (
        "free some, or lower keep_bytes in [store], [archive] and [quarantine]; nothing is learned with less "
        "than [disk] min_free_bytes"
    )
    what = f"{free_bytes / 2**30:.1f} GiB"
    if free_files is not None and free_files < MIN_FREE_FILES:
        return warning("free space", f"room for {free_files} more files", remedy)
    if free_bytes < max(MIN_FREE_BYTES, config.disk.min_free_bytes):
        return failure("free space", what, remedy)
    return ok("free space", what) if free_bytes >= GOOD_FREE_BYTES else warning("free space", what, remedy)


def fsync_cost(scratch: Path) -> Finding:
    """Flush small files as a publish does; their folder too."""
    spent = []
    try:
        for number in range(FLUSHES):
            begun_s = time.perf_counter()
            with (scratch / f"flush-{number}").open("wb") as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            folder = os.open(scratch, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            spent.append(time.perf_counter() - begun_s)
    except OSError as error:
        remedy = "use a local file system for the state, such as ext4 or XFS"
        return failure("fsync", f"{scratch.parent}: {error.strerror}", remedy)
    cost_s = statistics.median(spent)
    what = f"{cost_s * 1000:.2f} ms a file and its folder, in {scratch.parent}"
    if cost_s > SLOW_FLUSH_S:
        remedy = "a faster disk; or publish less often: raise [batch] min_episodes and max_wait_s"
        return notice("fsync", what, remedy)
    return ok("fsync", what)
