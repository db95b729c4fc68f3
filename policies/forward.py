"""Forward passes of a policy's named arrays in numpy: batched, and one observation at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experience.flattening import flatten
from policies.checkpoint import Arrays
from policies.encoders import scaled
from policies.inputs import network_inputs
from policies.normalizer import CLIP, RunningStatistics
from policies.spec import LAYER_NORM_EPSILON, PolicySpec

Rows = NDArray[np.float32]


def policy_outputs(
    weights: Arrays, spec: PolicySpec, normalizer: RunningStatistics, obs: NDArray[np.generic]
) -> Rows:
    """Logits (discrete) or means (continuous), float32 [B, outputs], of observations [B, *shape].

    y = W_n · act(… act(W_0 x̂ + b_0)) + b_n, with x̂ the encoders' features of ``network_inputs``,
    which are those themselves for a box;
    with ``spec.layer_norm`` the sums are standardized first: act(z), z = (s - mean(s)) / √(var(s) + 1e-5).
    """
    return _network("policy", weights, spec, _inputs(spec, normalizer, obs))


def values(
    weights: Arrays, spec: PolicySpec, normalizer: RunningStatistics, obs: NDArray[np.generic]
) -> Rows:
    """Outputs of the value network, float32 [B], of observations [B, *shape]."""
    return _network("value", weights, spec, _inputs(spec, normalizer, obs))[:, 0]


def hidden_activations(
    weights: Arrays,
    spec: PolicySpec,
    normalizer: RunningStatistics,
    obs: NDArray[np.generic],
    *,
    network: str = "policy",
) -> list[Rows]:
    """Outputs of each hidden layer after its activation, float32 [B, width], of "policy" or "value"."""
    return list(_layers(network, weights, spec, _inputs(spec, normalizer, obs)))[:-1]


def _inputs(spec: PolicySpec, normalizer: RunningStatistics, obs: NDArray[np.generic]) -> Rows:
    if obs.ndim == 0 or obs.shape[1:] != spec.observation_shape:
        accepted = ", ".join(["B", *map(str, spec.observation_shape)])
        raise ValueError(f"observations have shape {obs.shape}; accepted: [{accepted}]")
    return network_inputs(spec, normalizer, obs)


def _network(network: str, weights: Arrays, spec: PolicySpec, rows: Rows) -> Rows:
    *_, outputs = _layers(network, weights, spec, rows)
    return outputs


def _layers(network: str, weights: Arrays, spec: PolicySpec, rows: Rows) -> Iterator[Rows]:
    activate = _activation(spec)
    last = len(spec.hidden)
    if spec.observation is not None:
        rows = _features(network, weights, spec, rows)
    for i in range(last + 1):
        rows = rows @ weights[f"{network}.{i}.weight"].T
        rows += weights[f"{network}.{i}.bias"]
        if i < last:
            activate(rows, rows)
        yield rows


def _features(network: str, weights: Arrays, spec: PolicySpec, rows: Rows) -> Rows:
    """What the encoders make of rows [B, inputs], [B, features]."""
    found = [np.empty((len(rows), 0), np.float32)]
    for part in spec.parts:
        own = [weights[name] for name in part.shapes(network)]
        columns = scaled(part.leaf.space, rows[:, part.leaf.start : part.leaf.stop])
        found.append(part.encoder.forward(part.leaf.space, own, columns))
    return np.concatenate(found, axis=1)


def _activation(spec: PolicySpec) -> Callable[[Rows, Rows], object]:
    activations: dict[str, Callable[[Rows, Rows], object]] = {"tanh": np.tanh, "relu": _relu}
    if spec.activation not in activations:
        raise ValueError(f"activation is {spec.activation!r}; accepted: tanh, relu")
    activate = activations[spec.activation]
    return (lambda rows, out: activate(_standardize(rows, out), out)) if spec.layer_norm else activate


def _standardize(rows: Rows, out: Rows) -> Rows:
    """Layer normalization (Ba, Kiros & Hinton 2016) of [..., width], without a learned gain and bias."""
    width = np.float32(rows.shape[-1])
    np.subtract(rows, np.add.reduce(rows, axis=-1, keepdims=True) / width, out)
    variance = np.add.reduce(np.square(out), axis=-1, keepdims=True) / width
    return np.divide(out, np.sqrt(variance + np.float32(LAYER_NORM_EPSILON)), out)


def _relu(rows: Rows, out: Rows) -> Rows:
    return np.maximum(rows, np.float32(0), out=out)


class EncodedForward:
    """The policy network behind encoders, for one observation at a time.

    Args:
        weights: as named by ``spec.shapes()``; kept.
        spec: shapes, activation, whether to normalize.
        normalizer: observation statistics; read when ``spec.normalize``.
    """

    def __init__(self, weights: Arrays, spec: PolicySpec, normalizer: RunningStatistics) -> None:
        self._arguments = weights, spec, normalizer
        self._space = spec.space

    def __call__(self, obs: Any) -> Rows:
        """Logits or means, float32 [outputs], of one observation, nested as the client has it."""
        outputs: Rows = policy_outputs(*self._arguments, flatten(self._space, obs)[None])[0]
        return outputs


class SingleForward:
    """The policy network for one observation at a time, without allocating anything.

    At this size the cost is the number of numpy calls, so a layer is one matrix-vector product: its input
    buffer ends in a 1 that is never overwritten, and its matrix in the bias as the last row. The division by
    the observations' deviation is in the first matrix, and the bounds of the clipping are scaled alike:
    W clip(d / s, ±10) = (W / s) clip(d, ±10 s).

    Args:
        weights: as named by ``spec.shapes()``; copied.
        spec: shapes, activation, whether to normalize.
        normalizer: observation statistics; read when ``spec.normalize``.
    """

    def __init__(self, weights: Arrays, spec: PolicySpec, normalizer: RunningStatistics) -> None:
        widths = (spec.inputs, *spec.hidden, spec.action.outputs)
        buffers = [np.ones(width + 1, np.float32) for width in widths]
        matrices = [_with_bias(weights, i) for i in range(len(widths) - 1)]
        self._shape = spec.observation_shape
        self._flat = buffers[0][:-1]
        self._input = self._flat.reshape(spec.observation_shape)
        self._centering: tuple[Rows, Rows, Rows] | None = None
        if spec.normalize:
            mean, inverse = normalizer.scale()
            matrices[0][:-1] *= inverse[:, None]
            bound = np.float32(CLIP) / inverse
            self._centering = (mean, bound, -bound)
        self._activate = _activation(spec)
        outs = [buffer[:-1] for buffer in buffers[1:]]
        layers = list(zip(buffers, matrices, outs, strict=False))
        self._hidden, (self._last_input, self._last_matrix, self._output) = layers[:-1], layers[-1]

    def __call__(self, obs: ArrayLike) -> Rows:
        """Logits or means, float32 [outputs], of one observation; overwritten by the next call."""
        obs = np.asarray(obs)
        if obs.shape != self._shape:
            raise ValueError(f"observation has shape {obs.shape}; the policy's is {self._shape}")
        self._input[...] = obs
        if self._centering is not None:
            self._center(*self._centering)
        dot, activate = np.dot, self._activate
        for source, matrix, out in self._hidden:
            dot(source, matrix, out)
            activate(out, out)
        return dot(self._last_input, self._last_matrix, self._output)

    def _center(self, mean: Rows, upper: Rows, lower: Rows) -> None:
        flat = self._flat
        np.subtract(flat, mean, flat)
        np.minimum(flat, upper, out=flat)
        np.maximum(flat, lower, out=flat)


def _with_bias(weights: Arrays, layer: int) -> Rows:
    """[in + 1, out], C-contiguous: the transposed matrix with the bias below it."""
    matrix, bias = weights[f"policy.{layer}.weight"], weights[f"policy.{layer}.bias"]
    return np.ascontiguousarray(np.vstack([matrix.T, bias]), dtype=np.float32)
