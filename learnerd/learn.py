"""Learn: admitted episodes in, a delta out. The daemon and ``replay`` run this same stage."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from experience.collate import collate, usable_steps
from experience.episode import Episode
from experience.flattening import IMAGE_AXES
from experience.space_parsing import action_space_of_rows, space_of_rows
from experience.spaces import BoxSpace, ImageSpace, Space
from learnerd.config_tables import Policy
from learnerd.made_on import libraries, machine
from learnerd.recovered import Behavior, logp_sources, recover_logp
from learnerd.replay_buffer import Archived
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.errors import UpdateUnstable
from policies.learner import Learner
from policies.plasticity import sample
from policies.report import UpdateReport
from policies.settings import LearnerSettings
from policies.spec import (
    ActionSpace,
    ContinuousSpace,
    DiscreteSpace,
    PolicySpec,
)
from policies.stability import StabilityLimits, breach

T = TypeVar("T")

EARNED, SPENT = "replay_credits", "replayed"
"""Counters of the passes over archived episodes: credits that new episodes earned, and passes made."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What is learned from again beside new episodes.

    Attributes:
        replayed: one tuple an update, in the order of learning; () when there is nothing.
        earned: credits that the new episodes earned.
    """

    replayed: tuple[tuple[Archived, ...], ...] = ()
    earned: int = 0

    def counters(self) -> dict[str, int]:
        """What a version adds to the counters of its base."""
        counts = {EARNED: self.earned, SPENT: sum(map(len, self.replayed))}
        return {name: count for name, count in counts.items() if count}


NO_PASSES = Passes()


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one cycle's training gave.

    Attributes:
        delta: the change since the base version.
        chunks: the new episodes of each update, in the order of learning.
        reports: one an update.
        record: what a replay needs, for the manifest.
        sample_obs: some of the last update's observations, [B, *observation_shape].
    """

    delta: Delta
    chunks: tuple[tuple[Episode, ...], ...]
    reports: tuple[UpdateReport, ...]
    record: dict[str, Any]
    sample_obs: NDArray[np.float32]

    @property
    def episodes(self) -> list[Episode]:
        """Every new episode, in the order of learning."""
        return [episode for chunk in self.chunks for episode in chunk]


def learn(
    base: Checkpoint,
    chunks: Sequence[Sequence[Episode]],
    *,
    settings: LearnerSettings,
    seed: int,
    device: str,
    behavior: Behavior,
    passes: Passes = NO_PASSES,
    limits: StabilityLimits | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Learned:
    """Train from ``base``: one update for each of ``chunks``, outside any lock.

    Args:
        base: the version to start from.
        chunks: admitted episodes, one sequence an update.
        settings: the learning rule.
        seed: the run's; each update's own seed is drawn from it and the number of updates before.
        device: "cpu" or "cuda".
        behavior: looks up the version that acted, to recover log-probabilities that were not logged.
        passes: archived episodes that follow the new ones in each update's batch.
        limits: what an update may do; None: whatever stays finite, for what was published once.
        progress: called after each update.

    Raises:
        policies.errors.UpdateDiverged: something became non-finite, or went beyond its limit
            (``UpdateUnstable``); nothing of this is to be published.
    """
    learner = Learner(base, settings, device=device, seed=seed)
    before = base.counters.get("updates", 0)
    seeds = [update_seed(seed, before + i) for i in range(len(chunks))]
    replays = passes.replayed or ((),) * len(chunks)
    reports = []
    sources: Counter[str] = Counter()
    for i, (chunk, replayed) in enumerate(zip(chunks, replays, strict=True)):
        episodes = [*chunk, *(archived.episode for archived in replayed)]
        logged = collate(episodes, observation_shape=base.spec.observation_shape)
        batch = recover_logp(logged, behavior)
        sources.update(logp_sources(logged, batch, n_new=len(chunk)))
        report = learner.update(batch, seed=seeds[i], replayed=len(replayed))
        if limits is not None and (found := breach(report, limits, base.spec.action)) is not None:
            raise UpdateUnstable(what=found.what, value=found.value, accepted=found.accepted, update=i)
        reports.append(report)
        progress()
    delta = learner.delta()
    return Learned(
        delta=replace(delta, counters={**delta.counters, **passes.counters(), **sources}),
        chunks=tuple(tuple(chunk) for chunk in chunks),
        reports=tuple(reports),
        record={
            **made_here(seed=seed, device=device),
            "settings": asdict(settings),
            "updates": _updates(seeds, reports, replays),
        },
        sample_obs=sample(batch.obs),
    )


def update_seed(seed: int, update: int) -> int:
    """Return the seed of one update, from the run's seed and the number of updates before it."""
    return int(np.random.SeedSequence([seed, update]).generate_state(1)[0])


def chunked(episodes: Sequence[Episode], chunk_episodes: int) -> list[Sequence[Episode]]:
    """Cut ``episodes`` into updates of ``chunk_episodes`` to less than twice as many, as even as can be.

    A last update of one leftover episode would be the noisiest of all, so the rest is spread over the others.
    """
    return evenly(episodes, max(1, len(episodes) // chunk_episodes))


def evenly(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Cut ``items`` into ``count`` parts whose lengths differ by one at most."""
    bounds = [len(items) * i // count for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def ledger_entries(learned: Learned, claim_of: Callable[[Episode], str]) -> list[LedgerEntry]:
    """Return the ledger's rows for what was learned, in the order of learning."""
    return [
        LedgerEntry(
            key=episode.key,
            row_sha256=episode.row_sha256,
            source_name=episode.source_name,
            source_sha256=episode.source_sha256,
            claim_id=claim_of(episode),
            policy_version=episode.policy_version,
            n_steps=episode.n_steps,
            total_reward=float(episode.reward[: usable_steps(episode)].sum()),
            ingested_at=episode.ingested_at,
            update=update,
        )
        for update, chunk in enumerate(learned.chunks)
        for episode in chunk
    ]


def infer_spec(policy: Policy, episodes: Sequence[Episode]) -> PolicySpec:
    """Take the shapes that ``[policy]`` leaves out from the first episodes: what most of them have.

    A space that a client declared wins; without one, integer actions give n = the largest + 1.
    """
    observation = policy.observation_space() or _most_common(map(_observed, episodes))
    return policy.spec(observation, policy.action_space() or _declared(episodes) or _seen(episodes))


def _observed(episode: Episode) -> Space:
    """What a file says of its observations; bytes [H, W, C] are an image."""
    if episode.observation_space is not None:
        return space_of_rows(episode.observation_space)
    shape = episode.observation_shape or episode.obs.shape[1:]
    if episode.obs.dtype == np.uint8 and len(shape) == IMAGE_AXES:
        return ImageSpace(shape=cast(tuple[int, int, int], tuple(shape)))
    return BoxSpace(shape=tuple(shape))


def _declared(episodes: Sequence[Episode]) -> ActionSpace | None:
    spaces = [space for episode in episodes if (space := _space(episode)) is not None]
    return _most_common(spaces) if spaces else None


def _space(episode: Episode) -> ActionSpace | None:
    try:
        return None if episode.action_space is None else action_space_of_rows(episode.action_space)
    except ValueError:
        return None


def _seen(episodes: Sequence[Episode]) -> ActionSpace:
    width = _most_common(_width(episode) for episode in episodes)
    if width is not None:
        return ContinuousSpace(size=width)
    return DiscreteSpace(n=1 + max(int(e.action.max()) for e in episodes if _width(e) is None))


def _width(episode: Episode) -> int | None:
    """Numbers in a continuous action; None when actions are discrete."""
    return int(episode.action.shape[1]) if episode.action.dtype.kind == "f" else None


def _most_common(values: Iterable[T]) -> T:
    """The value given most often, the earliest of several: one odd file does not define a policy."""
    return Counter(values).most_common(1)[0][0]


def made_here(*, seed: int, device: str) -> dict[str, Any]:
    """What every record says: from which seed, on what machine, with which code and libraries."""
    return {
        "seed": seed,
        "device": device,
        "threads": torch.get_num_threads(),
        "libraries": libraries(),
        "machine": machine(device),
    }


def _updates(
    seeds: Sequence[int], reports: Sequence[UpdateReport], replays: Sequence[Sequence[Archived]]
) -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "learning_rate": report.learning_rate,
            "episodes": report.n_episodes,
            "steps": report.n_steps,
            "return_mean": report.return_mean,
            "loss": report.loss,
            "entropy": report.entropy,
            "kl": report.kl,
            "ess_fraction": report.ess_fraction,
            "replayed": [[archived.version, *archived.episode.key] for archived in replayed],
        }
        for seed, report, replayed in zip(seeds, reports, replays, strict=True)
    ]
