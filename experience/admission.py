"""Admission: which readable episodes may be learned from, and why not the others.

Each rule is a small pure function of one episode and the rules; the first that objects gives the reason.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experience.behavior_check import LogProbs, acting_versions, logp_mismatches
from experience.episode import Episode
from experience.errors import Problem, reject
from experience.fit import action_problem, choices_mask_problem, definition_problem, observation_problem
from experience.magnitude import largest
from experience.space_parsing import action_space_of_rows
from experience.spaces import ActionSpace, Space

MAX_AHEAD_S = 300.0
"""How far ``ended_at`` may lie ahead: clocks of two machines rarely differ by more."""

MAX_MAGNITUDE = 1e12
"""Largest observation, reward, continuous action or log-probability, either sign.

Observation statistics never forget: one finite but absurd value (1e38 is a common "no reading") would flatten
all later observations for good. Prices, volumes and times in seconds stay below, and sums of a million such
rewards, squared, stay finite in float32.
"""

MAX_INFERRED = 2**18
"""Most numbers in an observation, and most actions, of a policy that the first episodes define.

One file must not make the daemon build a network of gigabytes; a config that names the spaces may.
"""

Rejected = Callable[[int], tuple[int, int] | None]
"""version -> (the version that was gone back to, the one that did so); None when it was not rolled back."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is admitted.

    Attributes:
        max_age_s: oldest age in seconds since the episode ended.
        max_staleness: most updates between the version that acted and the head.
        width: "strict": observations of exactly the policy's shape; "padded": zeros fill narrower vectors up.
        logp_tolerance: in nats, how far logp may be from what the version that acted gives; 0: not checked.
        observation_shape: the policy's, None while it is not known yet.
        n_actions: number of discrete actions, None when continuous or not known yet.
        action_size: numbers in a continuous action, None when discrete or not known yet.
        observation: the policy's space, counted from 0; None while it is not known, or for a box.
        action: the policy's action space, counted from 0; None while it is not known.
    """

    max_age_s: float
    max_staleness: int
    width: Literal["strict", "padded"] = "strict"
    logp_tolerance: float = 0.0
    observation_shape: tuple[int, ...] | None = None
    n_actions: int | None = None
    action_size: int | None = None
    observation: Space | None = None
    action: ActionSpace | None = None


@dataclass(frozen=True, kw_only=True)
class Sight:
    """When an episode is looked at.

    Attributes:
        age_s: seconds since it ended; negative when its clock is ahead.
        allowance_s: how much both bounds on age widen because the wall clock jumped.
        staleness: maps a version to its distance from the head in updates; None when it was never published.
        log_probs: computes log-probabilities again from the version that acted.
        rejected: tells which versions were rolled back.
    """

    age_s: float
    staleness: Callable[[int], int | None]
    log_probs: LogProbs = lambda *_: None
    rejected: Rejected = lambda _: None
    allowance_s: float = 0.0


def admit(episode: Episode, rules: Rules, sight: Sight) -> Problem | None:
    """Say why ``episode`` is refused, or None when it is admitted."""
    return admit_all([episode], rules, [sight])[0]


def admit_all(episodes: Sequence[Episode], rules: Rules, sights: Sequence[Sight]) -> list[Problem | None]:
    """Say of each episode what ``admit`` says.

    What the log-probabilities of all that pass the other rules should be is computed together.
    """
    verdicts = [_objection(e, rules, sight) for e, sight in zip(episodes, sights, strict=True)]
    shape = rules.observation_shape
    passed = [i for i, e in enumerate(episodes) if verdicts[i] is None and e.logp is not None]
    if passed and rules.logp_tolerance and shape is not None:
        chosen, log_probs = [episodes[i] for i in passed], sights[0].log_probs
        found = logp_mismatches(chosen, log_probs, observation_shape=shape, tolerance=rules.logp_tolerance)
        for place, problem in found.items():
            verdicts[passed[place]] = problem
    return verdicts


def _objection(episode: Episode, rules: Rules, sight: Sight) -> Problem | None:
    for rule in _RULES:
        problem = rule(episode, rules, sight)
        if problem is not None:
            return problem
    return None


def _problem(reason: str, field: str, value: object, accepted: str) -> Problem:
    return reject(reason, field, value, accepted).problem


def _complete(episode: Episode, _rules: Rules, _sight: Sight) -> Problem | None:
    if episode.incomplete and len(episode.obs) < 2:  # noqa: PLR2004 - a step and the observation after it
        return _problem("incomplete", "obs", "1 row and no end", "an end line, or at least two observations")
    return None


def _in_range(episode: Episode, _rules: Rules, _sight: Sight) -> Problem | None:
    for name, size in episode.norms.items():
        if size <= MAX_MAGNITUDE / 2:
            continue
        array = getattr(episode, name)
        for extreme in (array.max(), array.min()):
            if abs(extreme) > MAX_MAGNITUDE:
                step = int(np.argwhere(array == extreme)[0][0])
                accepted = f"numbers from -{MAX_MAGNITUDE:g} to {MAX_MAGNITUDE:g}"
                return _problem("out_of_range", f"{name}[{step}]", f"{extreme:g}", accepted)
    return None


def _not_ahead(episode: Episode, _rules: Rules, sight: Sight) -> Problem | None:
    if -sight.age_s > MAX_AHEAD_S + sight.allowance_s:
        value = f"{episode.ended_at} ({-sight.age_s:.0f} s ahead)"
        return _problem(
            "future", "ended_at", value, f"at most {MAX_AHEAD_S:.0f} s ahead of this machine's clock"
        )
    return None


def _young(_episode: Episode, rules: Rules, sight: Sight) -> Problem | None:
    if sight.age_s > rules.max_age_s + sight.allowance_s:
        accepted = f"at most {rules.max_age_s:g} s ([admission] max_age_s)"
        return _problem("too_old", "ended_at", f"{sight.age_s:.0f} s ago", accepted)
    return None


def _known_version(episode: Episode, _rules: Rules, sight: Sight) -> Problem | None:
    for version in acting_versions(episode):
        if sight.staleness(version) is None:
            accepted = "a published version, or null / 0 when none acted"
            return _problem("unknown_version", "policy_version", version, accepted)
    return None


def rejected_version(episode: Episode, rejected: Rejected) -> Problem | None:
    """Say why ``episode`` is refused when any of its steps is by a version that was rolled back."""
    for version in acting_versions(episode):
        if (rollback := rejected(version)) is not None:
            to, by = rollback
            value = f"{version}, rejected by the rollback to {to} (version {by})"
            return _problem("rejected_version", "policy_version", value, f"version {by} or a later one")
    return None


def _not_rejected(episode: Episode, _rules: Rules, sight: Sight) -> Problem | None:
    return rejected_version(episode, sight.rejected)


def _fresh(episode: Episode, rules: Rules, sight: Sight) -> Problem | None:
    for version in acting_versions(episode):
        staleness = sight.staleness(version)
        if staleness is not None and staleness > rules.max_staleness:
            value = f"{version} (at least {staleness} updates behind)"
            accepted = f"at most {rules.max_staleness} updates behind ([admission] max_staleness)"
            return _problem("too_stale", "policy_version", value, accepted)
    return None


def _observation_fits(episode: Episode, rules: Rules, _sight: Sight) -> Problem | None:
    expected, found = rules.observation_shape, episode.obs.shape[1:]
    if expected is None and episode.observation_space is not None:
        problem = definition_problem(episode)
        if problem is not None:
            return problem
    if rules.observation is not None and (found == expected or episode.observation_space is not None):
        problem = observation_problem(episode, rules.observation)
        if problem is not None:
            return problem
    if expected is None and math.prod(found) > MAX_INFERRED:
        accepted = f"at most {MAX_INFERRED} numbers, unless [policy] observation_shape says so"
        return _problem("observation_width", "obs", f"shape {list(found)}", accepted)
    if expected is None or found == expected or _pads(found, expected, rules.width):
        return None
    accepted = f"shape {list(expected)}"
    if rules.width == "padded" and len(expected) == 1:
        accepted += " or narrower"
    return _problem("observation_width", "obs", f"shape {list(found)}", accepted)


def _pads(found: tuple[int, ...], expected: tuple[int, ...], width: str) -> bool:
    return width == "padded" and len(found) == len(expected) == 1 and found[0] < expected[0]


def _action_fits(episode: Episode, rules: Rules, _sight: Sight) -> Problem | None:
    if rules.action is None and rules.n_actions is None and rules.action_size is None:
        return _inferable(episode)
    if rules.action is not None and (problem := action_problem(episode, rules.action)) is not None:
        return problem
    return _kind_fits(episode, rules)


def _kind_fits(episode: Episode, rules: Rules) -> Problem | None:
    action = episode.action
    if rules.n_actions is not None:
        accepted = f"integers 0 … {rules.n_actions - 1} ([policy] action)"
        if action.dtype.kind != "i" or action.ndim != 1:
            return _problem(
                "action_space", "action", f"{action.dtype} of shape {list(action.shape)}", accepted
            )
        if largest(action) >= rules.n_actions:
            return _problem("action_space", "action", int(action.max()), accepted)
    if rules.action_size is not None and (
        action.dtype.kind != "f" or action.shape[1:] != (rules.action_size,)
    ):
        value = f"{action.dtype} of shape {list(action.shape)}"
        accepted = f"floats of shape [T, {rules.action_size}] ([policy] action)"
        return _problem("action_space", "action", value, accepted)
    return None


def _declared(episode: Episode) -> ActionSpace | None:
    return None if episode.action_space is None else action_space_of_rows(episode.action_space)


def _inferable(episode: Episode) -> Problem | None:
    """The policy's action space is not known yet, and this episode may define it."""
    action, space = episode.action, episode.action_space or {}
    sizes = [*space.get("shape", []), space.get("n", 0), sum(space.get("nvec", []))]
    sizes.append(1 + int(action.max()) if action.dtype.kind == "i" else action.shape[1])
    if max(sizes) > MAX_INFERRED:
        accepted = f"at most {MAX_INFERRED} actions, unless [policy] action says so"
        return _problem("action_space", "action", f"{max(sizes)} actions", accepted)
    return None


def _mask_fits(episode: Episode, rules: Rules, _sight: Sight) -> Problem | None:
    if episode.mask is None:
        return None
    if episode.action.dtype.kind != "i" or episode.mask.ndim != 2:  # noqa: PLR2004 - [T, N]
        return _problem(
            "mask", "mask", f"shape {list(episode.mask.shape)}", "shape [T, N], with discrete actions"
        )
    if episode.action.ndim > 1:
        several = rules.action if rules.action is not None else _declared(episode)
        return None if several is None else choices_mask_problem(episode, several)
    width = episode.mask.shape[1]
    if width != (rules.n_actions or width) or episode.action.max() >= width:
        return _problem("mask", "mask", f"{width} columns", "one column an action")
    forbidden = np.flatnonzero(~episode.mask[np.arange(episode.n_steps), episode.action])
    if len(forbidden):
        step = int(forbidden[0])
        value = f"forbids action {int(episode.action[step])}, which was taken"
        return _problem("mask", f"mask[{step}]", value, "a mask that allows the action taken")
    return None


_RULES = (
    _complete,
    _in_range,
    _not_ahead,
    _young,
    _known_version,
    _not_rejected,
    _fresh,
    _observation_fits,
    _action_fits,
    _mask_fits,
)
"""In this order; what the log-probabilities should be is asked last, of those that fit the policy."""
