"""Damaged copies of small files through the real decoder: what became of each."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from experience.decoder import DecodeJob, Decoder

OWN = ("source_name", "source_sha256", "ingested_at", "row_sha256")
"""Fields that follow from the file's bytes, or from the others."""

SEALED = (".npz", ".parquet")
"""Formats in which every flipped bit must be noticed (Parquet with page checksums); the others have none."""

_SLICE = 200


@dataclasses.dataclass
class Tally:
    """What became of damaged files of one format.

    Attributes:
        verdicts: reason, "same" (read as the undamaged one), "other" (read as another valid episode), "died".
        violations: what must not happen.
    """

    verdicts: Counter = dataclasses.field(default_factory=Counter)
    violations: list[str] = dataclasses.field(default_factory=list)


def feed(
    decoder: Decoder,
    folder: Path,
    extension: str,
    good: bytes,
    *,
    damaged: Iterable[tuple[str, bytes]],
    progress: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Decode every damaged file, and an undamaged one after each slice: the process must still be sound."""
    tally = Tally()
    ((_, reference),) = _decode(decoder, folder, extension, [("good", good)])
    assert reference.decoded is not None, reference
    files = iter(damaged)
    while part := list(itertools.islice(files, _SLICE)):
        results = _decode(decoder, folder, extension, [*part, ("good", good)])
        _judge(tally, extension, results, reference)
        progress(len(part))
    return tally


def _decode(decoder, folder, extension, files):
    jobs = []
    for i, (_, content) in enumerate(files):
        path, work = folder / f"{i}{extension}", folder / f"{i}.work"
        path.write_bytes(content)
        work.unlink(missing_ok=True)
        jobs.append(
            DecodeJob(claim_path=str(path), work_path=str(work), name="small" + extension, ingested_at=1.0)
        )
    return list(zip((name for name, _ in files), decoder.decode(jobs), strict=True))


def _judge(tally, extension, results, reference):
    for name, result in results:
        verdict = _verdict(result, reference)
        tally.verdicts[verdict] += name != "good"
        bad = (
            (name == "good" and verdict != "same")
            or (verdict == "other" and extension in SEALED)
            or (name.startswith("cut-") and verdict in ("same", "other") and extension != ".jsonl")
        )
        if bad:
            tally.violations.append(f"{extension} {name}: {verdict}")


def _verdict(result, reference) -> str:
    if result.died:
        return "died"
    if result.problem is not None:
        return result.problem.reason
    if result.decoded.problems:
        return result.decoded.problems[0].reason
    return "same" if _same(result.decoded.episodes, reference.decoded.episodes) else "other"


def _same(found, expected) -> bool:
    return len(found) == len(expected) and all(map(_equal, found, expected))


def _equal(one, other) -> bool:
    names = [field.name for field in dataclasses.fields(one) if field.name not in OWN]
    return all(_equal_value(getattr(one, name), getattr(other, name)) for name in names)


def _equal_value(one, other) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    return not isinstance(other, np.ndarray) and one == other
