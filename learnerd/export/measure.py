"""Measure: how far an export's outputs are from what the learner computes for the same observations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from learnerd.export.source import Source
from policies.distributions import Float64, categorical_log_probs
from policies.factored import choices_of
from policies.forward import policy_outputs
from policies.spec import ContinuousSpace, MultiBinarySpace, MultiDiscreteSpace

TOLERANCE = 1e-5
"""Times the largest output, at least 1: what the order of float32 sums explains."""

Rows = NDArray[np.float32]


def differences(source: Source, observations: Rows, outputs: Rows) -> dict[str, Any]:
    """Compare outputs [n, k] (logits or means) with the learner's for ``observations`` [n, *shape].

    Returns:
        ``observations`` (how many), ``output_max`` (absolute), ``output_limit`` (within it: rounding);
        discrete: ``probability_max``, ``probability_mean``, ``logp_max`` (nats) and ``greedy_agreement`` (a
        fraction); continuous: ``deviations_max``, in standard deviations of the action.
    """
    expected = policy_outputs(source.weights, source.spec, source.normalizer, observations)
    apart = np.abs(outputs - expected)
    figures = {
        "observations": len(observations),
        "output_max": float(apart.max()),
        "output_limit": TOLERANCE * max(1.0, float(np.abs(expected).max())),
    }
    if isinstance(source.spec.action, ContinuousSpace):
        deviations = apart / np.exp(source.weights["log_std"])
        return figures | {"deviations_max": float(deviations.max())}
    return figures | _of_probabilities(_choices(source, expected), _choices(source, outputs))


def _choices(source: Source, outputs: Rows) -> list[Float64]:
    """Log-probabilities [n, k] of each choice that an action consists of."""
    action = source.spec.action
    if isinstance(action, MultiDiscreteSpace | MultiBinarySpace):
        return [categorical_log_probs(logits) for logits, _ in choices_of(outputs, action)]
    return [categorical_log_probs(outputs)]


def _of_probabilities(expected: list[Float64], outputs: list[Float64]) -> dict[str, float]:
    here, there = (np.concatenate(choices, axis=1) for choices in (expected, outputs))
    apart = np.abs(np.exp(here) - np.exp(there))
    same = [a.argmax(axis=1) == b.argmax(axis=1) for a, b in zip(expected, outputs, strict=True)]
    return {
        "probability_max": float(apart.max()),
        "probability_mean": float(apart.mean()),
        "logp_max": float(np.abs(here - there).max()),
        "greedy_agreement": float(np.all(same, axis=0).mean()),
    }
