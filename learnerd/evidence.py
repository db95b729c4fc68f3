"""Evidence: archived episodes as the estimators take them, with where their log-probabilities are from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experience.batch import Batch
from experience.collate import collate, usable_steps
from experience.episode import Episode
from learnerd.recovered import Behavior, logp_sources, recover_logp
from policies.errors import NotEvaluable


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Episodes that an estimator can use.

    Attributes:
        batch: with a log-probability for every step.
        episodes: the same, as they were archived.
        sources: "logged", "recovered" and "missing": how many episodes of each; the missing are not in
        ``batch``.
    """

    batch: Batch
    episodes: tuple[Episode, ...]
    sources: dict[str, int]

    @property
    def probabilities(self) -> str:
        """What the estimate rests on: "logged", "recovered" or "mixed"."""
        used = [name for name in ("logged", "recovered") if self.sources[name]]
        return used[0] if len(used) == 1 else "mixed"


def gather(episodes: Sequence[Episode], shape: tuple[int, ...], behavior: Behavior) -> Evidence:
    """Lay episodes end to end; those without log-probabilities get them from the versions that acted.

    Args:
        episodes: as archived.
        shape: the policy's observation shape.
        behavior: looks up the version that acted.

    Raises:
        NotEvaluable: there are no two episodes with log-probabilities.
    """
    some = [episode for episode in episodes if usable_steps(episode)]
    if not some:
        raise NotEvaluable("episodes", 0, "two or more")
    logged = collate(some, observation_shape=shape)
    batch = recover_logp(logged, behavior)
    counts = logp_sources(logged, batch, n_new=len(some))
    sources = {name: counts.get(f"logp_{name}", 0) for name in ("logged", "recovered", "missing")}
    usable = np.logical_and.reduceat(~np.isnan(batch.logp), batch.offsets[:-1])
    if int(usable.sum()) < 2:  # noqa: PLR2004 - nothing to resample
        found = f"{int(usable.sum())} of {len(some)} episodes have them, logged or by the version that acted"
        raise NotEvaluable("logp", found, "two or more")
    kept = tuple(episode for episode, ok in zip(some, usable, strict=True) if ok)
    if len(kept) < len(some):
        batch = recover_logp(collate(kept, observation_shape=shape), behavior)
    return Evidence(batch=batch, episodes=kept, sources=sources)


def newest(root: Path, *, above: int = 0, most_episodes: int, most_steps: int) -> list[Episode]:
    """The newest episodes of an archive, oldest first, each once; at least one version's.

    Args:
        root: ``Spool.archive_folder``.
        above: only those that later versions learned from.
        most_episodes: how many at most.
        most_steps: no further version is read when there are so many.

    Raises:
        ShardDamaged: naming the file. FileNotFoundError: retention was quicker.
    """
    found: list[list[Episode]] = []
    for episodes in _backwards(root, above):
        found.insert(0, episodes)
        if sum(map(len, found)) >= most_episodes:
            break
        if sum(episode.n_steps for one in found for episode in one) >= most_steps:
            break
    once = {episode.key: episode for one in found for episode in one}  # what was repaired is archived twice
    return list(once.values())[-most_episodes:]


def _backwards(root: Path, above: int) -> Iterator[list[Episode]]:
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow

    archive = ArchiveReader(root)
    for version in reversed(archive.versions()):
        if version <= above:
            return
        yield archive.episodes(version)
