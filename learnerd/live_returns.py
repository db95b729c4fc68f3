"""LiveReturns: what clients really earned with each version; kept in ``state/returns.json``.

Loads neither torch, NumPy nor pyarrow.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE_NAME = "returns.json"

MOST_VERSIONS = 512
"""Versions that are remembered, the newest: several times as many as retention keeps by default."""


@dataclass(kw_only=True)
class Tally:
    """Number, mean and summed squared deviations of one version's returns (Welford 1962)."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def add(self, value: float) -> None:
        """Take in one more return."""
        self.n += 1
        distance = value - self.mean
        self.mean += distance / self.n
        self.m2 += distance * (value - self.mean)

    def to_json(self) -> dict[str, Any]:
        """For ``versions list --json``; the standard deviation is None for one return."""
        std = math.sqrt(self.m2 / (self.n - 1)) if self.n > 1 else None
        return {"n": self.n, "mean": self.mean, "std": std}


class LiveReturns:
    """A tally a version; the oldest version is forgotten first."""

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}

    def add(self, version: int, value: float) -> None:
        """A client earned ``value`` in an episode with ``version``."""
        self._tallies.setdefault(version, Tally()).add(value)
        if len(self._tallies) > MOST_VERSIONS:
            del self._tallies[min(self._tallies)]

    def of(self, version: int) -> dict[str, Any] | None:
        """What ``version`` earned, as JSON values; None when nothing is known."""
        tally = self._tallies.get(version)
        return None if tally is None else tally.to_json()

    def state(self) -> dict[str, list[float]]:
        """As in the file."""
        return {str(version): [tally.n, tally.mean, tally.m2] for version, tally in self._tallies.items()}

    def restore(self, state: Any) -> None:
        """Take up what ``state`` gave; what is no such thing is left out."""
        for name, numbers in state.items() if isinstance(state, Mapping) else ():
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                n, mean, m2 = numbers
                tally = Tally(n=int(n), mean=float(mean), m2=float(m2))
                if tally.n > 0 and tally.m2 >= 0.0 and math.isfinite(tally.mean + tally.m2):
                    self._tallies[int(name)] = tally
        for version in sorted(self._tallies)[:-MOST_VERSIONS]:
            del self._tallies[version]


def read(state: Path) -> dict[str, Any]:
    """What the file holds; {} when there is none, or it is none of ours."""
    try:
        document = json.loads((state / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) and document.get("schema") == SCHEMA else {}


def read_live(state: Path) -> LiveReturns:
    """The tallies in the file, without the rest of it."""
    live = LiveReturns()
    live.restore(read(state).get("versions"))
    return live


def write(state: Path, document: Mapping[str, Any]) -> None:
    """Replace the file; not fsynced: after a power cut the counting may begin some seconds earlier.

    Raises:
        OSError: the old file is as it was.
    """
    from experience.durable import write_atomic  # noqa: PLC0415 - its package loads NumPy

    write_atomic(state / FILE_NAME, json.dumps({"schema": SCHEMA, **document}).encode(), sync=False)
