"""The decoder process: ``python -m experience.decode_child SETTINGS``, one JSON job a line in, frames out.

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
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from experience.codec import Limits, decode
from experience.errors import InputError, Problem, reject
from experience.intake_file import drop_copy, read_claimed
from experience.wire import Message, encode

READY = -1
"""Job number of the first frame: imports are done, the time of the first job starts now."""

_OUTPUT_BUFFER_BYTES = 2**18
"""One write a small episode."""

_NICENESS = 5
"""Reading yields to the update that trains beside it."""


def main() -> int:
    """Serve jobs until standard input closes."""
    settings = json.loads(sys.argv[1])
    _set_limits(settings["address_space_bytes"])
    output = _take_output()
    gc.freeze()  # what has been imported lives as long as the process: no collection need look at it
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, output, Limits(**settings["limits"]))
    return 0


def serve(jobs: Iterable[bytes], output: BinaryIO, limits: Limits) -> None:
    """Answer each line of ``jobs`` with one frame on ``output``."""
    _send(output, encode(Message(job=READY, mtime_s=0.0)))
    for line in jobs:
        _send(output, answer(json.loads(line), limits))


def answer(job: dict[str, Any], limits: Limits) -> list[bytes | memoryview]:
    """Return the frame for one job; every failure becomes its problem."""
    try:
        return encode(run(job, limits))
    except InputError as error:
        problem = error.problem
    except MemoryError:
        problem = _too_large()
    except Exception as error:  # noqa: BLE001 - the last line of defense; a bug here must cost one file only
        problem = _unexpected(error)
    return encode(Message(job=job["job"], mtime_s=0.0, problem=problem))


def run(job: dict[str, Any], limits: Limits) -> Message:
    """Read and decode one file.

    Raises:
        InputError: the whole file cannot be read.
    """
    work = Path(job["work_path"])
    data, sha256, mtime_s = read_claimed(Path(job["claim_path"]), work, limits)
    try:
        decoded = decode(
            data, name=job["name"], source_sha256=sha256, ingested_at=job["ingested_at"], limits=limits
        )
    except InputError as error:
        if error.problem.reason == "truncated":
            drop_copy(work)
        raise
    return Message(job=job["job"], mtime_s=mtime_s, decoded=decoded)


def _too_large() -> Problem:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = f"more than the decoder's {limit >> 20} MiB of memory"
    return reject("too_large", "decoded size", found, "smaller files, or fewer episodes a file").problem


def _unexpected(error: Exception) -> Problem:
    return reject("malformed", "file", f"{type(error).__name__}: {error}", "a file of its format").problem


def _send(output: BinaryIO, frame: list[bytes | memoryview]) -> None:
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
    """The process's one argument."""
    return json.dumps({"address_space_bytes": address_space_bytes, "limits": dataclasses.asdict(limits)})


if __name__ == "__main__":
    sys.exit(main())
