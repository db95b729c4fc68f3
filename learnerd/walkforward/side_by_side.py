"""Side by side: several settings through the same history, with the same seeds."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experience.archive_reader import ArchiveReader
from learnerd.archived import archive_of, archived_versions
from learnerd.config import Config
from learnerd.errors import LearnerdError
from learnerd.walkforward.parts import Part, count_episodes, cut
from learnerd.walkforward.results import LEVEL, Standing, standings
from learnerd.walkforward.settings import AS_CONFIGURED, Alternative, rebatched
from learnerd.walkforward.task import Judge, Judged, Task, Walked
from policies.evaluation import DEFAULT
from policies.spec import PolicySpec
from policies.store import CheckpointStore

Run = Callable[[Sequence[Task]], list[Walked]]
"""Walks tasks, in whatever processes; results in their order."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        seeds: how many: that of ``[learner]`` and those after it.
        parts: into how many the history is cut.
        method: one of ``policies.evaluation.ESTIMATORS``.
    """

    seeds: int = 3
    parts: int = 8
    method: str = DEFAULT


@dataclass(frozen=True, kw_only=True)
class History:
    """The past that settings are compared on.

    Attributes:
        config: as it is.
        request: what is asked.
        spec: the policy of the configuration as it is.
        parts: what is learned from; the first is not judged, as nothing was learned before it.
    """

    config: Config
    request: Request
    spec: PolicySpec
    parts: tuple[Part, ...]

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """Of the walks, the recorded one first."""
        return tuple(self.config.learner.seed + i for i in range(self.request.seeds))

    def tasks(self, alternative: Alternative, *, judged: Sequence[int]) -> list[Task]:
        """One task a seed; no part after the last judged one is looked at."""
        judge = Judge(
            method=self.request.method,
            gamma=self.config.learner.gamma,
            most_steps=self.config.batch.max_steps,
        )
        return [
            Task(
                name=alternative.name,
                config=alternative.config,
                spec=self._spec_of(alternative),
                seed=seed,
                parts=self.parts[: max(judged) + 1],
                judged=tuple(judged),
                judge=judge,
                rebatched=rebatched(self.config, alternative.config),
                tells=alternative.name == AS_CONFIGURED and seed == self.seeds[0],
            )
            for seed in self.seeds
        ]

    def _spec_of(self, alternative: Alternative) -> PolicySpec:
        if not any(table == "policy" for table, _ in alternative.values):
            return self.spec
        return alternative.config.policy.spec(self.spec.space, self.spec.action)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out.

    Attributes:
        history: what was learned from.
        alternatives: the configuration as it is, then the others.
        standings: one each.
        judged: the parts, as the configuration as it is was judged by them with the first seed.
    """

    history: History
    alternatives: tuple[Alternative, ...]
    standings: tuple[Standing, ...]
    judged: tuple[Judged, ...]

    @property
    def sources(self) -> dict[str, int]:
        """How many judged episodes' log-probabilities were "logged", "recovered" or "missing" (left out)."""
        names = ("logged", "recovered", "missing")
        return {name: sum(one.sources[name] for one in self.judged) for name in names}

    def to_json(self) -> dict[str, Any]:
        """JSON values, schema 1."""
        return {
            "schema": 1,
            "method": self.history.request.method,
            "gamma": self.history.config.learner.gamma,
            "level": LEVEL,
            "min_ess": self.history.config.gate.min_ess,
            "seeds": list(self.history.seeds),
            "sources": self.sources,
            "parts": self._parts(),
            "alternatives": [
                {"settings": one.settings(), **asdict(standing)}
                for one, standing in zip(self.alternatives, self.standings, strict=True)
            ],
        }

    def _parts(self) -> list[dict[str, Any]]:
        judged = {one.part: one for one in self.judged}
        return [
            {
                "from_version": part.versions[0],
                "to_version": part.versions[-1],
                "batches": len(part.versions),
                "episodes": part.episodes,
                "judged_by": judged[i].episodes if i in judged else 0,
                "played": judged[i].played if i in judged else None,
            }
            for i, part in enumerate(self.history.parts)
        ]


def history_of(config: Config, request: Request) -> History | None:
    """Cut the archive into parts; None when there is none.

    Raises:
        LearnerdError: a shard is damaged, or there is too little to cut.
    """
    versions = archived_versions(config)
    archive = archive_of(config)
    counts = count_episodes(archive, versions)
    if not counts:
        return None
    parts = tuple(cut(counts, parts=request.parts))
    return History(
        config=config, request=request, spec=_spec(config, archive, next(iter(counts))), parts=parts
    )


def _spec(config: Config, archive: ArchiveReader, first: int) -> PolicySpec:
    """That of the recorded versions; when they are gone, what the daemon would take from its first batch."""
    head = CheckpointStore(config.paths.state).head()
    if head is not None:
        return head.spec
    from learnerd.learn import infer_spec  # noqa: PLC0415 - loads torch

    return infer_spec(config.policy, archive.episodes(first))


def compare(history: History, alternatives: Sequence[Alternative], *, run: Run) -> Comparison:
    """Learn and judge with every setting and seed.

    Raises:
        LearnerdError: a walk failed, or no part can be judged.
    """
    judged = range(1, len(history.parts))
    tasks = [task for one in alternatives for task in history.tasks(one, judged=judged)]
    walks = by_seed(run(tasks), len(history.seeds))
    check_judged(walks[0][0])
    found = standings(walks, min_ess=history.config.gate.min_ess)
    return Comparison(
        history=history,
        alternatives=tuple(alternatives),
        standings=tuple(found),
        judged=walks[0][0].judged,
    )


def by_seed(walks: Sequence[Walked], seeds: int) -> list[Sequence[Walked]]:
    """The walks of each setting."""
    return [walks[i : i + seeds] for i in range(0, len(walks), seeds)]


def check_judged(walked: Walked) -> None:
    """Raise LearnerdError when no part was judged."""
    if not walked.judged:
        raise LearnerdError(
            "logp: no part has two episodes with log-probabilities, logged or by the version that acted; "
            "accepted: at least one after the first part"
        )
