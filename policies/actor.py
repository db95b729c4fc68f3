"""Actor: how a Python client acts with the newest policy; needs numpy and safetensors, no torch."""

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.distributions import DiagonalGaussian, categorical_log_probs, draw_categorical, sample_log_probs
from policies.errors import NoPolicyYet, PolicyError, VersionPruned
from policies.forward import SingleForward
from policies.manifest import read_actor, read_current
from policies.spec import DiscreteSpace

# File timestamps can be coarse or a step behind: while CURRENT is younger than this, an unchanged stat does
# not prove that it was not replaced once more, so it is read again.
SETTLED_NS = 1_000_000_000
ATTEMPTS = 3  # a version may be pruned between reading CURRENT and loading it; CURRENT is newer by then
FEW_ACTIONS = 32  # up to here plain Python beats numpy's cost per call


class Actor:
    """Acts with the version that ``CURRENT`` names, and takes up a newer one when asked to.

    A version is read whole and its hashes are checked before it acts. One that is broken or pruned leaves the
    last good one in place, and no version is ever followed by an older one. Not safe for use by two threads
    at once.

    Args:
        state_dir: the daemon's folder, as in ``[paths] state``. It need not exist yet.
        seed: of the sampling; None takes fresh entropy.
    """

    def __init__(self, state_dir: str | os.PathLike[str], *, seed: int | None = None) -> None:
        self._state_dir = Path(state_dir)
        self._current = os.path.join(state_dir, "CURRENT")  # noqa: PTH118 - os.stat is quicker on text
        self._rng = np.random.default_rng(seed)
        self._draw: _Draw | None = None
        self._version: int | None = None
        self._problem: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._taken_up: bytes | None = None
        self.refresh()

    @property
    def version(self) -> int | None:
        """The version that acts; None while there is none. Log it with every step."""
        return self._version

    @property
    def problem(self) -> str | None:
        """Why the last change of ``CURRENT`` was not taken up; None when it was."""
        return self._problem

    def act(self, obs: ArrayLike, *, mask: ArrayLike | None = None) -> tuple[Any, float]:
        """Sample an action and give its log-probability.

        Args:
            obs: one observation of the policy's observation shape.
            mask: [n] bool, True where an action is allowed (discrete only).

        Returns:
            Discrete: (int, log-probability). Continuous: (float32 [A], log-density) of the raw Gaussian
            sample, not clipped: clip what you pass on to the environment, and log this one as it is, because
            the log-density is its own.

        Raises:
            NoPolicyYet: no version has been published; act at random and log version 0.
            ValueError: the observation or the mask has another shape than the policy's.
        """
        if self._draw is None:
            raise NoPolicyYet("no version has been published yet: act at random and log version 0")
        return self._draw(np.asarray(obs), mask)

    def refresh(self) -> bool:
        """Take up the version that ``CURRENT`` names by now; call it between episodes.

        While nothing changed this costs one stat.

        Returns:
            Whether another version acts from now on.
        """
        try:
            stat = os.stat(self._current)  # noqa: PTH116 - quicker than Path.stat
            signature = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if signature == self._seen:
                return False
            text = _read(self._current)
        except FileNotFoundError:
            return False
        except OSError as error:
            return self._keep(error)
        before = self._version
        if text == self._taken_up or self._take_up():
            self._taken_up = text if self._problem is None else None
            if abs(time.time_ns() - stat.st_mtime_ns) > SETTLED_NS:
                self._seen = signature
        return self._version != before

    def _take_up(self) -> bool:
        """Load what CURRENT names; False when that may succeed later though CURRENT stays as it is."""
        for _ in range(ATTEMPTS):
            try:
                self._load(read_current(self._state_dir))
            except VersionPruned as error:
                self._keep(error)
                continue
            except OSError as error:
                return self._keep(error)
            except (PolicyError, ValueError) as error:
                self._keep(error)
                return True
            self._problem = None
            return True
        return False

    def _keep(self, error: Exception) -> bool:
        self._problem = f"{type(error).__name__}: {error}"
        return False

    def _load(self, version: int | None) -> None:
        if version is None:
            raise ValueError(f"{self._current} names no version; accepted: eight digits")
        if version == self._version:
            return
        if self._version is not None and version < self._version:
            raise ValueError(f"{self._current} names version {version}, older than {self._version}")
        spec, weights, normalizer, _ = read_actor(self._state_dir, version)
        forward = SingleForward(weights, spec, normalizer)
        if isinstance(spec.action, DiscreteSpace):
            self._draw = _DiscreteDraw(forward, spec.action.n, self._rng)
        else:
            self._draw = _ContinuousDraw(forward, weights["log_std"], self._rng)
        self._version = version


def _read(path: str) -> bytes:
    """The first bytes of a small file, at a third of the cost of ``Path.read_bytes``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64)
    finally:
        os.close(descriptor)


class _DiscreteDraw:
    """Samples from the categorical distribution of one version."""

    def __init__(self, forward: SingleForward, n: int, rng: np.random.Generator) -> None:
        self._forward = forward
        self._n = n
        self._rng = rng
        self._random = rng.random

    def __call__(self, obs: NDArray[Any], mask: ArrayLike | None) -> tuple[int, float]:
        logits = self._forward(obs)
        allowed = None if mask is None else self._check(mask)
        if self._n > FEW_ACTIONS:
            return self._draw_many(logits, allowed)
        numbers = logits.tolist()
        if allowed is not None:
            numbers = [logit if ok else -math.inf for logit, ok in zip(numbers, allowed, strict=True)]
        return draw_categorical(numbers, self._random())

    def _check(self, mask: ArrayLike) -> NDArray[np.bool_]:
        allowed = np.asarray(mask, np.bool_)
        if allowed.shape != (self._n,):
            raise ValueError(f"mask has shape {allowed.shape}; the policy's is {(self._n,)}")
        return allowed

    def _draw_many(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None) -> tuple[int, float]:
        rows = None if allowed is None else allowed[None]
        log_probs = categorical_log_probs(logits[None], rows)
        action = int(sample_log_probs(log_probs, self._rng)[0])
        return action, float(log_probs[0, action])


class _ContinuousDraw:
    """Samples from the Gaussian of one version."""

    def __init__(
        self, forward: SingleForward, log_std: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        self._forward = forward
        self._gaussian = DiagonalGaussian(log_std)
        self._rng = rng

    def __call__(self, obs: NDArray[Any], mask: ArrayLike | None) -> tuple[NDArray[np.float32], float]:
        if mask is not None:
            raise ValueError("mask is given; the policy's actions are continuous, which have none")
        return self._gaussian.draw(self._forward(obs), self._rng)


_Draw = _DiscreteDraw | _ContinuousDraw
