"""Acknowledged: what the product promised to keep, and when; noted on the tape at that moment."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from power.tape import MARK, Event

from experience.claims import Claim
from experience.episode import Episode
from experience.errors import Problem
from experience.outcomes import Outcome, Outcomes
from experience.spool import Spool
from policies.checkpoint import Checkpoint
from policies.manifest import MODEL
from policies.pruning import Pruner
from policies.store import CheckpointStore

Key = tuple[str, str, int, str]


class Marks:
    """Writes marks onto the tape.

    Args:
        path: the recorder's file for marks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, what: str, **fields: Any) -> None:
        """Note that something was acknowledged; on the tape on return."""
        file = os.open(self._path, os.O_WRONLY)
        try:
            os.write(file, json.dumps({"what": what, **fields}).encode())
        finally:
            os.close(file)


@dataclass(kw_only=True)
class Expected:
    """What must be there after a cut.

    Attributes:
        versions: number -> sha256 of its model file.
        keys: learned key -> version.
        may_go: versions that retention has chosen to remove.
        rows: version -> row hashes that its archive shard must hold.
        files: refused shards and quarantined files, below the spool.
        outcomes: keys of recorded outcomes.
        deposited: keys of files that a client made durable.
    """

    versions: dict[int, str] = field(default_factory=dict)
    keys: dict[Key, int] = field(default_factory=dict)
    may_go: set[int] = field(default_factory=set)
    rows: dict[int, set[str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    deposited: set[Key] = field(default_factory=set)

    @classmethod
    def of(cls, tape: Iterable[Event]) -> "Expected":
        """Everything that the marks of a tape promise."""
        expected = cls()
        for event in tape:
            if event.kind == MARK:
                document = event.mark()
                getattr(expected, f"_{document.pop('what')}")(**document)
        return expected

    @property
    def kept(self) -> dict[int, str]:
        """The versions that nobody may have pruned."""
        return {number: sha for number, sha in self.versions.items() if number not in self.may_go}

    def _version(self, *, version: int, model: str, keys: list[list[Any]]) -> None:
        self.versions[version] = model
        self.keys.update({_key(key): version for key in keys})

    def _pruning(self, *, versions: list[int]) -> None:
        self.may_go.update(versions)

    def _archived(self, *, version: int, rows: list[str]) -> None:
        self.rows.setdefault(version, set()).update(rows)

    def _set_aside(self, *, file: str) -> None:
        self.files.add(file)

    def _outcomes(self, *, keys: list[str]) -> None:
        self.outcomes.update(keys)

    def _deposited(self, *, key: list[Any]) -> None:
        self.deposited.add(_key(key))


def _key(parts: list[Any]) -> Key:
    return (parts[0], parts[1], parts[2], parts[3])


@contextlib.contextmanager
def noted(mark: Marks) -> Iterator[None]:
    """Note what the product acknowledges, whoever calls it, when the call returns."""

    def version(published: Checkpoint, *_: Any, episodes: Sequence[Any], **__: Any) -> None:
        sha = published.manifest["files"][MODEL]["sha256"]
        mark("version", version=published.version, model=sha, keys=[list(e.key) for e in episodes])

    def archived(_: Path, __: Spool, number: int, episodes: Sequence[Episode], **___: Any) -> None:
        mark("archived", version=number, rows=[episode.row_sha256 for episode in episodes])

    def set_aside(path: Path, spool: Spool, *_: Claim | Problem, **__: Any) -> None:
        mark("set_aside", file=os.fspath(path.relative_to(spool.root)))

    def recorded(_: None, __: Outcomes, outcomes: Iterable[Outcome]) -> None:
        mark("outcomes", keys=[outcome.key for outcome in outcomes])

    def pruning(chosen: list[int], *_: Any) -> None:
        mark("pruning", versions=chosen)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_after(CheckpointStore, "publish", version))
        stack.enter_context(_after(Spool, "archive", archived))
        stack.enter_context(_after(Spool, "refuse", set_aside))
        stack.enter_context(_after(Spool, "quarantine", set_aside))
        stack.enter_context(_after(Outcomes, "record", recorded))
        stack.enter_context(_after(Pruner, "_choose", pruning))
        yield


@contextlib.contextmanager
def _after(owner: type, name: str, note: Callable[..., None]) -> Iterator[None]:
    """Call ``note(result, *arguments)`` each time that a method has returned."""
    original = getattr(owner, name)

    @wraps(original)
    def method(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        note(result, *arguments, **keywords)
        return result

    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, original)
