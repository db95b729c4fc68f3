"""Deposits: imported episodes as Parquet files in the spool, many in each."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from experience.archive import write_shard
from experience.durable import ASIDE
from experience.episode import Episode
from experience.ids import uuid7

_FILE_BYTES = 16 * 1024 * 1024
_FILE_EPISODES = 256
"""A file holds less than either: the daemon admits and learns a file at a time."""


def deposit(episodes: Iterable[Episode], spool: Path, *, client_id: str, now: float) -> dict[str, int]:
    """Write ``episodes`` into the spool; each file becomes visible whole.

    Args:
        episodes: as imported.
        spool: the spool's folder.
        client_id: of those that have none.
        now: UTC seconds; from then on their age counts where they do not say when they ended.

    Returns:
        How many "files", "episodes" and "steps".

    Raises:
        OSError: one could not be written; those before it are there.
    """
    inbox = spool / "in"
    inbox.mkdir(parents=True, exist_ok=True)
    counts = {"files": 0, "episodes": 0, "steps": 0}
    for group in _groups(episodes):
        ready = [
            replace(one, client_id=one.client_id or client_id, ended_at=one.ended_at or now) for one in group
        ]
        name = f"{uuid7()}.parquet"
        aside = inbox / f"{ASIDE}{name}"
        write_shard(aside, ready)
        aside.rename(inbox / name)
        counts["files"] += 1
        counts["episodes"] += len(ready)
        counts["steps"] += sum(one.n_steps for one in ready)
    return counts


def _groups(episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
    group: list[Episode] = []
    size = 0
    for episode in episodes:
        added = episode.obs.nbytes + episode.action.nbytes + episode.reward.nbytes
        if group and (size + added > _FILE_BYTES or len(group) == _FILE_EPISODES):
            yield group
            group, size = [], 0
        group.append(episode)
        size += added
    if group:
        yield group
