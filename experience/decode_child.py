"""The decoder process: ``python -m experience.decode_child SETTINGS [DESCRIPTOR]``, JSON jobs in, frames out.

It survives every file that it can: whatever a job raises becomes a problem. What it cannot survive (a crash
in native code, the kernel's memory killer) ends this process and not the learner. It ends when its standard
input closes, and leaves signals to the parent, which outlives it.
"""

import contextlib
import dataclasses
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np

from experience.codec import Limits, decoding
from experience.errors import InputError, Problem, reject
from experience.in_hand import NONE, SEVERAL, InHand
from experience.in_step import ALL, Steps, finish, in_step
from experience.intake_file import read_claimed
from experience.wire import Message, Part, encode, frame_bytes
from experience.work_file import WorkFiles

READY = -1
"""Job number of the first frame: imports are done, the time of the first job starts now."""

Frame = list[Part]

_OUTPUT_BUFFER_BYTES = 2**18
"""One write some small episodes."""

_SMALL_BYTES = 2**20
"""Files that are worked on together; larger ones gain nothing, and share the memory."""

_TOGETHER_S = 1.0
"""Time for files that are worked on together, and wait for the last of them; sixteen usual ones take 5 ms.
Small ones may hold thousands of episodes: each of those gets the parent's deadline for itself."""

_FRAME_BYTES = 2**22
"""A frame of several files: the parent has all of it in memory as long as it needs one of them."""

_COLLECT_OBJECTS = 20_000
"""Collections of garbage begin at so many new objects, not at 700: a table of 64 episodes is some thousands,
nearly all of which go with it, and looking for cycles among them took a fourteenth of its time."""

_NICENESS = 5
"""Reading yields to the update that trains beside it."""


def main() -> int:
    """Serve jobs until standard input closes."""
    settings = json.loads(sys.argv[1])
    _set_limits(settings["address_space_bytes"])
    output = _take_output()
    np.seterr(all="ignore")  # what overflows becomes infinite, and is refused by name
    in_hand = InHand(int(sys.argv[2]) if len(sys.argv) > 2 else None)  # noqa: PLR2004 - without a parent that reads it
    gc.freeze()  # what has been imported lives as long as the process: no collection need look at it
    gc.set_threshold(_COLLECT_OBJECTS)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, output, Limits(**settings["limits"]), begin=in_hand.note)
    return 0


def serve(
    lines: Iterable[bytes],
    output: BinaryIO,
    limits: Limits,
    *,
    begin: Callable[[int], object] = lambda _: None,
) -> None:
    """Answer each job of each line, a JSON list, with one frame on ``output``.

    Args:
        lines: jobs that may be worked on together.
        output: where frames go.
        limits: what a file may hold.
        begin: told the number of the job that is worked on from now on.
    """
    _send(output, encode([Message(job=READY, mtime_s=0.0)]))
    for line in lines:
        _answer_all(json.loads(line), output, limits, begin)


def _answer_all(
    jobs: Sequence[dict[str, Any]], output: BinaryIO, limits: Limits, begin: Callable[[int], object]
) -> None:
    """Answer the jobs of one line, in order."""
    frames = _together(jobs, limits, begin) if len(jobs) > 1 and _are_small(jobs) else [None] * len(jobs)
    for job, frame in zip(jobs, frames, strict=True):
        if frame is None:
            output.flush()  # what is answered stays so, whatever this one does
            begin(job["job"])
            _send(output, answer(job, limits))
        else:
            output.writelines(frame)
    output.flush()


def answer(job: dict[str, Any], limits: Limits) -> Frame:
    """Return the frame for one job; every failure becomes its problem."""
    try:
        with WorkFiles() as works:
            return encode([finish(_running(job, limits, works))])
    except InputError as error:
        problem = error.problem
    except MemoryError:
        problem = _too_large()
    except Exception as error:  # noqa: BLE001 - the last line of defense; a bug here must cost one file only
        problem = _unexpected(error)
    return encode([Message(job=job["job"], mtime_s=0.0, problem=problem)])


def _together(
    jobs: Sequence[dict[str, Any]], limits: Limits, begin: Callable[[int], object]
) -> Sequence[Frame | None]:
    """Return the frames of small files that are whole and soon read; None for each other one.

    Its problem is found where it is alone: it may have had too little memory beside the others.
    """
    until_s = time.monotonic() + _TOGETHER_S
    try:
        with WorkFiles() as works:
            messages = in_step(
                [_trying(job, limits, works) for job in jobs],
                begin=lambda place: begin(SEVERAL if place == ALL else jobs[place]["job"]),
                go_on=lambda: time.monotonic() < until_s,
            )
        begin(SEVERAL)
        return _framed(messages)
    except Exception:  # noqa: BLE001 - what goes wrong for several may be the fault of one: alone, it shows
        return [None] * len(jobs)
    finally:
        begin(NONE)  # what is wrong with an answer from here on need not be of the one worked on last


def _framed(messages: Sequence[Message | None]) -> list[Frame | None]:
    """Put neighbors into one frame, in the place of the first; nothing stands in those of the others."""
    frames: list[Frame | None] = [None if message is None else [] for message in messages]
    begin = 0
    for _, run in groupby(messages, lambda message: message is None):
        some = list(run)
        read = [message for message in some if message is not None]
        if read:
            whole = encode(read)
            if frame_bytes(bytes(whole[0])) <= _FRAME_BYTES:
                frames[begin] = whole
            else:
                frames[begin : begin + len(read)] = [encode([message]) for message in read]
        begin += len(some)
    return frames


def _trying(job: dict[str, Any], limits: Limits, works: WorkFiles) -> Steps[Message | None]:
    try:
        return (yield from _running(job, limits, works))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it comes again
        return None


def _are_small(jobs: Sequence[dict[str, Any]]) -> bool:
    try:
        return sum([os.lstat(job["claim_path"]).st_size for job in jobs]) <= _SMALL_BYTES
    except OSError:
        return False


def _running(job: dict[str, Any], limits: Limits, works: WorkFiles) -> Steps[Message]:
    """Read and decode one file.

    Raises:
        InputError: the whole file cannot be read.
    """
    work, slot = works.at(job["work_path"]), job["slot"]
    data, sha256, mtime_s = read_claimed(job["claim_path"], work, slot, limits)
    yield None
    try:
        decoded = yield from decoding(
            data, name=job["name"], source_sha256=sha256, ingested_at=job["ingested_at"], limits=limits
        )
    except InputError as error:
        if error.problem.reason == "truncated":
            work.drop(slot)  # the next attempt sees the file as it has grown
        raise
    return Message(job=job["job"], mtime_s=mtime_s, decoded=decoded)


def _too_large() -> Problem:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = f"more than the decoder's {limit >> 20} MiB of memory"
    return reject("too_large", "decoded size", found, "smaller files, or fewer episodes a file").problem


def _unexpected(error: Exception) -> Problem:
    return reject("malformed", "file", f"{type(error).__name__}: {error}", "a file of its format").problem


def _send(output: BinaryIO, frame: Frame) -> None:
    output.writelines(frame)
    output.flush()


def _take_output() -> BinaryIO:
    """Keep standard output for frames alone; what libraries print goes to standard error."""
    output = os.fdopen(os.dup(1), "wb", buffering=_OUTPUT_BUFFER_BYTES)
    os.dup2(2, 1)
    return output


def _set_limits(address_space_bytes: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))


def settings_json(limits: Limits, address_space_bytes: int) -> str:
    """The process's first argument; the second is the descriptor of an ``InHandFile``."""
    return json.dumps({"address_space_bytes": address_space_bytes, "limits": dataclasses.asdict(limits)})


if __name__ == "__main__":
    sys.exit(main())
