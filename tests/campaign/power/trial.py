"""Trial: record a workload on one file system, cut the power many times, judge each disk.

Runs as root in mount and process namespaces of its own, so that its end, however it comes, takes along every
mount, loop device and process. Prints JSON lines: {"image": 1}, {"violation": text}, at last {"figures": …}.

Arguments: file system, trials, seed.
"""

import contextlib
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import structlog
from power.acknowledged import Expected, Marks, noted
from power.cuts import Cut, choose, images
from power.devices import FILE_SYSTEMS, FileSystem, make, mounted, run, unmount
from power.tape import FLUSH, MARK, WRITE, Event, read_tape
from power.verdict import violations
from power.workload import work

IMAGES_A_RECORDING = 100
WORK_BYTES = 4 << 30


def tell(**line: Any) -> None:
    """Report a line; ends this process when nobody listens any more."""
    print(json.dumps(line), flush=True)


def record(system: FileSystem, room: Path, *, rounds: int, seed: int, busy: bool) -> list[Event]:
    """Run a workload; what reached the disk. ``room/start.img`` is the disk as it was before."""
    make(system, room / "start.img")
    run("cp", "--sparse=always", str(room / "start.img"), str(room / "work.img"))
    with (
        recorder(room / "fuse", room / "work.img", room / "tape"),
        mounted(system, room / "fuse/disk", room / "mnt"),
    ):
        mark = Marks(room / "fuse/marks")
        mark("pruning", versions=[])
        with noted(mark):
            work(room / "mnt/site", mark, rounds=rounds, seed=seed, busy=busy)
    (room / "work.img").unlink()
    return read_tape(room / "tape")


@contextlib.contextmanager
def recorder(point: Path, image: Path, tape: Path) -> Iterator[None]:
    """Serve a recording disk."""
    command = [sys.executable, "-m", "power.fuse_disk", str(point), str(image), str(tape)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise OSError("the recording disk did not start")
        try:
            yield
        finally:
            unmount(point)


@contextlib.contextmanager
def workroom() -> Iterator[Path]:
    """A folder in memory, with the mount points in it."""
    with tempfile.TemporaryDirectory(prefix="power-") as folder:
        run("mount", "-t", "tmpfs", "-o", f"size={WORK_BYTES}", "power", folder)
        try:
            room = Path(folder)
            for name in ("fuse", "mnt"):
                room.joinpath(name).mkdir()
            yield room
        finally:
            run("umount", "--lazy", folder)


def judge(system: FileSystem, room: Path, tape: list[Event], cut: Cut, image: Path) -> list[str]:
    """Mount a disk and judge it."""
    expected = Expected.of(tape[: cut.at])
    try:
        with mounted(system, image, room / "mnt"):
            return violations(room / "mnt/site", expected, Random(cut.seed))
    except subprocess.CalledProcessError as error:
        return [f"{' '.join(error.cmd)}: {error.stderr.strip()}"]
    except Exception as error:  # noqa: BLE001 - whatever a cut brings down is a finding, not the end of the trials
        return [f"{type(error).__name__}: {error}", *traceback.format_tb(error.__traceback__)[-2:]]


def main(name: str, trials: int, seed: int) -> None:
    """Carry out ``trials`` cuts."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    system = next(system for system in FILE_SYSTEMS if system.name == name)
    figures: Counter[str] = Counter()
    done = 0
    while done < trials:
        count = min(IMAGES_A_RECORDING, trials - done)
        with workroom() as room:
            done += _recording(system, room, count, seed + done, figures)
    tell(figures=figures)


def _recording(system: FileSystem, room: Path, count: int, seed: int, figures: Counter[str]) -> int:
    busy = (seed // IMAGES_A_RECORDING) % 2 == 1
    rounds = min(20, 4 + count // 3)
    started = time.monotonic()
    tape = record(system, room, rounds=rounds, seed=seed, busy=busy)
    gc.freeze()  # what is there by now stays; collections between the trials need not look at it
    figures["record_s"] += round(time.monotonic() - started)
    figures["recordings"] += 1
    for name, kind in (("writes", WRITE), ("flushes", FLUSH), ("marks", MARK)):
        figures[name] += sum(event.kind == kind for event in tape)
    cuts = choose(tape, count, Random(seed))
    sizes = {"sector_bytes": system.sector_bytes, "whole_bytes": system.whole_bytes}
    for cut, image in images(tape, cuts, room / "start.img", **sizes):
        figures[f"cut_{cut.kind}"] += 1
        if found := judge(system, room, tape, cut, image):
            tell(violation=f"{system.name}, seed {seed}, {cut}: {'; '.join(found)}")
        tell(image=1)
    return count


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
