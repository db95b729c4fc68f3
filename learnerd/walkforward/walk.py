"""Walk: one setting and one seed through the history: each part is judged, and only then learned from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from experience.archive_reader import ArchiveReader
from experience.collate import usable_steps
from experience.episode import Episode
from learnerd.archived import archive_of
from learnerd.behavior import BehaviorCache
from learnerd.device import choose_device
from learnerd.errors import LearnerdError
from learnerd.evidence import gather
from learnerd.learn import NO_PASSES, Learned, Passes, chunked, evenly, learn
from learnerd.recorded_passes import RecordedPasses
from learnerd.recovered import Behavior
from learnerd.walkforward.parts import Part
from learnerd.walkforward.task import Judged, Task, Walked
from policies.behavior import ActingPolicy
from policies.checkpoint import Checkpoint
from policies.errors import BadDelta, NotEvaluable, UpdateDiverged
from policies.evaluation import linearize
from policies.evaluation.logged import Logged, PolicyTarget
from policies.initial import initial_checkpoint
from policies.merge import apply
from policies.store import CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one version learned from: its new episodes, and the note on what it learned again."""

    version: int
    episodes: Sequence[Episode]
    note: str


def walk(task: Task, *, on_part: Callable[[], None] = lambda: None) -> Walked:
    """Go through the history: judge each part by the weights that were learned before it, then learn from it.

    Args:
        task: what to do.
        on_part: called after each part.

    Raises:
        LearnerdError: the archive or the episodes cannot be used; says why.
    """
    torch.set_num_threads(1)
    pupil = Pupil(task)
    archive = archive_of(task.config)
    judged = []
    for position, part in enumerate(task.parts):
        batches = read(archive, part)
        episodes = [episode for batch in batches for episode in batch.episodes]
        if position in task.judged:
            judged.append(judge(task, position, episodes, pupil.head, pupil.behavior))
        if position < max(task.judged):
            pupil.learn(batches)
        on_part()
    return Walked(
        judged=tuple(one for one in judged if one is not None),
        updates=pupil.head.counters["updates"],
        unpublished=pupil.unpublished,
    )


def read(archive: ArchiveReader, part: Part) -> list[Batch]:
    """Read the batches of a part.

    Raises:
        LearnerdError: retention was quicker.
    """
    batches = [Batch(version=v, episodes=archive.episodes(v), note=archive.note(v)) for v in part.versions]
    for batch in batches:
        if not batch.episodes:
            raise LearnerdError(
                f"what version {batch.version} learned from has just left the archive; try again"
            )
    return batches


def judge(
    task: Task, position: int, episodes: Sequence[Episode], policy: ActingPolicy, behavior: Behavior
) -> Judged | None:
    """Estimate what a policy would have earned; None when too few episodes have log-probabilities."""
    sample = thinned(episodes, most_steps=task.judge.most_steps)
    try:
        evidence = gather(sample, task.spec.observation_shape, behavior)
    except NotEvaluable:
        return None
    logged = Logged.of(
        evidence.batch,
        PolicyTarget(policy),
        gamma=task.judge.gamma,
        probabilities=evidence.probabilities,
    )
    found = linearize(logged, method=task.judge.method)
    returns = logged.discounted.sum(axis=1)
    return Judged(
        part=position,
        value=found.value,
        deviations=found.deviations,
        ess_fraction=found.ess_fraction,
        played=float(returns.mean()),
        spread=float(returns.std()),
        episodes=logged.n_episodes,
        sources=evidence.sources,
    )


def thinned(episodes: Sequence[Episode], *, most_steps: int) -> list[Episode]:
    """Every second, third, … of them when they have too many steps; the same ones for every setting."""
    steps = sum(map(usable_steps, episodes))
    return list(episodes[:: max(1, math.ceil(steps / most_steps))])


class Pupil:
    """Learns from batches as the daemon does, in memory: the same stage, the same seeds, no store.

    Args:
        task: its setting and seed.
    """

    def __init__(self, task: Task) -> None:
        self._config, self._seed, self._rebatched = task.config, task.seed, task.rebatched
        self._again = RecordedPasses(task.config)
        self._device = choose_device(task.config.learner.device)
        self.behavior = BehaviorCache(CheckpointStore(task.config.paths.state))
        self.head = initial_checkpoint(task.spec, seed=task.seed)
        self.unpublished = 0

    def learn(self, batches: Sequence[Batch]) -> None:
        """Learn from the batches of one part; what cannot be learned is left out, and counted."""
        cycles = self._joined(batches) if self._rebatched else self._as_recorded(batches)
        for chunks, passes in cycles:
            try:
                self.head = succeed(self.head, self._learn(chunks, passes))
            except (UpdateDiverged, BadDelta):
                self.unpublished += 1

    def _as_recorded(self, batches: Sequence[Batch]) -> Iterator[tuple[list[Sequence[Episode]], Passes]]:
        for batch in batches:
            yield self._chunked(batch.episodes), self._passes(batch)

    def _joined(self, batches: Sequence[Batch]) -> Iterator[tuple[list[Sequence[Episode]], Passes]]:
        """As a backlog: what was recorded is laid end to end, and so are the rows that were learned again."""
        episodes = [episode for batch in batches for episode in batch.episodes]
        rows = list(chain.from_iterable(chain.from_iterable(self._passes(b).replayed for b in batches)))
        most = self._config.batch.max_chunks * self._config.batch.chunk_episodes
        cycles = [self._chunked(some) for some in evenly(episodes, math.ceil(len(episodes) / most))]
        shares = iter(evenly(rows, sum(map(len, cycles))))
        for chunks in cycles:
            yield chunks, Passes(replayed=tuple(tuple(next(shares)) for _ in chunks)) if rows else NO_PASSES

    def _passes(self, batch: Batch) -> Passes:
        return self._again.take(batch.version, batch.episodes, batch.note)

    def _chunked(self, episodes: Sequence[Episode]) -> list[Sequence[Episode]]:
        return chunked(episodes, self._config.batch.chunk_episodes)

    def _learn(self, chunks: Sequence[Sequence[Episode]], passes: Passes) -> Learned:
        return learn(
            self.head,
            chunks,
            settings=self._config.learner.settings(),
            seed=self._seed,
            device=self._device,
            behavior=self.behavior,
            passes=passes,
            limits=self._config.stability.limits(),
        )


def succeed(head: Checkpoint, learned: Learned) -> Checkpoint:
    """The version after ``head``, as a store would publish it, but in memory.

    Raises:
        BadDelta: the sum is not finite.
    """
    merged = apply(head, learned.delta)
    counters = merged.counters
    counters["episodes"] = counters.get("episodes", 0) + len(learned.episodes)
    return replace(
        head,
        version=head.version + 1,
        weights=merged.weights,
        averages=merged.averages,
        normalizer=merged.normalizer,
        counters=counters,
    )
