"""Runs: ids of compacted versions as sorted files under ``state/ledger/``, searched through mmap.

A run ``<low>-<high>.ids`` holds every id that the versions low … high added, each with the cut of its row's
hash and its version. Two runs are joined by writing their union durably before they are removed: ids that are
there twice may be seen, but never none. The highest ``high`` also tells which numbers were used.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experience.durable import make_folder, write_atomic
from policies.errors import LedgerDamaged

MAGIC = b"LRNIDS1\n"
HEADER = np.dtype([("magic", "S8"), ("count", "<u8"), ("low", "<u8"), ("high", "<u8"), ("sha256", "V32")])
NAME = re.compile(r"[0-9]{8}-[0-9]{8}\.ids")
RECORD_BYTES = 40  # key 16, row 16, version 8
MOST_RUNS = 8
ATTEMPTS = 20


class IdRecord(NamedTuple):
    """One learned id.

    Attributes:
        key: 16 bytes, ``EpisodeKey.digest()``.
        row: 16 bytes, the beginning of the row's sha256.
        version: which version added it.
    """

    key: bytes
    row: bytes
    version: int


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A mapped file, sorted by key; keys as two columns of 8 bytes, so that numpy can search them."""

    path: Path
    low: int
    high: int
    first: NDArray[np.uint64]
    second: NDArray[np.uint64]
    rows: NDArray[np.void]
    versions: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.first)

    def find(self, keys: Sequence[bytes], firsts: NDArray[np.uint64]) -> Iterator[IdRecord]:
        """Every record of the given keys; ``firsts`` are their first 8 bytes."""
        starts = np.searchsorted(self.first, firsts)
        for key, first, start in zip(keys, firsts, starts.tolist(), strict=True):
            second = int.from_bytes(key[8:], "little")
            at = start
            while at < len(self) and self.first[at] == first:
                if self.second[at] == second:
                    yield IdRecord(key, self.rows[at].tobytes(), int(self.versions[at]))
                at += 1


class Runs:
    """The runs in a folder; reads what others add. Only one process at a time may call add, join or sweep.

    Args:
        folder: ``state/ledger``; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[tuple[str, int], _Run] = {}

    @property
    def compacted_through(self) -> int:
        """The highest version whose ids are here, as of the last ``refresh``; 0: none."""
        return max((run.high for run in self._runs.values()), default=0)

    @property
    def signature(self) -> frozenset[tuple[str, int]]:
        """Changes whenever ``refresh`` found other files."""
        return frozenset(self._runs)

    def highest_on_disk(self) -> int:
        """``compacted_through`` as it is now, from the names alone."""
        return max((int(name[9:17]) for name, _ in self._listed()), default=0)

    def refresh(self) -> None:
        """Map new runs and forget those that are gone.

        Raises:
            LedgerDamaged: a run is not as it was written.
        """
        for _ in range(ATTEMPTS):
            listed = self._listed()
            try:
                for name, inode in listed - self._runs.keys():
                    self._runs[name, inode] = _map(self._folder / name)
            except FileNotFoundError:
                continue  # another process joined it meanwhile: what replaced it is in a new listing
            self._runs = {key: self._runs[key] for key in listed}
            return
        raise LedgerDamaged(path=str(self._folder), reason="its runs keep changing")

    def find(self, keys: Sequence[bytes]) -> list[IdRecord]:
        """Every record of the given keys, in all runs."""
        if not self._runs:
            return []
        firsts = np.array([int.from_bytes(key[:8], "little") for key in keys], np.uint64)
        return [record for run in self._runs.values() for record in run.find(keys, firsts)]

    def add(self, low: int, high: int, records: Iterable[IdRecord]) -> None:
        """Write a run for the versions low … high, durably."""
        make_folder(self._folder)
        _write(self._folder, low, high, records)
        self.refresh()

    def join(self) -> None:
        """Join the two smallest neighbors until at most ``MOST_RUNS`` are left."""
        while len(self._runs) > MOST_RUNS:
            ordered = self._ordered()
            at = min(range(len(ordered) - 1), key=lambda i: len(ordered[i]) + len(ordered[i + 1]))
            self._join(ordered[at], ordered[at + 1])

    def sweep(self) -> None:
        """Finish joins that a crash cut short: a run within the range of another one goes into it."""
        self.refresh()
        while pair := next(
            (
                (a, b)
                for a, b in itertools.permutations(self._ordered(), 2)
                if a.low <= b.low and b.high <= a.high
            ),
            None,
        ):
            self._join(*pair)

    def _ordered(self) -> list[_Run]:
        return sorted(self._runs.values(), key=lambda run: (run.low, run.high))

    def _join(self, one: _Run, other: _Run) -> None:
        low, high = min(one.low, other.low), max(one.high, other.high)
        first, second, rows, versions = (
            np.concatenate([getattr(one, name), getattr(other, name)])
            for name in ("first", "second", "rows", "versions")
        )
        order = np.lexsort((versions, second, first))
        ids = [column[order] for column in (first, second, versions)]
        repeated = np.logical_and.reduce([column[1:] == column[:-1] for column in ids])
        keep = np.delete(order, np.flatnonzero(repeated) + 1)
        body = b"".join(column[keep].tobytes() for column in (first, second, rows, versions))
        _write_body(self._folder, low, high, len(keep), body)
        for run in (one, other):
            if (run.low, run.high) != (low, high):
                run.path.unlink(missing_ok=True)
        self.refresh()

    def _listed(self) -> set[tuple[str, int]]:
        try:
            with os.scandir(self._folder) as entries:
                return {(entry.name, entry.inode()) for entry in entries if NAME.fullmatch(entry.name)}
        except FileNotFoundError:
            return set()


def _write(folder: Path, low: int, high: int, records: Iterable[IdRecord]) -> None:
    unique = {(record.key, record.version): record for record in records}
    ordered = sorted(
        unique.values(),
        key=lambda r: (int.from_bytes(r.key[:8], "little"), int.from_bytes(r.key[8:], "little"), r.version),
    )
    body = b"".join(
        (
            b"".join(record.key[:8] for record in ordered),
            b"".join(record.key[8:] for record in ordered),
            b"".join(record.row for record in ordered),
            np.array([record.version for record in ordered], "<u8").tobytes(),
        )
    )
    _write_body(folder, low, high, len(ordered), body)


def _write_body(folder: Path, low: int, high: int, count: int, body: bytes) -> None:
    header = np.zeros((), HEADER)
    header["magic"], header["count"], header["low"], header["high"] = MAGIC, count, low, high
    header["sha256"] = np.void(hashlib.sha256(header.tobytes()[:32] + body).digest())
    write_atomic(folder / f"{low:08d}-{high:08d}.ids", header.tobytes() + body)


def _map(path: Path) -> _Run:
    data = np.asarray(np.memmap(path, np.uint8, mode="r")) if path.stat().st_size else np.zeros(0, np.uint8)
    if len(data) < HEADER.itemsize:
        raise LedgerDamaged(path=str(path), reason=f"has {len(data)} bytes, a header has {HEADER.itemsize}")
    header = data[: HEADER.itemsize].view(HEADER)[0]
    count, body = int(header["count"]), data[HEADER.itemsize :]
    digest = hashlib.sha256(data[:32].data)
    digest.update(body.data)
    name = f"{int(header['low']):08d}-{int(header['high']):08d}.ids"
    if digest.digest() != header["sha256"].tobytes() or len(body) != RECORD_BYTES * count:
        raise LedgerDamaged(path=str(path), reason="does not match its own sha256")
    if header["magic"] != MAGIC or name != path.name:
        raise LedgerDamaged(path=str(path), reason=f"is a run named {name}")
    return _Run(
        path=path,
        low=int(header["low"]),
        high=int(header["high"]),
        first=body[: 8 * count].view("<u8"),
        second=body[8 * count : 16 * count].view("<u8"),
        rows=body[16 * count : 32 * count].view("V16"),
        versions=body[32 * count :].view("<u8"),
    )
