"""Three-way merge of a writer's delta with whatever the head has become since; pure functions of arrays.

An exponential average x' = d x + (1 - d) g is linear in where it started, so a branch that began at x_base
and ended at x_ours would have ended at x_ours + R (x_head - x_base) from x_head, with R the product of its d:
what the serial order "head first, then ours" gives on the same gradients. Weights just add.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from policies.checkpoint import Arrays, Average, Checkpoint, Delta
from policies.errors import BadDelta
from policies.input_scale import carry_over, change_in
from policies.manifest import plain_array
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

Floats = NDArray[np.float64]

WEIGHTINGS = ("none", "episodes", "age")
SMALLEST_STD = 1e-8  # of merged PopArt statistics; batch deviations are at least 0.01, so this never binds


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """``state/merge.json``: how both writers merge.

    A save whose base is still the head always counts in full, and so does the daemon's: what is weighted is
    the change of another writer's weights that has to be rebased. Counts, ledger, moments and statistics are
    never weighted.

    Attributes:
        weighting: how much of such a change counts, beside ``online_weight``. "none": all of it. "episodes":
            min(1, n_ours / n_theirs), with n_ours the episodes that the save names and n_theirs those that
            the head has learned since the base: few episodes do not outweigh many. All of it when the save
            names none, or nothing was learned since. "age": 2^(-age / half_life_s), with age the seconds by
            which the head was saved later than the change: what waited long was learned about an old policy.
        online_weight: factor in any case; 0.7 was best where it was measured, 1 loses nothing.
        half_life_s: after how many seconds half of a change counts, with "age".
        drift_limit: a rebase over a larger relative change of the policy's weights is refused; 0: no limit.
        daemon: the daemon's writer name.
    """

    weighting: str = "none"
    online_weight: float = 1.0
    half_life_s: float = 600.0
    drift_limit: float = 0.0
    daemon: str = "daemon"

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.weighting not in WEIGHTINGS:
            accepted = ", ".join(map(repr, WEIGHTINGS))
            raise ValueError(f"weighting is {self.weighting!r}; accepted: {accepted}")
        if not _is_number(self.online_weight) or not 0.0 <= self.online_weight <= 1.0:
            raise ValueError(f"online_weight is {self.online_weight!r}; accepted: a number from 0 to 1")
        if not _is_number(self.half_life_s) or not 0.0 < self.half_life_s < math.inf:
            raise ValueError(f"half_life_s is {self.half_life_s!r}; accepted: seconds > 0")
        if not _is_number(self.drift_limit) or not 0.0 <= self.drift_limit < math.inf:
            raise ValueError(f"drift_limit is {self.drift_limit!r}; accepted: a number >= 0 (0: no limit)")
        if not isinstance(self.daemon, str) or not self.daemon:
            raise ValueError(f"daemon is {self.daemon!r}; accepted: a writer's name")

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read what ``to_json`` gave; keys may be left out.

        Raises:
            ValueError: naming key, value and what would be accepted.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict):
            msg = f"the file holds {data!r}; accepted: an object with {', '.join(names)}"
            raise ValueError(msg)  # noqa: TRY004 - one error for bad content
        unknown = sorted(data.keys() - set(names))
        if unknown:
            raise ValueError(f"{unknown[0]} is no setting; accepted: {', '.join(names)}")
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """As in ``state/merge.json``."""
        return asdict(self)


def episodes_weight(ours: int, theirs: int) -> float:
    """How much of a change from ``ours`` episodes counts beside ``theirs``, as ``MergeSettings`` says."""
    return min(1.0, ours / theirs) if ours > 0 and theirs > 0 else 1.0


def age_weight(age_s: float, half_life_s: float) -> float:
    """How much of a change counts that is ``age_s`` older than what it is added to; all when it is newer."""
    return float(0.5 ** (max(0.0, age_s) / half_life_s))


class Merged(NamedTuple):
    """The arrays and counters of a successor."""

    weights: dict[str, NDArray[np.float32]]
    averages: dict[str, NDArray[Any]]
    normalizer: RunningStatistics
    counters: dict[str, int]


def apply(base: Checkpoint, delta: Delta) -> Merged:
    """The successor when nobody published in between: exactly what the writer trained."""
    base, delta = _in_statistics(base, delta, _observe(base, delta))
    weights = {
        name: _to_float32(name, base.weights[name] + delta.weights[name])
        if name in delta.weights
        else plain_array(base.weights[name], np.float32)
        for name in base.weights
    }
    averages = {name: plain_array(value, value.dtype) for name, value in base.averages.items()}
    for name, average in delta.averages.items():
        value = np.asarray(average.value)
        averages[name] = plain_array(value, value.dtype)
    return Merged(weights, averages, _observe(base, delta), _count(base, delta))


def merge(base: Checkpoint, head: Checkpoint, delta: Delta, *, weight: float = 1.0) -> Merged:
    """Add what one writer did since ``base`` to ``head``.

    Args:
        base: what the writer began with.
        head: the version to succeed.
        delta: the writer's change since ``base``.
        weight: factor on the change of the weights, 1 for all of it.

    Returns:
        The successor's arrays and counters; ``apply``'s result when the head still is the base.
    """
    if head is base:
        return apply(base, delta)
    statistics = _observe(head, delta)
    base, delta = _in_statistics(base, delta, statistics)
    head, _ = _in_statistics(head, Delta(weights={}), statistics)
    ours = {name: _wide(array) + delta.weights.get(name, 0.0) for name, array in base.weights.items()}
    averages = _merge_averages(base, head, delta)
    start, theirs = dict(base.weights), dict(head.weights)
    _share_popart(base, head, delta, averages, (start, theirs, ours))
    weights = {
        name: _to_float32(name, _wide(theirs[name]) + weight * (ours[name] - _wide(start[name])))
        for name in base.weights
    }
    return Merged(weights, averages, _observe(head, delta), _count(head, delta))


def restore(old: Checkpoint, head: Checkpoint) -> Merged:
    """What a rollback publishes: everything that ``old`` acts and learns with, and the counts of ``head``.

    Adam's step counts go back too: they correct the bias of the very moments that are restored.
    """
    adam = {name: 0 for name in head.counters if name.startswith("adam_")}
    adam |= {name: count for name, count in old.counters.items() if name.startswith("adam_")}
    return Merged(
        {name: plain_array(weight, np.float32) for name, weight in old.weights.items()},
        {name: plain_array(value, value.dtype) for name, value in old.averages.items()},
        old.normalizer,
        {**head.counters, **adam},
    )


def drift(base: Checkpoint, head: Checkpoint) -> float:
    """How far the policy's weights moved from base to head, relative to their norm at the base."""
    base, _ = _in_statistics(base, Delta(weights={}), head.normalizer)
    names = [name for name in base.weights if not name.startswith("value.")]
    moved = math.hypot(
        *(float(np.linalg.norm(_wide(head.weights[n]) - _wide(base.weights[n]))) for n in names)
    )
    norm = math.hypot(*(float(np.linalg.norm(_wide(base.weights[name]))) for name in names))
    return moved / max(norm, 1e-12)


def rescale_head(
    weight: Floats, bias: Floats, *, old: tuple[float, float], new: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Keep a value head's unnormalized output under other (mean, std) (van Hasselt et al. 2016, eq. 3)."""
    (old_mean, old_std), (new_mean, new_std) = old, new
    return weight * (old_std / new_std), (old_std * bias + old_mean - new_mean) / new_std


def _in_statistics(base: Checkpoint, delta: Delta, new: RunningStatistics) -> tuple[Checkpoint, Delta]:
    """Express a version and a change of it under other statistics of the observations.

    A change speaks in the statistics of its base; where that has none, in those that it observed itself.
    """
    old = base.normalizer if base.normalizer.count else delta.observed
    if not base.spec.normalize or old is None:
        return base, delta
    carried = replace(
        base,
        weights=carry_over(base.weights, old=old, new=new),
        averages=carry_over(base.averages, old=old, new=new, prefix="prox."),
    )
    return carried, change_in(base, delta, old=old, new=new, since=carried)


def _merge_averages(base: Checkpoint, head: Checkpoint, delta: Delta) -> dict[str, NDArray[Any]]:
    merged = {name: plain_array(value, value.dtype) for name, value in head.averages.items()}
    for name, average in delta.averages.items():
        value = np.asarray(average.value)
        moved = _wide(value) + _carried(name, average, base, head)
        if name.startswith("adam_v."):
            moved = np.maximum(moved, 0.0)  # rounding must not make a root imaginary
        merged[name] = plain_array(moved, value.dtype)
    return merged


def _carried(name: str, average: Average, base: Checkpoint, head: Checkpoint) -> Floats | float:
    """What of the head's own movement is still in the average after our steps."""
    before, now = _start_of(name, base), _start_of(name, head)
    if before is None or now is None:
        return 0.0  # the first value sets such an average: nothing older is left in it
    carried = average.retained * (now - before)
    if name.startswith("prox."):
        weight = name.removeprefix("prox.")
        carried += (1.0 - average.retained) * (_wide(head.weights[weight]) - _wide(base.weights[weight]))
    return carried


def _start_of(name: str, checkpoint: Checkpoint) -> Floats | None:
    """An average's value in a version, or what it begins with there; None if its first value sets it."""
    if name in checkpoint.averages:
        return _wide(checkpoint.averages[name])
    if name == "prox_weight":
        return np.ones(())
    kind, _, weight = name.partition(".")
    if kind == "prox":
        return _wide(checkpoint.weights[weight])
    if kind in ("adam_m", "adam_v"):
        return np.zeros_like(checkpoint.weights[weight], np.float64)
    return None


def _share_popart(
    base: Checkpoint,
    head: Checkpoint,
    delta: Delta,
    merged: dict[str, NDArray[Any]],
    branches: tuple[dict[str, Any], dict[str, Any], dict[str, Any]],
) -> None:
    """Express the value heads of base, head and ours in the merged statistics, in place."""
    before, theirs = _popart(base.averages), _popart(head.averages)
    own = {name: average.value for name, average in delta.averages.items()}
    ours = _popart({**base.averages, **own})
    if ours is None and theirs is None:
        return
    new = _popart(merged)
    assert new is not None
    new = (new[0], max(new[1], SMALLEST_STD))
    merged["popart_std"] = plain_array(np.array(new[1]), merged["popart_std"].dtype)
    # A branch without statistics of its own is taken to speak in those that its partner set.
    olds = (before or ours or theirs or new, theirs or ours or new, ours or before or theirs or new)
    last = value_head(base.spec)
    for weights, old in zip(branches, olds, strict=True):
        weight, bias = _wide(weights[f"{last}.weight"]), _wide(weights[f"{last}.bias"])
        weights[f"{last}.weight"], weights[f"{last}.bias"] = rescale_head(weight, bias, old=old, new=new)


def value_head(spec: PolicySpec) -> str:
    """Name of the value network's last layer."""
    return f"value.{len(spec.hidden)}"


def _popart(averages: Arrays) -> tuple[float, float] | None:
    if "popart_mean" not in averages or "popart_std" not in averages:
        return None
    return float(averages["popart_mean"]), float(averages["popart_std"])


def _observe(onto: Checkpoint, delta: Delta) -> RunningStatistics:
    return onto.normalizer if delta.observed is None else onto.normalizer + delta.observed


def _count(onto: Checkpoint, delta: Delta) -> dict[str, int]:
    names: Mapping[str, None] = dict.fromkeys([*onto.counters, *delta.counters])
    return {name: onto.counters.get(name, 0) + delta.counters.get(name, 0) for name in names}


def _wide(array: NDArray[Any]) -> Floats:
    return np.asarray(array, np.float64)


def _to_float32(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = plain_array(array, np.float32)
    if not np.isfinite(narrow).all():
        raise BadDelta(field=f"weights[{name!r}]", value="past float32's range", accepted="a finite sum")
    return narrow


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
