"""Fit: whether an episode's observations, actions and masks are of the policy's spaces; both count from 0."""

from functools import cache
from typing import Any

from experience.choices import choices_problem, mask_problem
from experience.episode import Episode
from experience.errors import Problem, reject
from experience.flattening import Mismatch, check_stored
from experience.space_parsing import action_space_of_rows, space_of_rows
from experience.spaces import ActionSpace, BoxSpace, Space

MOST_VALUES = 2**18
"""Most values of all indices of an observation, of a policy that the first episodes define."""


def observation_problem(episode: Episode, space: Space) -> Problem | None:
    """Say why the observations are not of ``space``; of two boxes the shape is looked at elsewhere."""
    declared = episode.observation_space
    theirs = space if declared is None else space_of_rows(declared).canonical()
    both_boxes = isinstance(theirs, BoxSpace) and isinstance(space, BoxSpace)
    if theirs != space and not both_boxes:
        where = _difference(theirs, space)
        return _problem("observation_space", where, str(theirs), f"the policy's: {space}")
    if both_boxes:
        return None
    try:
        check_stored(space, episode.obs)
    except Mismatch as error:
        where = f"obs.{error.path}" if error.path else "obs"
        return _problem("observation_space", where, error.found, f"{error.accepted}; the policy's: {space}")
    return None


def definition_problem(episode: Episode) -> Problem | None:
    """Say why an episode's space may not become a new policy's: one file, gigabytes of weights."""
    if episode.observation_space is None:
        return None
    space = space_of_rows(episode.observation_space)
    values = sum(sum(leaf.space.counts) for leaf in space.leaves)
    if values > MOST_VALUES:
        accepted = f"at most {MOST_VALUES} values, unless [policy] observation says so"
        return _problem("observation_space", "observation_space", f"{values} values", accepted)
    return None


def action_problem(episode: Episode, space: ActionSpace) -> Problem | None:
    """Say why the actions are not of ``space``: what the file says of them, then what they are."""
    if episode.action_space is not None and episode.action_space != _json(space):
        theirs = action_space_of_rows(episode.action_space).canonical()
        if theirs != space:
            accepted = f"the policy's: {space} ([policy] action)"
            return _problem("action_space", "action_space", str(theirs), accepted)
    if len(space.natural_shape) and space.counts:
        found = choices_problem(space, episode.action)
        if found is not None:
            return _problem("action_space", "action", found, f"integers of {space} ([policy] action)")
    return None


def choices_mask_problem(episode: Episode, space: ActionSpace) -> Problem | None:
    """Say why the masks of several choices at once do not fit, naming step and choice."""
    assert episode.mask is not None
    found = mask_problem(space, episode.mask, episode.action)
    if found is None:
        return None
    where, what = found
    return _problem("mask", where, what, "one entry a logit, true for what was taken")


@cache
def _json(space: ActionSpace) -> dict[str, Any]:
    return space.to_json()


def _difference(theirs: Space, ours: Space) -> str:
    """Name the first part that differs."""
    for their, our in zip(theirs.leaves, ours.leaves, strict=False):
        if (their.path, their.space) != (our.path, our.space):
            return f"observation_space.{their.path}" if their.path else "observation_space"
    return "observation_space"


def _problem(reason: str, field: str, value: str, accepted: str) -> Problem:
    return reject(reason, field, value, accepted).problem
