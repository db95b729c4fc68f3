"""Evaluating: published versions against archived episodes, for ``learnerd evaluate``. Loads no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experience.errors import ShardDamaged
from experience.spool import Spool
from learnerd.behavior import BehaviorCache
from learnerd.config import Config
from learnerd.errors import LearnerdError
from learnerd.evidence import Evidence, gather, newest
from policies.behavior import ActingPolicy
from policies.errors import NotEvaluable, StoreError
from policies.evaluation import DEFAULT, compare, evaluate
from policies.evaluation.bootstrap import Bootstrap
from policies.evaluation.estimate import Estimate
from policies.evaluation.logged import Logged, PolicyTarget
from policies.store import CheckpointStore

NEWEST_VERSIONS = 5
READER = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked.

    Attributes:
        versions: which ones; (): the one that acts, and the newest ones.
        method: one of ``policies.evaluation.ESTIMATORS``.
        against: estimate differences from this version; None: values.
        gamma: discount; None: that of the learner.
        most_episodes: the newest so many of the archive.
        unseen: only episodes that none of the versions has learned from.
        leave_out: go without episodes that have no log-probabilities, instead of refusing the log.
        bootstrap: how intervals are found.
    """

    versions: tuple[int, ...] = ()
    method: str = DEFAULT
    against: int | None = None
    gamma: float | None = None
    most_episodes: int = 1000
    unseen: bool = False
    leave_out: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One version's estimate.

    Attributes:
        version: which one.
        estimate: its value, or the difference.
        learned_from: share of the episodes that it, or an ancestor, has learned from: these flatter it.
    """

    version: int
    estimate: Estimate
    learned_from: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        rows: one a version.
        gamma: the discount.
        against: as asked.
        sources: how many episodes' log-probabilities were "logged", "recovered" or "missing" (left out).
    """

    rows: tuple[Evaluated, ...]
    gamma: float
    against: int | None
    sources: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """JSON values, schema 1."""
        versions = [
            {"version": row.version, "learned_from": row.learned_from, **row.estimate.to_json()}
            for row in self.rows
        ]
        plain = {name: value for name, value in asdict(self).items() if name != "rows"}
        return {"schema": 1, **plain, "versions": versions}


def evaluate_versions(config: Config, request: Request) -> Evaluation | None:
    """Estimate what versions would earn; None when there is nothing to estimate it from.

    Raises:
        LearnerdError: a version is not there, or the log cannot be used; says why.
    """
    store = CheckpointStore(config.paths.state)
    versions = request.versions or _usual(store)
    root = Spool(config.paths.spool, writer=READER).archive_folder
    if not versions or not _has_rows(root):
        return None
    try:
        return _Evaluator(config, request, store).evaluate(versions, root)
    except (NotEvaluable, ShardDamaged, FileNotFoundError, StoreError) as error:
        raise LearnerdError(str(error)) from error


class _Evaluator:
    """One run of the command."""

    def __init__(self, config: Config, request: Request, store: CheckpointStore) -> None:
        self._config, self._request, self._store = config, request, store
        self._behavior = BehaviorCache(store)
        self._gamma = config.learner.gamma if request.gamma is None else request.gamma

    def evaluate(self, versions: Sequence[int], root: Path) -> Evaluation:
        """As ``evaluate_versions``."""
        shape = self._acting(versions[0]).spec.observation_shape
        compared = (*versions, self._request.against or 0)
        evidence = self._evidence(root, max(compared) if self._request.unseen else 0, shape)
        learned = self._learned_by(evidence)
        rows = []
        for version in versions:
            share = sum(number <= version for number in learned) / len(learned)
            estimate = self._estimate(evidence, version)
            rows.append(Evaluated(version=version, estimate=estimate, learned_from=share))
        return Evaluation(
            rows=tuple(rows), gamma=self._gamma, against=self._request.against, sources=evidence.sources
        )

    def _evidence(self, root: Path, above: int, shape: tuple[int, ...]) -> Evidence:
        episodes = newest(
            root,
            above=above,
            most_episodes=self._request.most_episodes,
            most_steps=self._config.batch.max_steps,
        )
        if not episodes:
            raise NotEvaluable("episodes", f"none learned after version {above}", "two or more")
        evidence = gather(episodes, shape, self._behavior)
        if evidence.sources["missing"] and not self._request.leave_out:
            missing = evidence.sources["missing"]
            found = f"{missing} of {len(episodes)} episodes have none, nor has the version that acted"
            raise NotEvaluable("logp", found, "one for every step, or --leave-out to go without them")
        return evidence

    def _estimate(self, evidence: Evidence, version: int) -> Estimate:
        request = self._request
        one = self._logged(evidence, version)
        if request.against is None:
            return evaluate(one, method=request.method, bootstrap=request.bootstrap)
        other = self._logged(evidence, request.against)
        return compare(one, other, method=request.method, bootstrap=request.bootstrap)

    def _logged(self, evidence: Evidence, version: int) -> Logged:
        target = PolicyTarget(self._acting(version))
        return Logged.of(evidence.batch, target, gamma=self._gamma, probabilities=evidence.probabilities)

    def _acting(self, version: int) -> ActingPolicy:
        policy = self._behavior(version)
        if policy is None:
            found = f"{version} is not there, or damaged"
            raise NotEvaluable("version", found, "one of `learnerd versions list`")
        return policy

    def _learned_by(self, evidence: Evidence) -> list[int]:
        """By which version each episode was learned from; 0 where nobody knows any more."""
        hits = self._store.lookup([episode.key for episode in evidence.episodes])
        return [hits[e.key].version if e.key in hits else 0 for e in evidence.episodes]


def _has_rows(root: Path) -> bool:
    from experience.archive_reader import ArchiveReader  # noqa: PLC0415 - loads pyarrow

    return bool(ArchiveReader(root).versions())


def _usual(store: CheckpointStore) -> tuple[int, ...]:
    """The version that acts, and the newest ones."""
    there = [info.version for info in store.versions() if not info.damaged][-NEWEST_VERSIONS:]
    return tuple(sorted({*there, *([acting] if (acting := store.acting()) else [])}))
