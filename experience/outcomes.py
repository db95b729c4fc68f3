"""Outcomes: the durable record of refusals and quarantines, so that their counts survive a kill.

Record an outcome before the file is moved or removed: a crash between the two gives the same verdict once
more under the same key, and a key counts once.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from experience.durable import fsync_folder, make_folder, write_atomic

Verdict = Literal["refused", "quarantined"]

FOLD_BYTES = 16 * 1024 * 1024
"""About 50,000 records: a tenth of a second to read at start."""

RECENT_CLAIMS = 4096
"""Finished claims whose keys are still known: more than a batch that fails and is finished again holds."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one episode, or of one file, that was not learned from.

    Attributes:
        key: "<claim id>/<which episode of it>"; a key counts once.
        verdict: "refused" (readable) or "quarantined" (not readable).
        reason, field, value, accepted: as in Problem.
        name: the file's name.
        client_id: who wrote it; "" when unknown.
        at: UTC seconds.
    """

    key: str
    verdict: Verdict
    reason: str
    name: str
    field: str
    value: str
    accepted: str
    client_id: str = ""
    at: float


class Outcomes:
    """A JSONL file with one writer; any number of others may read its counts.

    A last line that a crash cut short was never acknowledged: readers pass over it, and the next ``record``
    removes it.

    Args:
        path: created by the first ``record``; its folder too.

    Attributes:
        damaged_lines: whole lines that could not be read; they are not counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder_synced = False
        self._finished: dict[str, None] = {}
        self._keys: dict[str, set[str]] = {}
        self._size_bytes = 0
        self._counts = _no_counts()
        self._load()

    def known(self, key: str) -> bool:
        """Whether ``key`` has a verdict already, and its claim was not forgotten."""
        return key in self._keys.get(_claim_of(key), ())

    def names(self, claim_id: str) -> bool:
        """Whether any key of this claim has a verdict, and it was not forgotten."""
        return claim_id in self._keys

    def forget(self, claim_id: str) -> None:
        """A claim is gone for good: its keys need not be remembered for long, only their counts."""
        if claim_id in self._keys:
            self._finished[claim_id] = None
        while len(self._finished) > RECENT_CLAIMS:
            oldest = next(iter(self._finished))
            del self._finished[oldest], self._keys[oldest]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return {"refused": {reason: n}, "quarantined": {reason: n}}, reasons in alphabetical order."""
        return {verdict: dict(sorted(counter.items())) for verdict, counter in self._counts.items()}

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Append those whose key is new, with one fsync; all are durable on return.

        Raises:
            OSError: none of them is counted; record them again.
        """
        fresh: dict[str, Outcome] = {}
        for outcome in outcomes:
            if not self.known(outcome.key):
                fresh.setdefault(outcome.key, outcome)
        if not fresh:
            return
        records = [asdict(outcome) for outcome in fresh.values()]
        self._append("".join(f"{json.dumps(record)}\n" for record in records).encode())
        for record in records:
            self._count(record)

    def renew(self) -> None:
        """Write the file anew, durably; call it once at the start of the process that will record.

        An earlier process may have been killed after an fsync that failed: its records can be read, but may
        not be on the disk, and another fsync of the same file would not tell.
        """
        make_folder(self._path.parent)
        data = self._path.read_bytes()[: self._size_bytes] if self._size_bytes else b""
        write_atomic(self._path, data)
        self._folder_synced = True

    def fold(self, present: Collection[str], *, above_bytes: int = FOLD_BYTES) -> bool:
        """Compact a file above ``above_bytes``: records of claims that are gone become totals.

        Args:
            present: ids of the claims that may still be judged again; keys of all others are forgotten.
            above_bytes: smaller files are left alone.

        Returns:
            Whether it was compacted.
        """
        kept_claims = {*present, *self._finished}
        if self._size_bytes <= above_bytes:
            self._keys = {claim: keys for claim, keys in self._keys.items() if claim in kept_claims}
            return False
        kept: dict[str, dict[str, Any]] = {}
        for record in _records(self._path.read_bytes()[: self._size_bytes])[0]:
            if "totals" not in record and _claim_of(record["key"]) in kept_claims:
                kept.setdefault(record["key"], record)
        totals = {verdict: counter.copy() for verdict, counter in self._counts.items()}
        for record in kept.values():
            totals[record["verdict"]][record["reason"]] -= 1
        lines = [{"totals": totals}, *kept.values()]
        write_atomic(self._path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
        self._load()
        self._finished = {claim: None for claim in self._finished if claim in self._keys}
        return True

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        self._keys = {}
        self._counts = _no_counts()
        self._size_bytes = data.rfind(b"\n") + 1
        records, self.damaged_lines = _records(data[: self._size_bytes])
        for record in records:
            self._count(record)

    def _count(self, record: Mapping[str, Any]) -> None:
        if "totals" in record:
            _add(self._counts, record["totals"])
        elif not self.known(record["key"]):
            self._keys.setdefault(_claim_of(record["key"]), set()).add(record["key"])
            self._counts[record["verdict"]][record["reason"]] += 1

    def _append(self, data: bytes) -> None:
        if not self._folder_synced:
            make_folder(self._path.parent)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # What lies behind the last acknowledged line is of a write that failed or was cut short.
            end = min(self._size_bytes, os.fstat(file).st_size)
            os.ftruncate(file, end)
            os.lseek(file, end, os.SEEK_SET)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        if not self._folder_synced:
            fsync_folder(self._path.parent)
            self._folder_synced = True
        self._size_bytes = end + len(data)


def _claim_of(key: str) -> str:
    return key.partition("/")[0]


def _no_counts() -> dict[str, Counter[str]]:
    return {"refused": Counter(), "quarantined": Counter()}


def _add(counts: dict[str, Counter[str]], totals: Mapping[str, Mapping[str, int]]) -> None:
    for verdict, reasons in totals.items():
        counts[verdict].update(reasons)


def _records(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Parse whole lines; return the records and how many lines were none."""
    found, damaged = [], 0
    for line in data.split(b"\n")[:-1]:
        record = _parse(line)
        if record is None:
            damaged += 1
        else:
            found.append(record)
    return found, damaged


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        if "totals" in record:
            _add(_no_counts(), record["totals"])
        else:
            _no_counts()[record["verdict"]][record["reason"]] += 1
            record["key"].partition("/")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if isinstance(record, dict) else None
