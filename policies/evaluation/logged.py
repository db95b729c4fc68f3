"""Logged: episodes of one or several behavior policies, as one target policy sees them (numpy, float64)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from experience.batch import Batch
from policies.behavior import ActingPolicy, log_probs
from policies.distributions import categorical_log_probs
from policies.errors import NotEvaluable
from policies.factored import factored_draw
from policies.forward import policy_outputs
from policies.spec import ContinuousSpace, DiscreteSpace
from policies.weighting import effective_sample_fraction

Float64 = NDArray[np.float64]

DRAWS = 8
"""Actions drawn for the expectation over the actions of a policy that has too many to go through."""

MOST_CELLS = 2**26
"""Episodes times steps of the longest: 512 MiB a matrix, of which a few are in memory at once."""


class Target(Protocol):
    """A policy to be evaluated."""

    def log_probs(self, obs: NDArray[Any], action: NDArray[Any], mask: NDArray[np.bool_] | None) -> Float64:
        """Log-probability of each action [N]; -inf where it would never be taken."""

    def choices(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> tuple[NDArray[Any], Float64]:
        """Actions [N, K] or [N, K, A] and their probabilities [N, K], for expectations.

        Discrete: action k in column k, all of them. Continuous, or several choices: K draws, each 1 / K.
        """


class PolicyTarget:
    """A published version as a target.

    Args:
        policy: what it acts with.
        seed: of the draws of actions.
    """

    def __init__(self, policy: ActingPolicy, *, seed: int = 0) -> None:
        self._policy = policy
        self._seed = seed

    def log_probs(self, obs: NDArray[Any], action: NDArray[Any], mask: NDArray[np.bool_] | None) -> Float64:
        """As ``policies.behavior.log_probs``."""
        return log_probs(self._policy, obs, action, mask)

    def choices(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> tuple[NDArray[Any], Float64]:
        """As ``Target.choices``."""
        policy = self._policy
        outputs = policy_outputs(policy.weights, policy.spec, policy.normalizer, obs)
        if isinstance(policy.spec.action, DiscreteSpace):
            every = np.broadcast_to(np.arange(policy.spec.action.n), outputs.shape)
            return every, np.exp(categorical_log_probs(outputs, mask))
        rng, equal = np.random.default_rng(self._seed), np.full((len(obs), DRAWS), 1.0 / DRAWS)
        if isinstance(policy.spec.action, ContinuousSpace):
            noise = rng.standard_normal((len(obs), DRAWS, outputs.shape[1]))
            return outputs[:, None] + noise * np.exp(policy.weights["log_std"]), equal
        drawn = [factored_draw(outputs, policy.spec.action, rng, mask)[0] for _ in range(DRAWS)]
        return np.stack(drawn, axis=1), equal


@dataclass(frozen=True, kw_only=True)
class Logged:
    """E episodes with N steps and a target policy.

    An episode that was truncated counts as ended for the importance-sampling estimators: what they estimate
    is the return within the logged horizon. The fitted-Q and doubly robust ones go on from its final
    observation up to the longest episode's horizon.

    Attributes:
        batch: the episodes; their log-probabilities are those of the policy that acted.
        target: the policy to be evaluated.
        log_ratio: [N] log π - log μ of each step.
        gamma: discount per step, 0 … 1.
        probabilities: "logged", "recovered" or "mixed", for the record.
    """

    batch: Batch
    target: Target
    log_ratio: Float64
    gamma: float
    probabilities: str = "logged"

    @classmethod
    def of(cls, batch: Batch, target: Target, *, gamma: float, probabilities: str = "logged") -> "Logged":
        """Compare the target with what acted.

        Raises:
            NotEvaluable: a step has no log-probability, or the target's is not a number, or there are fewer
                than two episodes.
        """
        _check(batch, gamma)
        now = target.log_probs(batch.obs, batch.action, batch.mask)
        if np.isnan(now).any() or np.isposinf(now).any():
            raise NotEvaluable("log-probability of the target", str(now[~(now < np.inf)][0]), "numbers")
        ratio = now - batch.logp
        return cls(batch=batch, target=target, log_ratio=ratio, gamma=gamma, probabilities=probabilities)

    @property
    def n_episodes(self) -> int:
        """E."""
        return self.batch.n_episodes

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[E] steps of each episode."""
        return np.diff(self.batch.offsets)

    @property
    def horizon(self) -> int:
        """T, steps of the longest episode."""
        return int(self.lengths.max())

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """[N] to which episode a step belongs."""
        return np.repeat(np.arange(self.n_episodes), self.lengths)

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """[N] position within the episode."""
        return np.arange(self.batch.n_steps) - np.repeat(self.batch.offsets[:-1], self.lengths)

    def padded(self, values_n: NDArray[Any]) -> Float64:
        """[E, T]: one row an episode; 0 after its end."""
        matrix = np.zeros((self.n_episodes, self.horizon))
        matrix[self.episode, self.step] = values_n
        return matrix

    @cached_property
    def log_weights(self) -> Float64:
        """[E, T] Σ_{k ≤ t} (log π - log μ); after an episode's end its last one: it goes on with ratio 1."""
        with np.errstate(invalid="ignore"):
            return np.cumsum(self.padded(self.log_ratio), axis=1)

    @cached_property
    def discounted(self) -> Float64:
        """[E, T] γ^t r_t; 0 after an episode's end."""
        return self.padded(self.batch.reward * self.gamma**self.step)

    @property
    def ess_steps(self) -> float:
        """Effective share of the steps by their own ratios: what the learner's step follows."""
        return _share(self.log_ratio)

    @cached_property
    def ess_per_step(self) -> tuple[float, ...]:
        """[T] effective share of the episodes by the ratios up to each step."""
        return tuple(_share(column) for column in np.ascontiguousarray(self.log_weights.T))

    @property
    def ess_trajectory(self) -> float:
        """Effective share of the episodes by the ratios of whole episodes."""
        return self.ess_per_step[-1]

    @property
    def ess_mean(self) -> float:
        """Mean of ``ess_per_step``, each step counted as often as there are episodes that reach it."""
        alive = np.bincount(self.step, minlength=self.horizon)
        return float(np.average(self.ess_per_step, weights=alive))


def weights_of(log_weights: Float64) -> Float64:
    """exp, with each column's largest divided out: for estimators that normalize within columns."""
    top = log_weights.max(axis=0, keepdims=True)
    result: Float64 = np.exp(log_weights - np.where(np.isfinite(top), top, 0.0))
    return result


def _share(log_ratio: Float64) -> float:
    """Effective share; 0 where the target would never have done any of it."""
    share = effective_sample_fraction(log_ratio)
    return 0.0 if np.isnan(share) else share


def _check(batch: Batch, gamma: float) -> None:
    if batch.n_episodes < 2:  # noqa: PLR2004 - nothing to resample
        raise NotEvaluable("episodes", batch.n_episodes, "two or more")
    if not 0.0 <= gamma <= 1.0:
        raise NotEvaluable("gamma", gamma, "0 to 1")
    missing = np.isnan(batch.logp)
    if missing.any():
        without = np.add.reduceat(missing, batch.offsets[:-1]) > 0
        found = f"missing in {int(without.sum())} of {batch.n_episodes} episodes"
        raise NotEvaluable("logp", found, "a log-probability for every step, logged or recovered")
    cells = batch.n_episodes * int(np.diff(batch.offsets).max())
    if cells > MOST_CELLS:
        found = f"{batch.n_episodes} episodes of up to {cells // batch.n_episodes} steps"
        raise NotEvaluable("episodes", found, f"episodes times steps of at most {MOST_CELLS}")
