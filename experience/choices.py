"""Choices: actions that are counted, one or several at once, and the masks that allow them.

An action of F choices is [F] integers; its mask is [K], the policy's logits side by side: ``nvec[i]`` entries
for choice i, or one entry a binary number, which says whether it may be 1.
"""

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.spaces import ActionSpace, MultiBinarySpace, MultiDiscreteSpace

Choices = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


def choices_problem(space: ActionSpace, action: NDArray[Any]) -> str | None:
    """Say what is wrong with actions [T] or [T, F]; None when all are of ``space``, which has choices."""
    if action.dtype.kind != "i" or action.shape[1:] != space.natural_shape:
        return f"shape {list(action.shape)} of {action.dtype}"
    bad = np.argwhere((action < 0) | (action >= np.asarray(space.counts)))
    return f"{action[tuple(bad[0])]} at {_place(bad[0])}" if len(bad) else None


def mask_problem(space: ActionSpace, mask: Mask, action: Choices) -> tuple[str, str] | None:
    """Say (field, what) is wrong with masks [T, K] of actions [T, F]; None when each allows what was done."""
    if mask.shape != (len(action), space.outputs):
        return "mask", f"shape {list(mask.shape)}; {space} has {space.outputs} entries a step"
    forbidden = np.argwhere(~_allowed(space, mask, action))
    if not len(forbidden):
        return None
    step, choice = (int(number) for number in forbidden[0])
    if action.ndim == 1:
        return f"mask[{step}]", f"forbids action {int(action[step])}, which was taken"
    return f"mask[{step}]", f"forbids {int(action[step, choice])} for choice {choice}, which was taken"


def allowing(space: ActionSpace, mask: Mask, action: Choices) -> Mask:
    """Return the masks with every action that was taken allowed: else its probability would be 0."""
    allowed = mask.copy()
    if isinstance(space, MultiBinarySpace):
        allowed |= action == 1
    else:
        allowed[np.arange(len(action))[:, None], _columns(space, action)] = True
    return allowed


def _allowed(space: ActionSpace, mask: Mask, action: Choices) -> Mask:
    """Whether each choice was allowed, [T, F]."""
    if isinstance(space, MultiBinarySpace):
        taken: Mask = np.logical_or(mask, action == 0)
    else:
        taken = np.take_along_axis(mask, _columns(space, action), axis=1)
    return taken


def _columns(space: ActionSpace, action: Choices) -> NDArray[np.int64]:
    """The column of each choice in a mask, [T, F]."""
    nvec = space.nvec if isinstance(space, MultiDiscreteSpace) else ()
    first = np.array([0, *accumulate(nvec[:-1])], np.int64)
    return action.reshape(len(action), -1) + first


def _place(index: NDArray[np.intp]) -> str:
    step, *rest = (int(number) for number in index)
    return f"step {step}" + (f", choice {rest[0]}" if rest else "")
