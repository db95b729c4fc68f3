"""What must hold for any bytes that a reader is given."""

import re

import numpy as np

from experience import codec, wire
from experience.codec import Decoded
from experience.errors import InputError, Problem

REASON = re.compile(r"[a-z_]{3,32}")
LIMITS = codec.Limits(max_file_bytes=2**20, max_decoded_bytes=2**22, max_episodes=100)


def check(data: bytes, name: str) -> str:
    """Decode ``data``; return a word for what it was.

    Raises:
        AssertionError, or whatever the reader raises that it must not.
    """
    try:
        decoded = codec.decode(data, name=name, source_sha256="0" * 64, ingested_at=1.0, limits=LIMITS)
    except InputError as error:
        check_problem(error.problem)
        return error.problem.reason
    except MemoryError:
        return "memory"
    for problem in decoded.problems:
        check_problem(problem)
        assert problem.index is not None
    check_episodes(decoded)
    return "read" if decoded.episodes else "only problems"


def check_problem(problem: Problem) -> None:
    assert REASON.fullmatch(problem.reason), problem
    assert problem.field
    assert problem.accepted
    assert len(problem.value) <= 200


def check_episodes(decoded: Decoded) -> None:
    """Episodes are finite, and come through the pipe as they are."""
    frame = b"".join(wire.encode([wire.Message(job=0, mtime_s=0.0, decoded=decoded)]))
    size = wire.PREFIX.size
    again = wire.decode(frame[:size], frame[size:])[0].decoded
    for one, other in zip(decoded.episodes, again.episodes, strict=True):
        assert one.row_sha256 == other.row_sha256
        assert one.n_steps == len(one.reward) > 0
        for array in (one.obs, one.action, one.reward, one.logp):
            assert array is None or np.isfinite(array).all()
