"""Networks (torch): named weights on one flat vector, the perceptron, and the action distributions.

One flat vector a network: the optimizer, the clipping and the moving average are then a few operations on one
tensor, whatever the number of layers.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from policies.checkpoint import Arrays
from policies.encoders import torch_scaled
from policies.spec import LAYER_NORM_EPSILON, ActionSpace, MultiBinarySpace, MultiDiscreteSpace, PolicySpec

LOG_2_PI = math.log(2.0 * math.pi)
DISALLOWED_LOGIT = -1e9  # its probability is exactly 0 in float32, and 0 · log 0 stays 0 in the entropy

Float32 = NDArray[np.float32]
Between = Callable[[Tensor], Tensor]
"""What happens to a hidden layer's sums."""


class Encoding:
    """What stands before the first layer: the encoders of a spec that observes more than a box.

    Args:
        spec: with a structured observation.
        network: "policy" or "value".

    Attributes:
        n_weights: how many weights it takes, the network's first ones.
    """

    def __init__(self, spec: PolicySpec, network: str) -> None:
        self._parts = [(part, len(part.shapes(network))) for part in spec.parts]
        self.n_weights = sum(count for _, count in self._parts)

    def __call__(self, weights: Sequence[Tensor], obs_nd: Tensor) -> Tensor:
        """Features [n, F] of observations [n, D]."""
        found, first = [], 0
        for part, count in self._parts:
            own, (_, space, start, stop) = weights[first : first + count], part.leaf
            columns = torch_scaled(space, obs_nd[:, start:stop])
            found.append(part.encoder.torch_forward(space, own, columns))
            first += count
        return torch.cat(found, dim=1)


class Layout:
    """Where each named weight lies on a network's flat vector."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def pack(self, arrays: Arrays, *, prefix: str = "", device: str = "cpu") -> Tensor:
        """Copy named arrays onto a new flat float32 vector."""
        parts = [np.asarray(arrays[prefix + name], np.float32).reshape(-1) for name in self.shapes]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    def unpack(self, flat: Tensor, *, prefix: str = "") -> dict[str, Float32]:
        """Copy a flat vector into named arrays."""
        array = flat.detach().to("cpu", copy=True).numpy()
        pieces = np.split(array, np.cumsum(self.sizes)[:-1])
        return {
            prefix + name: piece.reshape(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def views(self, flat: Tensor) -> list[Tensor]:
        """Shaped views of a flat vector, in order; none of them knows of the others."""
        pieces = flat.split(self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes.values(), strict=True)]


class Network:
    """A perceptron, maybe behind encoders, whose weights are views of one flat vector; and their gradient.

    Attributes:
        layout: where each weight lies.
        flat: [P] float32, changed in place by an optimizer.
        gradient: [P] float32, filled by ``set_gradient``.
        leaves: the weights as autograd sees them.
    """

    def __init__(
        self, layout: Layout, flat: Tensor, activation: Between, encoding: Encoding | None = None
    ) -> None:
        self.layout = layout
        self.flat = flat
        self.gradient = torch.zeros_like(flat)
        self.leaves = [view.detach().requires_grad_() for view in layout.views(flat)]
        self.activation = activation
        self._encoding = encoding

    def __call__(self, obs_nd: Tensor) -> Tensor:
        """Outputs [n, outputs] of observations [n, D]."""
        return self.outputs(self.leaves, obs_nd)

    def outputs(self, weights: Sequence[Tensor], obs_nd: Tensor) -> Tensor:
        """Outputs [n, outputs] of observations [n, D] with other weights of the same layout."""
        if self._encoding is not None:
            obs_nd = self._encoding(weights, obs_nd)
        return perceptron(self.layers(weights), obs_nd, self.activation)

    def layers(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of the perceptron among ``weights``, and maybe log_std."""
        return weights if self._encoding is None else weights[self._encoding.n_weights :]

    @property
    def log_std(self) -> Tensor | None:
        """The Gaussian's, [A]; None for a categorical policy and for a value network."""
        return log_std_of(self.layers(self.leaves))

    def head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the last layer, as plain tensors that share its memory."""
        weights = self.leaves[:-1] if self.log_std is not None else self.leaves
        return weights[-2].detach(), weights[-1].detach()


def network_layout(spec: PolicySpec, network: str) -> Layout:
    """Return the layout of "policy" (with ``log_std`` last, if there is one) or "value"."""
    shapes = {name: shape for name, shape in spec.shapes().items() if name.startswith(f"{network}.")}
    if network == "policy" and "log_std" in spec.shapes():
        shapes["log_std"] = spec.shapes()["log_std"]
    return Layout(shapes)


def encoding_of(spec: PolicySpec, network: str) -> Encoding | None:
    """Return what stands before the first layer; None for a plain box."""
    return None if spec.observation is None else Encoding(spec, network)


def activation_of(spec: PolicySpec) -> Between:
    """Return the activation, after a layer normalization where there is one."""
    activate = torch.tanh if spec.activation == "tanh" else torch.relu
    if not spec.layer_norm:
        return activate
    return lambda rows: activate(functional.layer_norm(rows, rows.shape[-1:], eps=LAYER_NORM_EPSILON))


def log_std_of(weights: Sequence[Tensor]) -> Tensor | None:
    """Return a Gaussian's log standard deviations: the one weight after the last layer's bias."""
    return weights[-1] if len(weights) % 2 else None


def perceptron(weights: Sequence[Tensor], obs_nd: Tensor, activation: Between) -> Tensor:
    """Return W_n · act(… act(W_0 x + b_0)) + b_n; ``weights`` are W_0, b_0, W_1, b_1, …, maybe log_std."""
    last = len(weights) // 2 - 1
    rows = obs_nd
    for i in range(last + 1):
        rows = functional.linear(rows, weights[2 * i], weights[2 * i + 1])
        if i < last:
            rows = activation(rows)
    return rows


def set_gradient(losses: Sequence[Tensor], networks: Sequence[Network], *, accumulate: bool) -> None:
    """Write the gradient of the sum of ``losses`` onto each network's buffer, or add it."""
    leaves = [leaf for network in networks for leaf in network.leaves]
    gradients: Iterator[Tensor] = iter(torch.autograd.grad(losses, leaves))
    for network in networks:
        pieces = [next(gradients).reshape(-1) for _ in network.leaves]
        if accumulate:
            network.gradient.add_(torch.cat(pieces))
        else:
            torch.cat(pieces, out=network.gradient)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a policy says about steps that were taken.

    Attributes:
        logp: [n] log-probability of each action.
        entropy: [n] or [] entropy of the policy at each step, in nats.
        parameters: [n, sum of factors] normalized log-probabilities, or [n, outputs] means (continuous).
        log_std: [A], continuous only.
    """

    logp: Tensor
    entropy: Tensor
    parameters: Tensor
    log_std: Tensor | None = None


def evaluate(
    outputs_nk: Tensor,
    log_std: Tensor | None,
    action: Tensor,
    mask: Tensor | None,
    space: ActionSpace | None = None,
) -> Evaluation:
    """Evaluate actions under the policy's outputs: Gaussian with ``log_std``, else by ``space``.

    Several choices at once are independent: log-probabilities, entropies and divergences add.
    """
    if log_std is not None:
        return _gaussian(outputs_nk, log_std, action)
    if isinstance(space, MultiDiscreteSpace | MultiBinarySpace):
        return _factored(outputs_nk, action, mask, space)
    return _categorical(outputs_nk, action, mask)


def _categorical(logits_nk: Tensor, action_n: Tensor, mask_nk: Tensor | None) -> Evaluation:
    if mask_nk is not None:
        logits_nk = logits_nk.masked_fill(~mask_nk, DISALLOWED_LOGIT)
    log_probs = torch.log_softmax(logits_nk, dim=1)
    logp = log_probs.gather(1, action_n.unsqueeze(1)).squeeze(1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    return Evaluation(logp=logp, entropy=entropy, parameters=log_probs)


def _factored(
    logits_nk: Tensor, action_nf: Tensor, mask_nk: Tensor | None, space: MultiDiscreteSpace | MultiBinarySpace
) -> Evaluation:
    """Independent choices; the log-probabilities of all stand side by side, [n, sum of factors]."""
    if mask_nk is not None:
        logits_nk = logits_nk.masked_fill(~mask_nk, DISALLOWED_LOGIT)
    if isinstance(space, MultiBinarySpace):  # of 0 and of 1
        log_probs = torch.stack(
            [functional.logsigmoid(-logits_nk), functional.logsigmoid(logits_nk)], dim=2
        ).flatten(1)
    else:
        parts = logits_nk.split(list(space.nvec), dim=1)
        log_probs = torch.cat([torch.log_softmax(part, dim=1) for part in parts], dim=1)
    first = torch.tensor([0, *itertools.accumulate(space.factors[:-1])], device=action_nf.device)
    logp = log_probs.gather(1, action_nf + first).sum(dim=1)
    return Evaluation(logp=logp, entropy=-(log_probs.exp() * log_probs).sum(dim=1), parameters=log_probs)


def _gaussian(mean_na: Tensor, log_std_a: Tensor, action_na: Tensor) -> Evaluation:
    standardized = (action_na - mean_na) * torch.exp(-log_std_a)
    constant = log_std_a.sum() + 0.5 * LOG_2_PI * len(log_std_a)
    return Evaluation(
        logp=-0.5 * standardized.square().sum(dim=1) - constant,
        entropy=log_std_a.sum() + 0.5 * (1.0 + LOG_2_PI) * len(log_std_a),
        parameters=mean_na,
        log_std=log_std_a,
    )


def divergence(of: Evaluation, to: Evaluation) -> Tensor:
    """KL(of ‖ to) at each step, [n], in nats."""
    if of.log_std is None or to.log_std is None:
        return (of.parameters.exp() * (of.parameters - to.parameters)).sum(dim=1)
    shift = (of.parameters - to.parameters) * torch.exp(-to.log_std)
    variance_ratio = torch.exp(2.0 * (of.log_std - to.log_std))
    per_action = 0.5 * (variance_ratio + shift.square() - 1.0) + (to.log_std - of.log_std)
    return per_action.sum(dim=1)
