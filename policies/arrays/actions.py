"""Action distributions over the columns of a chunk (numpy), with hand-derived gradients in their outputs.

Outputs are [k, n] here, a column for each step, as ``policies.arrays.perceptrons`` gives them. For a loss
L = Σ_n (l_n(log π_n) - b_n H_n) with slopes s_n = d l_n / d log π_n the gradients are

    categorical, logits z:  ∂L/∂z_in = s_n (1[i = a_n] - p_in) + b_n p_in (log p_in + H_n)
    Gaussian, means m:      ∂L/∂m_in = s_n (a_in - m_in) / τ_i²
    Gaussian, log τ:        ∂L/∂log τ_i = Σ_n s_n ((a_in - m_in)² / τ_i² - 1) - Σ_n b_n

with τ the standard deviations.
"""

from typing import Protocol, Self

import numpy as np

from policies.arrays.rows import ArrayRows, Float32
from policies.networks import DISALLOWED_LOGIT, LOG_2_PI


class Actions(Protocol):
    """A policy's distribution at n steps, and the actions that were taken.

    Attributes:
        logp: [n] log-probability of each action.
    """

    logp: Float32

    def entropy(self) -> Float32:
        """Entropy at each step in nats, [n] or []."""

    def divergence(self, to: Self) -> Float32:
        """KL(self ‖ to) at each step in nats, [n]."""

    def gradient(self, slope_n: Float32, bonus_n: Float32 | float, out_kn: Float32) -> Float32 | None:
        """Write the gradient in the outputs; return that in the log standard deviations [A], if any.

        Args:
            slope_n: [n] derivative of the loss in log π.
            bonus_n: [n] or one for all: weight of the entropy.
            out_kn: [k, n] for the result.
        """


class Categorical:
    """A softmax over k actions.

    Args:
        log_probs_kn: [k, n] normalized log-probabilities.
        logp_n: [n] those of the actions.
        taken_kn: [k, n] 1 where they are, else 0.
    """

    def __init__(self, log_probs_kn: Float32, logp_n: Float32, taken_kn: Float32) -> None:
        self.logp = logp_n
        self._log_probs, self._taken = log_probs_kn, taken_kn
        self._probs: Float32 | None = None
        self._entropy: Float32 | None = None

    @classmethod
    def of(cls, logits_kn: Float32, rows: ArrayRows) -> Self:
        """Evaluate the actions of ``rows`` under logits [k, n], which are overwritten."""
        if rows.barred is not None:
            np.copyto(logits_kn, np.float32(DISALLOWED_LOGIT), where=rows.barred)
        logits_kn -= np.maximum.reduce(logits_kn, axis=0)
        logits_kn -= np.log(np.add.reduce(np.exp(logits_kn), axis=0))
        return cls(logits_kn, np.add.reduce(logits_kn * rows.action, axis=0), rows.action)

    def entropy(self) -> Float32:
        """-Σ p log p, [n]."""
        if self._entropy is None:
            self._entropy = np.negative(np.add.reduce(self._probabilities() * self._log_probs, axis=0))
        return self._entropy

    def divergence(self, to: Self) -> Float32:
        """Σ p (log p - log q), [n]."""
        difference = self._log_probs - to._log_probs
        difference *= self._probabilities()
        divergence: Float32 = np.add.reduce(difference, axis=0)
        return divergence

    def gradient(self, slope_n: Float32, bonus_n: Float32 | float, out_kn: Float32) -> None:
        """See ``Actions``."""
        if isinstance(bonus_n, float) and bonus_n == 0.0:
            np.subtract(self._taken, self._probabilities(), out=out_kn)
            out_kn *= slope_n
            return
        np.add(self._log_probs, self.entropy(), out=out_kn)
        out_kn *= bonus_n
        out_kn -= slope_n
        out_kn *= self._probabilities()
        out_kn += slope_n * self._taken

    def _probabilities(self) -> Float32:
        if self._probs is None:
            self._probs = np.exp(self._log_probs)
        return self._probs


class Gaussian:
    """Independent Gaussians for A numbers, with the same deviations at every step.

    Args:
        mean_an: [A, n].
        log_std_a: [A].
        action_an: [A, n] which were taken.
        logp_n: [n] their log-probabilities, where they are known.
    """

    def __init__(
        self, mean_an: Float32, log_std_a: Float32, action_an: Float32, *, logp_n: Float32 | None = None
    ) -> None:
        self._mean, self._log_std = mean_an, log_std_a
        self._inverse_std = np.exp(-log_std_a)[:, None]
        self._standardized = (action_an - mean_an) * self._inverse_std
        self._squared = np.square(self._standardized)
        self.logp = self._log_density() if logp_n is None else logp_n

    def entropy(self) -> Float32:
        """Σ log τ + ½ A (1 + log 2π), []."""
        return np.asarray(self._log_std.sum() + np.float32(0.5 * (1.0 + LOG_2_PI) * len(self._log_std)))

    def divergence(self, to: Self) -> Float32:
        """½ Σ (τ² / τ'² + (m - m')² / τ'² - 1) + Σ (log τ' - log τ), m' and τ' of ``to``, [n]."""
        shift = (self._mean - to._mean) * to._inverse_std
        ratio = np.exp(2.0 * (self._log_std - to._log_std))[:, None]
        each = 0.5 * (ratio + np.square(shift) - 1.0) + (to._log_std - self._log_std)[:, None]
        divergence: Float32 = each.sum(axis=0)
        return divergence

    def gradient(self, slope_n: Float32, bonus_n: Float32 | float, out_kn: Float32) -> Float32:
        """See ``Actions``."""
        np.multiply(self._standardized, self._inverse_std, out=out_kn)
        out_kn *= slope_n
        bonus = bonus_n * len(slope_n) if isinstance(bonus_n, float) else bonus_n.sum()
        log_std_gradient: Float32 = (self._squared - 1.0) @ slope_n - bonus
        return log_std_gradient

    def _log_density(self) -> Float32:
        """-½ Σ z² - Σ log τ - ½ A log 2π, [n]."""
        constant = self._log_std.sum() + np.float32(0.5 * LOG_2_PI * len(self._log_std))
        logp: Float32 = -0.5 * self._squared.sum(axis=0) - constant
        return logp
