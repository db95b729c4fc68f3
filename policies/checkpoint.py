"""Checkpoint: one published version in memory. Delta: what one writer did since a base version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.episode import EpisodeKey
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that one version holds.

    Attributes:
        version: 1, 2, …; 0 for initial weights that nobody has published.
        parents: the version that it succeeds, then the base of a merged branch; () for the first.
        writer: who published it.
        saved_at: UTC seconds, the writer's clock.
        spec: shapes and spaces.
        weights: float32, named as ``spec.shapes()``.
        averages: what the learner carries from update to update, all exponential averages:
            ``adam_m.<weight>``, ``adam_v.<weight>``, ``prox.<weight>`` (float32),
            ``prox_weight``, ``popart_mean``, ``popart_std``, ``baseline`` (float64 scalars, shape []).
        normalizer: observation statistics, float64.
        counters: ``updates``, ``steps``, ``episodes``, ``adam_policy``, …; they add when merged.
        manifest: the manifest as written, {} when unpublished.
    """

    version: int
    parents: tuple[int, ...]
    writer: str
    saved_at: float
    spec: PolicySpec
    weights: Arrays
    averages: Arrays
    normalizer: RunningStatistics
    counters: Mapping[str, int]
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ActingVersion:
    """What a published version acts with, and how many updates lie behind it.

    Attributes:
        version: its number.
        updates: made by it and its ancestors: the head's minus these is its staleness.
        spec: shapes and spaces.
        weights: float32, named as ``spec.actor_shapes()``.
        normalizer: observation statistics, float64.
    """

    version: int
    updates: int
    spec: PolicySpec
    weights: Arrays
    normalizer: RunningStatistics


@dataclass(frozen=True, kw_only=True)
class Average:
    """An exponential average after some steps.

    Attributes:
        value: the average now.
        retained: the product of the decays of those steps: how much of the base's value is left in it.
    """

    value: NDArray[Any]
    retained: float


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What one writer did since its base version; the store adds it to whatever the head is by then.

    Attributes:
        weights: name -> change, float64 of the weight's shape; a name left out did not change.
        averages: name -> Average; a name left out did not change.
        observed: the observation statistics of this branch alone (not of its base).
        counters: what to add to each counter.
    """

    weights: Mapping[str, NDArray[np.float64]]
    averages: Mapping[str, Average] = field(default_factory=dict)
    observed: RunningStatistics | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One learned episode: a row of ``ledger.parquet``.

    Attributes:
        key: the episode's key.
        row_sha256: hex digest of its canonical row.
        source_name, source_sha256: the file that it came from.
        claim_id: the daemon's claim of that file: tells what a crash left over from a second deposit.
        policy_version: the version that acted, None if unknown.
        n_steps, total_reward: its outcome.
        ingested_at: UTC seconds.
        update: which update of this version learned from it, from 0.
    """

    key: EpisodeKey
    row_sha256: str
    source_name: str = ""
    source_sha256: str = ""
    claim_id: str = ""
    policy_version: int | None = None
    n_steps: int = 0
    total_reward: float = 0.0
    ingested_at: float = 0.0
    update: int = 0
