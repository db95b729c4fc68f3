"""Several choices at once, in numpy: a product of categorical distributions; log-probabilities add."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.distributions import (
    Float64,
    Mask,
    categorical_log_prob,
    categorical_log_probs,
    sample_log_probs,
)
from policies.spec import MultiBinarySpace, MultiDiscreteSpace

FactoredSpace = MultiDiscreteSpace | MultiBinarySpace
Logits = NDArray[np.floating]


def choices_of(
    outputs_bk: Logits, space: FactoredSpace, mask_bk: Mask | None = None
) -> list[tuple[Logits, Mask | None]]:
    """Return (logits [B, n], mask [B, n] or None) of each choice; a binary one has the logits (0, z).

    Raises:
        ValueError: a mask of another shape.
    """
    if mask_bk is not None and (mask_bk.shape != outputs_bk.shape or mask_bk.dtype != np.bool_):
        found = f"shape {mask_bk.shape} of {mask_bk.dtype}"
        raise ValueError(f"mask has {found}; accepted: {outputs_bk.shape} of bool")
    if isinstance(space, MultiBinarySpace):
        zero, may = np.zeros_like(outputs_bk), np.ones(outputs_bk.shape, bool)
        logits: Sequence[Logits] = list(np.stack([zero, outputs_bk], axis=2).swapaxes(0, 1))
        masks = None if mask_bk is None else list(np.stack([may, mask_bk], axis=2).swapaxes(0, 1))
    else:
        cuts = list(accumulate(space.nvec))[:-1]
        logits = np.split(outputs_bk, cuts, axis=1)
        masks = None if mask_bk is None else np.split(mask_bk, cuts, axis=1)
    return list(zip(logits, masks or [None] * len(logits), strict=True))


def factored_log_prob(
    outputs_bk: Logits, space: FactoredSpace, action_bf: NDArray[np.integer[Any]], mask_bk: Mask | None = None
) -> Float64:
    """Log-probability of each row's choices together, float64 [B].

    Raises:
        ValueError: shapes that do not fit, or an action beyond its choices.
    """
    if action_bf.shape != (len(outputs_bk), len(space.factors)):
        raise ValueError(f"actions have shape {action_bf.shape}; accepted: [B, {len(space.factors)}]")
    parts = choices_of(outputs_bk, space, mask_bk)
    logps = [categorical_log_prob(logits, action_bf[:, i], mask) for i, (logits, mask) in enumerate(parts)]
    total: Float64 = np.sum(logps, axis=0, dtype=np.float64)
    return total


def factored_draw(
    outputs_bk: Logits, space: FactoredSpace, rng: np.random.Generator | None, mask_bk: Mask | None = None
) -> tuple[NDArray[np.int64], Float64]:
    """Draw every choice of every row, (int64 [B, F], log-probabilities [B]); the likeliest if no ``rng``."""
    actions, total = [], np.zeros(len(outputs_bk))
    for logits, mask in choices_of(outputs_bk, space, mask_bk):
        log_probs = categorical_log_probs(logits, mask)
        actions.append(log_probs.argmax(axis=1) if rng is None else sample_log_probs(log_probs, rng))
        total += log_probs[np.arange(len(log_probs)), actions[-1]]
    return np.stack(actions, axis=1).astype(np.int64), total
