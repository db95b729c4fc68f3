"""What the corpus consists of: a file that should not be trusted, and what must become of it."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

WIDTH = 3
"""Numbers in an observation, as the daemon under test is configured; actions are 0 and 1."""

Records = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing in the inbox.

    Attributes:
        name: in ``spool/in``; any bytes, as ``os.fsdecode`` gives them.
        make: brings it into being at a path.
        learned: how many of its episodes are learned.
        records: (verdict, reason) of everything else in it; "a|b" accepts either reason.
        why: what it tries.
    """

    name: str
    make: Callable[[Path], None]
    learned: int = 0
    records: Records = ()
    why: str = ""


def quarantined(*reasons: str) -> Records:
    return tuple(("quarantined", reason) for reason in reasons)


def refused(*reasons: str) -> Records:
    return tuple(("refused", reason) for reason in reasons)


def write(content: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Make a file of ``content``; what is large or slow to build is given as a function."""

    def make(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content())

    return make


def arrays(steps=4, **replaced):
    """The arrays of a good episode; None leaves one out."""
    rng = np.random.default_rng(steps)
    values = {
        "obs": rng.normal(size=(steps + 1, WIDTH)).astype(np.float32),
        "action": np.arange(steps) % 2,
        "reward": rng.normal(size=steps),
        "logp": np.full(steps, math.log(0.5)),
        **replaced,
    }
    return {name: value for name, value in values.items() if value is not None}


def header(name: str, now: float, **replaced):
    """The header of a good episode that ended just now; None leaves a field out."""
    values = {
        "episode_id": name,
        "client_id": "hostile",
        "policy_version": 0,
        "ended_at": now,
        "terminated": True,
        "truncated": False,
        **replaced,
    }
    return {key: value for key, value in values.items() if value is not None}


def npz(meta, *, compressed=False, **members) -> bytes:
    stream = io.BytesIO()
    text = meta if isinstance(meta, str) else json.dumps(meta)
    (np.savez_compressed if compressed else np.savez)(stream, meta=np.array(text), **members)
    return stream.getvalue()


def jsonl(head, *, steps=None, end=None, n=2) -> bytes:
    """Lines of one episode."""
    flags = {key: head.pop(key) for key in ("terminated", "truncated") if key in head}
    steps = steps or [
        {"obs": [0.5 * i] * WIDTH, "action": i % 2, "reward": 1.0, "logp": -0.7} for i in range(n)
    ]
    end = {**flags, **(end or {})}
    return b"".join(json.dumps(line).encode() + b"\n" for line in (head, *steps, end))
