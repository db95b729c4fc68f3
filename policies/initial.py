"""Weights that nobody has trained yet."""

import math

import numpy as np
from numpy.typing import NDArray

from policies.checkpoint import Checkpoint
from policies.normalizer import RunningStatistics
from policies.spec import PolicySpec

HIDDEN_GAIN = math.sqrt(2.0)
POLICY_HEAD_GAIN = 0.01  # near-uniform first actions: no preference before any evidence
VALUE_HEAD_GAIN = 1.0
COUNTERS = ("updates", "steps", "episodes", "adam_policy", "adam_value")


def initial_checkpoint(spec: PolicySpec, *, seed: int, log_std: float = 0.0) -> Checkpoint:
    """Version 0 of a policy: orthogonal weights, zero biases, nothing counted.

    Args:
        spec: shapes and spaces.
        seed: of the weights; the same seed gives the same weights on one build of numpy.
        log_std: where a Gaussian's log standard deviations start. 0 is a standard deviation of 1, the usual
            start for actions scaled to about ±1: wide enough to explore such a range from the first episode.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    for name, shape in spec.shapes().items():
        if name.endswith(".weight"):
            flat = (shape[0], math.prod(shape[1:]))
            weights[name] = orthogonal(flat, gain=_gain(name, spec), rng=rng).reshape(shape)
        elif name.endswith(".table"):
            weights[name] = rng.standard_normal(shape, dtype=np.float32)
        else:
            start = log_std if name == "log_std" else 0.0
            weights[name] = np.full(shape, start, np.float32)
    return Checkpoint(
        version=0,
        parents=(),
        writer="",
        saved_at=0.0,
        spec=spec,
        weights=weights,
        averages={},
        normalizer=RunningStatistics.empty(spec.statistics),
        counters=dict.fromkeys(COUNTERS, 0),
    )


def orthogonal(shape: tuple[int, ...], *, gain: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Matrix [out, in] with orthogonal rows or columns, whichever are fewer, of norm ``gain``.

    Saxe, McClelland & Ganguli 2014. The signs of R's diagonal go into Q, so that the distribution is uniform
    over the orthogonal matrices (Mezzadri 2007).
    """
    fan_out, fan_in = shape
    tall = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(gain * (q if fan_out >= fan_in else q.T), dtype=np.float32)


def _gain(name: str, spec: PolicySpec) -> float:
    network, layer, *_ = name.split(".")
    if layer == "encoders" or int(layer) < len(spec.hidden):
        return HIDDEN_GAIN
    return POLICY_HEAD_GAIN if network == "policy" else VALUE_HEAD_GAIN
