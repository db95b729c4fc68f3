"""The corpus of hostile files, each with what must become of it.

``python tests/hostile/corpus.py FOLDER`` writes it to FOLDER/in, with FOLDER/expected.json beside it. FOLDER
may be a spool. Nothing in it is dangerous to list, move or delete.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_npz
import hostile_special
import hostile_tables
import hostile_text
from hostile_case import Case

CANARY = "unpickled"
"""A file of this name beside the corpus means that something was unpickled."""


def corpus(folder: Path, *, now: float) -> Iterator[Case]:
    """Yield every case; ``folder`` takes what links point to."""
    canary = folder / CANARY
    yield from hostile_npz.cases(now, canary)
    yield from hostile_text.cases(now)
    yield from hostile_tables.cases(now, canary)
    yield from hostile_special.cases(now, folder)


def generate(
    folder: Path, *, now: float, choose: Callable[[list[Case]], list[Case]] | None = None
) -> list[Case]:
    """Write the corpus, or what ``choose`` leaves of it, into folder/in, in order of time."""
    inbox = folder / "in"
    inbox.mkdir(parents=True, exist_ok=True)
    cases = list(corpus(folder, now=now))
    cases = choose(cases) if choose else cases
    for i, case in enumerate(cases):
        path = inbox / case.name
        case.make(path)
        moment = now - 3000 + i  # the daemon takes the oldest first
        os.utime(path, (moment, moment), follow_symlinks=False)
    return cases


SMALL = {
    ".npz": hostile_npz.small,
    ".jsonl": hostile_text.small,
    ".parquet": hostile_tables.small_parquet,
    ".arrow": hostile_tables.small_arrow,
}
"""One small valid file of each format."""


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield every truncation and every single-bit flip of ``data``, with its name."""
    for size in range(len(data)):
        yield f"cut-{size}", data[:size]
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"flip-{bit}", bytes(flipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    cases = generate(folder, now=time.time())
    rows = [
        {"name": case.name, "learned": case.learned, "records": case.records, "why": case.why}
        for case in cases
    ]
    (folder / "expected.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{len(cases)} files in {folder / 'in'}, verdicts in {folder / 'expected.json'}")


if __name__ == "__main__":
    main()
