"""Steps of optimizers on a block [S, P] (torch), a row at its network's own rate; clipping (numpy)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from policies.arrays.perceptrons import Block
from policies.optimizer import NORM_EPSILON, SGD, Adam

Float32 = NDArray[np.float32]


class BlockOptimizer:
    """Moves the rows of a block of weights as their networks' optimizers would.

    Args:
        optimizers: of each network; their counters move with every step, Adam's moments with ``finish``.
        block: where the numbers lie.
    """

    def __init__(self, optimizers: Sequence[Adam | SGD], block: Block) -> None:
        self._optimizers, self._block = optimizers, block
        self._adams = [optimizer for optimizer in optimizers if isinstance(optimizer, Adam)]
        if self._adams:
            self._m = block.pack([adam.m for adam in self._adams])
            self._v = block.pack([adam.v for adam in self._adams])
            self._moments = list(zip(self._m.unbind(), self._v.unbind(), strict=True))

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], rates: Sequence[float]) -> None:
        """Change the rows ``weights`` in place, each [P]."""
        for i, (optimizer, row, gradient, rate) in enumerate(
            zip(self._optimizers, weights, gradients, rates, strict=True)
        ):
            if isinstance(optimizer, Adam):
                optimizer.move(row, gradient, *self._moments[i], learning_rate=rate)
            else:
                optimizer.step(row, gradient, learning_rate=rate)

    def finish(self) -> None:
        """Write the moments back."""
        if self._adams:
            self._block.unpack(self._m, [adam.m for adam in self._adams])
            self._block.unpack(self._v, [adam.v for adam in self._adams])


def norms_of(gradient: Float32) -> list[float]:
    """Euclidean norm of each network's row, [S]."""
    return [math.sqrt(float(np.dot(row, row))) for row in gradient]


def clip_to_norm(rows: Float32, norm: float, max_norm: float) -> None:
    """Cut rows whose common norm is ``norm`` to ``max_norm``, in place; as torch.nn.utils.clip_grad_norm_."""
    factor = max_norm / (norm + NORM_EPSILON)
    if factor < 1.0:
        rows *= factor
