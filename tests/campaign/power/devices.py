"""File systems in files: made, mounted on loop devices, and taken down again whatever happens.

Meant for a private mount namespace, whose end takes every mount with it; loop devices are let go right after
the mount, so that the kernel frees each with its last user.
"""

import contextlib
import gc
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
PATIENCE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """How to make and mount one kind of file system.

    Attributes:
        name: for ``mount -t``.
        make: the command that makes it, but for the file.
        options: for ``mount -o``.
        size_bytes: of the disk; near the least that it accepts.
        sector_bytes: what the disk writes as a whole: what a power cut does not tear.
        whole_bytes: the beginning of the disk that is not torn either.
        package: where its command comes from, on Debian.
    """

    name: str
    make: tuple[str, ...]
    options: str
    size_bytes: int
    sector_bytes: int
    whole_bytes: int
    package: str


# XFS lives with sectors of 512 bytes. So does ext4 but for its superblock, which is written in place with a
# checksum, and needed for mounting. btrfs takes all its blocks, of 4 KiB, to be written whole.
FILE_SYSTEMS = (
    FileSystem(
        name="ext4",
        make=("mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
        options="nodiscard,errors=remount-ro",
        size_bytes=64 * MIB,
        sector_bytes=512,
        whole_bytes=4096,
        package="e2fsprogs",
    ),
    FileSystem(
        name="xfs",
        make=("mkfs.xfs", "-q", "-K"),
        options="nodiscard,nouuid",
        size_bytes=320 * MIB,
        sector_bytes=512,
        whole_bytes=512,
        package="xfsprogs",
    ),
    FileSystem(
        name="btrfs",
        make=("mkfs.btrfs", "-q", "-K"),
        options="nodiscard",
        size_bytes=192 * MIB,
        sector_bytes=4096,
        whole_bytes=4096,
        package="btrfs-progs",
    ),
)


def missing(system: FileSystem) -> str:
    """Why a file system cannot be used on this machine; "" when it can."""
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    if shutil.which(system.make[0]) is None:
        return f"{system.make[0]} is not installed (package {system.package})"
    return "" if system.name in known else f"this kernel has no {system.name}"


def make(system: FileSystem, image: Path) -> None:
    """Make an empty file system in a new sparse file."""
    with image.open("xb") as file:
        file.truncate(system.size_bytes)
    run(*system.make, str(image))


@contextlib.contextmanager
def mounted(system: FileSystem, disk: Path, point: Path) -> Iterator[None]:
    """Mount a disk through a loop device.

    Raises:
        subprocess.CalledProcessError: it cannot be mounted; its output says why.
    """
    sector = str(system.sector_bytes)
    device = run("losetup", "--find", "--show", "--sector-size", sector, str(disk)).strip()
    try:
        run("mount", "-t", system.name, "-o", system.options, device, str(point))
    finally:
        run("losetup", "--detach", device)  # at once, or with the unmounting
    try:
        yield
    finally:
        unmount(point)
        _wait_until_free(device)
        if system.name == "btrfs":
            subprocess.run(["btrfs", "device", "scan", "--forget"], check=False, capture_output=True)


def unmount(point: Path) -> None:
    """Unmount, waiting for whoever still has a file open there."""
    until = time.monotonic() + PATIENCE_S
    while True:
        gc.collect()  # a map of a file that nobody holds any more keeps its file system busy
        try:
            run("umount", str(point))
        except subprocess.CalledProcessError:
            if time.monotonic() > until:
                run("umount", "--lazy", str(point))
                raise
            time.sleep(0.02)
        else:
            return


def run(*command: str) -> str:
    """Run a command; its standard output."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _wait_until_free(device: str) -> None:
    """The kernel frees a loop device a moment after its last user is gone."""
    backing = Path("/sys/block", Path(device).name, "loop", "backing_file")
    until = time.monotonic() + PATIENCE_S
    while backing.exists() and time.monotonic() < until:
        time.sleep(0.002)
