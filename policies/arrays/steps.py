"""Steps of optimizers on a block [S, P] (numpy): those of ``policies.optimizer``, for S networks at once."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.arrays.perceptrons import Block
from policies.optimizer import NORM_EPSILON, SGD, Adam

Float32 = NDArray[np.float32]


class BlockOptimizer(Protocol):
    """Moves a block of weights along a block of gradients."""

    def step(self, weights: Float32, gradient: Float32, rates: Sequence[float]) -> None:
        """Change ``weights`` in place, a row at its network's own learning rate; ``gradient`` is used up."""

    def finish(self) -> None:
        """Write the optimizers' own states back."""


class BlockAdam:
    """Adam on a block; the number of steps may differ from network to network, the constants do not.

    Args:
        optimizers: of each network; their states move with ``finish``, their counters with every step.
        block: where the numbers lie.
    """

    def __init__(self, optimizers: Sequence[Adam], block: Block) -> None:
        self._optimizers, self._block = optimizers, block
        self._m = block.pack([adam.m for adam in optimizers])
        self._v = block.pack([adam.v for adam in optimizers])
        self._scratch = np.empty(block.shape, np.float32)

    def step(self, weights: Float32, gradient: Float32, rates: Sequence[float]) -> None:
        """See ``policies.optimizer.Adam``."""
        corrections = [adam.advance() for adam in self._optimizers]
        first, (m, v, scratch) = self._optimizers[0], (self._m, self._v, self._scratch)
        np.subtract(gradient, m, out=scratch)
        scratch *= 1.0 - first.beta1
        m += scratch
        np.multiply(gradient, gradient, out=gradient)
        gradient *= 1.0 - first.beta2
        v *= first.beta2
        v += gradient
        np.sqrt(v, out=scratch)
        for i, (_, root) in enumerate(corrections):
            scratch[i] += first.epsilon * root
        np.divide(m, scratch, out=scratch)
        for i, (rate, (mean, root)) in enumerate(zip(rates, corrections, strict=True)):
            scratch[i] *= rate * root / mean
        weights -= scratch

    def finish(self) -> None:
        """Write the moments back."""
        self._block.unpack(self._m, [adam.m for adam in self._optimizers])
        self._block.unpack(self._v, [adam.v for adam in self._optimizers])


class BlockSGD:
    """Plain gradient descent on a block."""

    def step(self, weights: Float32, gradient: Float32, rates: Sequence[float]) -> None:
        """Weights - rate · gradient."""
        for i, rate in enumerate(rates):
            gradient[i] *= rate
        weights -= gradient

    def finish(self) -> None:
        """Nothing is kept."""


def block_optimizer(optimizers: Sequence[Adam | SGD], block: Block) -> BlockOptimizer:
    """Return what steps as ``optimizers`` would, all of the same kind."""
    adams = [optimizer for optimizer in optimizers if isinstance(optimizer, Adam)]
    return BlockAdam(adams, block) if adams else BlockSGD()


def norms_of(gradient: Float32) -> list[float]:
    """Euclidean norm of each network's row, [S]."""
    return [math.sqrt(float(np.dot(row, row))) for row in gradient]


def clip_to_norm(rows: Float32, norm: float, max_norm: float) -> None:
    """Cut rows whose common norm is ``norm`` to ``max_norm``, in place; as torch.nn.utils.clip_grad_norm_."""
    factor = max_norm / (norm + NORM_EPSILON)
    if factor < 1.0:
        rows *= factor
