"""Journal: a client's records, one JSON object a line, from which it goes on after a crash."""

import base64
import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experience.durable import ASIDE


class Journal:
    """An append-only file of JSON records.

    It is not fsynced, as the files of ``EpisodeWriter`` are not: no crash of the process loses a record, a
    power cut may lose the last seconds of them. A record that a crash cut short is dropped.

    Args:
        path: the file; it is made when it is missing. For one process at a time.

    Raises:
        ValueError: a line in it is no record.
        OSError: it cannot be read or made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._unwritten = b""
        self._path.touch()
        self.compact(self.records())  # without an end that was cut short

    def records(self) -> list[dict[str, Any]]:
        """Everything in it, oldest first."""
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [self._parsed(number, line) for number, line in enumerate(lines, 1)]

    def everything(self) -> list[dict[str, Any]]:
        """What is in it, and what could not be written yet."""
        return [*self.records(), *map(json.loads, self._unwritten.splitlines())]

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; it is with the operating system on return.

        Raises:
            OSError: the disk is full, or the like. The record is kept, and written before the next one.
        """
        self._unwritten += _line(record)  # what is known comes before what follows from it
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                whole = file.write(self._unwritten) == len(self._unwritten)
            except OSError:
                file.truncate(end)
                raise
            if not whole:
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._unwritten = b""

    def compact(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file, atomically, by one that holds ``records`` only."""
        aside = self._path.with_name(f"{ASIDE}{self._path.name}")
        with aside.open("wb") as file:
            file.writelines(_line(record) for record in records)
        aside.replace(self._path)
        self._unwritten = b""

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self._path.stat().st_size

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            return record
        raise ValueError(
            f"{self._path}, line {number}: {line[:80]!r} is no JSON object; move the file away to begin anew"
        )


def to_plain(value: Any) -> Any:
    """Turn arrays, also within mappings and tuples, into what JSON holds exactly."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {"mapping": {key: to_plain(each) for key, each in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [to_plain(each) for each in value]}
    array = np.asarray(value)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def from_plain(value: Any) -> Any:
    """Undo ``to_plain``."""
    if not isinstance(value, dict):
        return value
    if "mapping" in value:
        return {key: from_plain(each) for key, each in value["mapping"].items()}
    if "tuple" in value:
        return tuple(from_plain(each) for each in value["tuple"])
    data = base64.b64decode(value["data"])
    return np.frombuffer(data, dtype=np.dtype(value["dtype"])).reshape(value["shape"])


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
