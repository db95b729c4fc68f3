"""Draws: what an actor makes of a policy's outputs, one class an action space; ``create_draw`` chooses."""

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.spaces import ActionSpace
from policies.distributions import (
    DiagonalGaussian,
    Float64,
    Mask,
    categorical_log_probs,
    draw_categorical,
    gaussian_log_prob,
    sample_log_probs,
)
from policies.factored import factored_draw
from policies.spec import ContinuousSpace, DiscreteSpace, MultiBinarySpace, MultiDiscreteSpace

FEW_ACTIONS = 32  # up to here plain Python beats numpy's cost per call

Forward = Callable[[Any], NDArray[np.float32]]
"""One observation -> logits or means [outputs], overwritten by the next call."""


class Draw(Protocol):
    """Actions of one version."""

    def __call__(self, obs: Any, mask: ArrayLike | None) -> tuple[Any, float]:
        """Sample an action for one observation, and its log-probability."""

    def likeliest(self, obs: Any, mask: ArrayLike | None) -> tuple[Any, float]:
        """The likeliest action for one observation, and its log-probability."""

    def many(
        self, outputs: NDArray[np.float32], mask: ArrayLike | None, *, likeliest: bool
    ) -> tuple[NDArray[Any], Float64]:
        """(actions [B, …], log-probabilities [B]) of outputs [B, k]."""


class DiscreteDraw:
    """Samples from a categorical distribution.

    Args:
        forward: of one version.
        space: the actions.
        rng: of the sampling.
    """

    def __init__(self, forward: Forward, space: DiscreteSpace, rng: np.random.Generator) -> None:
        self._forward = forward
        self._n, self._start = space.n, space.start
        self._rng = rng
        self._random = rng.random

    def __call__(self, obs: Any, mask: ArrayLike | None) -> tuple[int, float]:
        """See ``Draw``."""
        logits = self._forward(obs)
        allowed = None if mask is None else _checked(mask, (self._n,))
        if self._n > FEW_ACTIONS:
            return self._one(logits, allowed, likeliest=False)
        numbers = logits.tolist()
        if allowed is not None:
            numbers = [logit if ok else -math.inf for logit, ok in zip(numbers, allowed, strict=True)]
        return draw_categorical(numbers, self._random())

    def likeliest(self, obs: Any, mask: ArrayLike | None) -> tuple[int, float]:
        """See ``Draw``."""
        allowed = None if mask is None else _checked(mask, (self._n,))
        return self._one(self._forward(obs), allowed, likeliest=True)

    def many(
        self, outputs: NDArray[np.float32], mask: ArrayLike | None, *, likeliest: bool
    ) -> tuple[NDArray[np.int64], Float64]:
        """See ``Draw``."""
        log_probs = categorical_log_probs(outputs, None if mask is None else _checked(mask, outputs.shape))
        actions = log_probs.argmax(axis=1) if likeliest else sample_log_probs(log_probs, self._rng)
        return actions + self._start, log_probs[np.arange(len(actions)), actions]

    def _one(
        self, logits: NDArray[np.float32], allowed: Mask | None, *, likeliest: bool
    ) -> tuple[int, float]:
        actions, logp = self.many(
            logits[None], None if allowed is None else allowed[None], likeliest=likeliest
        )
        return int(actions[0]) - self._start, float(logp[0])


class ShiftedDraw(DiscreteDraw):
    """The same for actions that do not count from 0; apart, so that the usual ones cost nothing more."""

    def __call__(self, obs: Any, mask: ArrayLike | None) -> tuple[int, float]:
        """See ``Draw``."""
        action, logp = super().__call__(obs, mask)
        return action + self._start, logp

    def likeliest(self, obs: Any, mask: ArrayLike | None) -> tuple[int, float]:
        """See ``Draw``."""
        action, logp = super().likeliest(obs, mask)
        return action + self._start, logp


class FactoredDraw:
    """Samples several choices at once: int64 [choices]; a binary one has the logits 0 and z."""

    def __init__(
        self, forward: Forward, space: MultiDiscreteSpace | MultiBinarySpace, rng: np.random.Generator
    ) -> None:
        self._forward, self._space, self._rng = forward, space, rng
        self._binary = isinstance(space, MultiBinarySpace)
        widths = (1,) * space.outputs if isinstance(space, MultiBinarySpace) else space.nvec
        self._parts = list(pairwise(accumulate(widths, initial=0)))
        self._few = max(space.factors) <= FEW_ACTIONS

    def __call__(self, obs: Any, mask: ArrayLike | None) -> tuple[NDArray[np.int64], float]:
        """See ``Draw``."""
        if not self._few:
            return self._one(obs, mask, likeliest=False)
        logits = self._forward(obs)
        numbers = logits.tolist()
        if mask is not None:
            allowed = _checked(mask, logits.shape).tolist()
            numbers = [logit if ok else -math.inf for logit, ok in zip(numbers, allowed, strict=True)]
        first = [0.0] if self._binary else []
        uniforms = self._rng.random(len(self._parts)).tolist()
        drawn = [
            draw_categorical(first + numbers[start:stop], uniform)
            for (start, stop), uniform in zip(self._parts, uniforms, strict=True)
        ]
        return np.array([action for action, _ in drawn], np.int64), sum(logp for _, logp in drawn)

    def likeliest(self, obs: Any, mask: ArrayLike | None) -> tuple[NDArray[np.int64], float]:
        """See ``Draw``."""
        return self._one(obs, mask, likeliest=True)

    def many(
        self, outputs: NDArray[np.float32], mask: ArrayLike | None, *, likeliest: bool
    ) -> tuple[NDArray[np.int64], Float64]:
        """See ``Draw``."""
        allowed = None if mask is None else _checked(mask, outputs.shape)
        return factored_draw(outputs, self._space, None if likeliest else self._rng, allowed)

    def _one(self, obs: Any, mask: ArrayLike | None, *, likeliest: bool) -> tuple[NDArray[np.int64], float]:
        outputs = self._forward(obs)
        allowed = None if mask is None else _checked(mask, outputs.shape)[None]
        actions, logp = self.many(outputs[None], allowed, likeliest=likeliest)
        return actions[0], float(logp[0])


class ContinuousDraw:
    """Samples from a Gaussian."""

    def __init__(self, forward: Forward, log_std: NDArray[np.float32], rng: np.random.Generator) -> None:
        self._forward, self._log_std, self._rng = forward, log_std, rng
        self._gaussian = DiagonalGaussian(log_std)

    def __call__(self, obs: Any, mask: ArrayLike | None) -> tuple[NDArray[np.float32], float]:
        """See ``Draw``."""
        if mask is not None:
            raise _no_mask()
        return self._gaussian.draw(self._forward(obs), self._rng)

    def likeliest(self, obs: Any, mask: ArrayLike | None) -> tuple[NDArray[np.float32], float]:
        """See ``Draw``."""
        actions, logp = self.many(self._forward(obs)[None], mask, likeliest=True)
        return actions[0], float(logp[0])

    def many(
        self, outputs: NDArray[np.float32], mask: ArrayLike | None, *, likeliest: bool
    ) -> tuple[NDArray[np.float32], Float64]:
        """See ``Draw``."""
        if mask is not None:
            raise _no_mask()
        actions = outputs.copy()
        if not likeliest:
            actions += np.exp(self._log_std) * self._rng.standard_normal(outputs.shape, dtype=np.float32)
        return actions, gaussian_log_prob(outputs, self._log_std, actions)


def create_draw(
    space: ActionSpace, forward: Forward, log_std: NDArray[np.float32] | None, rng: np.random.Generator
) -> Draw:
    """Return what draws actions of ``space``; ``log_std`` is the Gaussian's."""
    if isinstance(space, ContinuousSpace):
        assert log_std is not None
        return ContinuousDraw(forward, log_std, rng)
    if isinstance(space, DiscreteSpace):
        return (ShiftedDraw if space.start else DiscreteDraw)(forward, space, rng)
    return FactoredDraw(forward, space, rng)


def _checked(mask: ArrayLike, shape: tuple[int, ...]) -> Mask:
    allowed = np.asarray(mask, np.bool_)
    if allowed.shape != shape:
        raise ValueError(f"mask has shape {allowed.shape}; the policy's is {shape}")
    return allowed


def _no_mask() -> ValueError:
    return ValueError("mask is given; the policy's actions are continuous, which have none")
