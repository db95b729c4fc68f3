"""Parts: the archived history, cut into pieces of about as many episodes, at the borders of its batches."""

from collections.abc import Mapping
from dataclasses import dataclass

from experience.archive_reader import ArchiveReader
from experience.errors import ShardDamaged
from learnerd.errors import LearnerdError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the history.

    Attributes:
        versions: that learned from it, ascending: its batches.
        episodes: that were new in it.
    """

    versions: tuple[int, ...]
    episodes: int


def count_episodes(archive: ArchiveReader, versions: list[int]) -> dict[int, int]:
    """How many episodes each version learned from, as far as the archive still has them.

    Raises:
        LearnerdError: a shard is damaged; names it.
    """
    try:
        counts = {version: len(archive.rows(version)) for version in versions}
    except (ShardDamaged, FileNotFoundError) as error:
        raise LearnerdError(str(error)) from error
    return {version: count for version, count in counts.items() if count}


def cut(counts: Mapping[int, int], *, parts: int) -> list[Part]:
    """Cut the batches into ``parts``, each batch where its middle falls; fewer where batches are too large.

    Args:
        counts: version -> episodes, in the order of learning.
        parts: how many, two or more.

    Raises:
        LearnerdError: it cannot be cut.
    """
    total, before = sum(counts.values()), 0
    pieces: dict[int, list[int]] = {}
    for version, count in counts.items():
        pieces.setdefault(int((before + count / 2) * parts / total), []).append(version)
        before += count
    if len(pieces) < 2:  # noqa: PLR2004 - one to learn from, one to judge by
        found = f"{total} episodes in {len(counts)} batches, which make {len(pieces)} part"
        raise LearnerdError(f"the archive has {found}; accepted: two or more parts, so two or more batches")
    return [Part(versions=tuple(some), episodes=sum(counts[v] for v in some)) for some in pieces.values()]
