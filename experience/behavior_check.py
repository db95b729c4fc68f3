"""Behavior check: are the log-probabilities that a client logged those of the versions that it says acted?"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experience.collate import widen
from experience.episode import Episode
from experience.errors import Problem, reject

LogProbs = Callable[
    [int, NDArray[np.float32], NDArray[Any], NDArray[np.bool_] | None], NDArray[np.float64] | None
]
"""(version, obs [N, …], action [N] or [N, A], mask [N, n]) -> log-probabilities [N] under that version.

None when what it acted with is gone.
"""

MOST_STEPS = 8192
"""Steps of short episodes whose log-probabilities are computed together: beyond, nothing is gained."""


class _Stretch(NamedTuple):
    """The steps of one episode that one version acted in."""

    place: int
    episode: Episode
    steps: Any
    n_steps: int


def acting_versions(episode: Episode) -> list[int]:
    """Return the versions that acted, ascending; [] when none of ours did, or the episode does not say."""
    if episode.policy_version_step is not None:
        return [int(version) for version in np.unique(episode.policy_version_step) if version > 0]
    return [episode.policy_version] if episode.policy_version else []


def logp_mismatches(
    episodes: Sequence[Episode],
    log_probs: LogProbs,
    *,
    observation_shape: tuple[int, ...],
    tolerance: float,
) -> dict[int, Problem]:
    """Compare what was logged with what the version that acted gives; one that is gone says nothing.

    Args:
        episodes: that log ``logp`` and fit the policy.
        log_probs: of a version.
        observation_shape: the policy's.
        tolerance: in nats.

    Returns:
        Position in ``episodes`` -> what is wrong; of several versions in one episode the lowest is told of.
    """
    found: dict[int, Problem] = {}
    for (version, _), stretches in sorted(_by_version(episodes).items()):
        for some in _few_steps(stretches):
            expected = log_probs(version, *_inputs(some, observation_shape))
            if expected is not None:
                for place, problem in _differing(some, expected, version, tolerance):
                    found.setdefault(place, problem)
    return found


def _by_version(episodes: Sequence[Episode]) -> Mapping[tuple[int, bool], list[_Stretch]]:
    """(version, whether there are masks) -> where it acted."""
    stretches = defaultdict(list)
    for place, episode in enumerate(episodes):
        by_step = episode.policy_version_step
        for version in acting_versions(episode):
            if by_step is None:
                stretch = _Stretch(place, episode, slice(episode.n_steps), episode.n_steps)
            else:
                steps = np.flatnonzero(by_step == version)
                stretch = _Stretch(place, episode, steps, len(steps))
            stretches[version, episode.mask is not None].append(stretch)
    return stretches


def _few_steps(stretches: Iterable[_Stretch]) -> Iterator[list[_Stretch]]:
    """Split into lists of at most MOST_STEPS steps, or of one stretch."""
    some: list[_Stretch] = []
    total = 0
    for stretch in stretches:
        if some and total + stretch.n_steps > MOST_STEPS:
            yield some
            some, total = [], 0
        some.append(stretch)
        total += stretch.n_steps
    yield some


def _inputs(some: Sequence[_Stretch], shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Observations, actions and masks (or None) of the steps, end to end."""
    obs = [widen(each.episode.obs[each.steps], shape) for each in some]
    action = [each.episode.action[each.steps] for each in some]
    masks = [each.episode.mask[each.steps] for each in some if each.episode.mask is not None]
    return _joined(obs), _joined(action), _joined(masks) if masks else None


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _differing(
    some: Sequence[_Stretch], expected: NDArray[np.float64], version: int, tolerance: float
) -> Iterator[tuple[int, Problem]]:
    claimed = _joined([each.episode.logp[each.steps] for each in some if each.episode.logp is not None])
    apart = np.abs(claimed - expected)
    if np.maximum.reduce(apart) <= tolerance:  # false where one is NaN
        return
    first = 0
    for each in some:
        worst = first + int(np.argmax(apart[first : first + each.n_steps]))
        if not apart[worst] <= tolerance:
            step = int(np.arange(each.episode.n_steps)[each.steps][worst - first])
            value = f"{claimed[worst]:.6g}, version {version} gives {expected[worst]:.6g}"
            yield each.place, reject("logp_mismatch", f"logp[{step}]", value, _accepted(tolerance)).problem
        first += each.n_steps


def _accepted(tolerance: float) -> str:
    return (
        f"what that version gives, within {tolerance:g} ([admission] logp_tolerance); "
        "a client that acts with a temperature or epsilon of its own leaves policy_version out"
    )
