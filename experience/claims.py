"""Claims: the names of files that wait in the inbox, and of those that a writer has taken out of it."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAX_NAME_BYTES = 200
"""Longer names are shortened: an id, a record's ending and the like must fit beside them into 255 bytes."""
_MAX_SUFFIX_BYTES = 16

_CLAIM = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(\d{1,6})\.(.+)", re.DOTALL)


class Waiting(NamedTuple):
    """Something in the inbox: a file, or whatever else a client has put there.

    Attributes:
        name: any bytes but "/", as ``os.fsdecode`` gives them.
        size_bytes: now; it may still grow.
        mtime_s: last change, UTC seconds.
    """

    name: str
    size_bytes: int
    mtime_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A file that belongs to one writer until it is finished or quarantined.

    Attributes:
        id: UUIDv7; claims sort by it in the order in which they were made.
        attempt: how often it was begun to be parsed; 0: never yet.
        name: its name in the inbox, shortened when it was longer than MAX_NAME_BYTES.
        location: its path now, as text: a ``Path`` a file would cost as much as its rename. ``Spool.attempt``
            gives a claim with another one.
    """

    id: str
    attempt: int
    name: str
    location: str

    @property
    def path(self) -> Path:
        """Where it is now."""
        return Path(self.location)


def claim_in(folder: Path, claim_id: str, attempt: int, name: str) -> Claim:
    """Return the claim with the path that it has in a writer's folder."""
    location = f"{folder}/{claim_id}.{attempt}.{name}"
    return Claim(id=claim_id, attempt=attempt, name=name, location=location)


def parsed(path: Path) -> Claim | None:
    """Return the claim at ``path``; None when its name is no claim's."""
    match = _CLAIM.fullmatch(path.name)
    return None if match is None else claim_in(path.parent, match[1], int(match[2]), match[3])


def shortened(name: str) -> str:
    """Cut a long name, keeping its ending; a few digits of its hash keep apart names that begin alike."""
    raw = os.fsencode(name)
    if len(raw) <= MAX_NAME_BYTES:
        return name
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 - PurePath would normalize some names
    if len(os.fsencode(suffix)) > _MAX_SUFFIX_BYTES:
        suffix = ""
    ending = f"~{hashlib.sha256(raw).hexdigest()[:8]}{suffix}"
    stem = name
    while len(os.fsencode(stem + ending)) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem + ending
