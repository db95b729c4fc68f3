"""Actor: how a Python client acts with the newest policy; needs numpy and safetensors, no torch."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.flattening import flatten
from experience.space_parsing import action_space_of, space_of
from policies.draws import Draw, create_draw
from policies.errors import NoPolicyYet, PolicyError, VersionPruned, WrongSpaces
from policies.forward import EncodedForward, SingleForward, policy_outputs
from policies.manifest import ActorVersion, read_actor, read_current
from policies.spec import PolicySpec

# File timestamps can be coarse or a step behind: while CURRENT is younger than this, an unchanged stat does
# not prove that it was not replaced once more, so it is read again.
SETTLED_NS = 1_000_000_000
ATTEMPTS = 3  # a version may be pruned between reading CURRENT and loading it; CURRENT is newer by then


class Actor:
    """Acts with the version that ``CURRENT`` names, and takes up a newer one when asked to.

    A version is read whole and its hashes are checked before it acts. One that is broken or pruned leaves the
    last good one in place, and no version is ever followed by an older one. Not safe for use by two threads
    at once.

    Args:
        state_dir: the daemon's folder, as in ``[paths] state``. It need not exist yet.
        seed: of the sampling; None takes fresh entropy.
        observation_space, action_space: what the client observes and does, as for ``EpisodeWriter``; None:
            not compared.

    Raises:
        WrongSpaces: they are not the policy's; ``refresh`` raises it too.
        ValueError: one of them is no space.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        seed: int | None = None,
        observation_space: Any = None,
        action_space: Any = None,
    ) -> None:
        self._observed = None if observation_space is None else space_of(observation_space)
        self._done = None if action_space is None else action_space_of(action_space)
        self._state_dir = Path(state_dir)
        self._current = os.path.join(state_dir, "CURRENT")  # noqa: PTH118 - os.stat is quicker on text
        self._rng = np.random.default_rng(seed)
        self._draw: Draw | None = None
        self._policy: ActorVersion | None = None
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

    @property
    def spec(self) -> PolicySpec | None:
        """The spaces and the networks of the version that acts; None while there is none."""
        return None if self._policy is None else self._policy.spec

    def act(
        self, obs: Any, *, mask: ArrayLike | None = None, deterministic: bool = False
    ) -> tuple[Any, float]:
        """Sample an action and give its log-probability.

        Args:
            obs: one observation of the policy's space: an array or numbers, or a dict or tuple of them.
            mask: True where an action is allowed: [n] (discrete); [sum of nvec], the choices side by side
                (multi_discrete); [n], whether each may be 1 (multi_binary). Continuous actions have none.
            deterministic: take the likeliest action instead. That is for showing and judging a policy: what
                it earns is learned from as if sampled, so leave ``policy_version`` and ``logp`` out of the
                episodes, or do not deposit them.

        Returns:
            Discrete: (int, log-probability). Several choices: (int64 [choices], log-probability of them
            together). Continuous: (float32 [A], log-density) of the raw Gaussian sample, not clipped: clip
            what you pass on to the environment, and log this one as it is, because the log-density is its
            own.

        Raises:
            NoPolicyYet: no version has been published; act at random and log version 0.
            ValueError: the observation or the mask has another shape than the policy's.
        """
        if self._draw is None:
            raise _no_policy()
        if deterministic:
            return self._draw.likeliest(obs, mask)
        return self._draw(obs, mask)

    def act_batch(
        self, obs: Any, *, mask: ArrayLike | None = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Act for B environments at once, laid out as Gymnasium's vector environments do.

        Args:
            obs: as for ``act``, every array with a first axis of B.
            mask: as for ``act``, with a first axis of B.
            deterministic: as for ``act``.

        Returns:
            (actions, log-probabilities [B]): int64 [B], int64 [B, choices] or float32 [B, A].

        Raises:
            NoPolicyYet, ValueError: as ``act``.
        """
        if self._draw is None or self._policy is None:
            raise _no_policy()
        spec, weights, normalizer, _ = self._policy
        space = spec.space
        leading = len(_first_leaf(obs))
        rows = flatten(space, obs, lead=(leading,))
        outputs = policy_outputs(weights, spec, normalizer, rows)
        return self._draw.many(outputs, mask, likeliest=deterministic)

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
            except WrongSpaces:
                raise
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
        found = read_actor(self._state_dir, version)
        policy = found._replace(spec=self._agreed(found.spec))
        spec, weights, normalizer, _ = policy
        single = SingleForward if spec.observation is None else EncodedForward
        forward = single(weights, spec, normalizer)
        self._draw = create_draw(spec.action, forward, weights.get("log_std"), self._rng)
        self._policy, self._version = policy, version

    def _agreed(self, spec: PolicySpec) -> PolicySpec:
        """The spec in the client's own terms: its indices may begin elsewhere than at 0."""
        if self._observed is not None:
            if self._observed.canonical() != spec.space.canonical():
                raise WrongSpaces(what="observation_space", theirs=self._observed, ours=spec.space)
            spec = replace(spec, observation=self._observed)
        if self._done is not None:
            if self._done.canonical() != spec.action.canonical():
                raise WrongSpaces(what="action_space", theirs=self._done, ours=spec.action)
            spec = replace(spec, action=self._done)
        return spec


def _no_policy() -> NoPolicyYet:
    return NoPolicyYet("no version has been published yet: act at random and log version 0")


def _first_leaf(obs: Any) -> Any:
    """The first array of a nested observation: its first axis is the batch."""
    while isinstance(obs, (Mapping, tuple)):
        obs = next(iter(obs.values() if isinstance(obs, Mapping) else obs))
    return obs


def _read(path: str) -> bytes:
    """The first bytes of a small file, at a third of the cost of ``Path.read_bytes``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64)
    finally:
        os.close(descriptor)
