"""Steps of optimizers on the rows of a room (torch), each at its network's own rate; clipping (numpy)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.arrays.arena import Room
from policies.optimizer import NORM_EPSILON, SGD, Adam

Float32 = NDArray[np.float32]


class BlockOptimizer:
    """Moves the rows of a block of weights as their networks' optimizers would.

    Args:
        optimizers: of each network; their counters move with every step, Adam's moments with ``finish``.
        room: where the numbers lie.
    """

    def __init__(self, optimizers: Sequence[Adam | SGD], room: Room) -> None:
        self._optimizers, self._room = optimizers, room
        self._adams = [optimizer for optimizer in optimizers if isinstance(optimizer, Adam)]
        if self._adams:
            room.block.pack([adam.m for adam in self._adams], room.m)
            room.block.pack([adam.v for adam in self._adams], room.v)

    def step(self, rates: Sequence[float]) -> None:
        """Move the weights of each network along its gradient."""
        for optimizer, (weights, gradient, m, v), rate in zip(
            self._optimizers, self._room.rows, rates, strict=True
        ):
            if isinstance(optimizer, Adam):
                optimizer.move(weights, gradient, m, v, learning_rate=rate)
            else:
                optimizer.step(weights, gradient, learning_rate=rate)

    def finish(self) -> None:
        """Write the moments back."""
        if self._adams:
            room = self._room
            room.block.unpack(room.m, [adam.m for adam in self._adams])
            room.block.unpack(room.v, [adam.v for adam in self._adams])


def norms_of(gradient: Float32) -> list[float]:
    """Euclidean norm of each network's row, [S]."""
    return [math.sqrt(float(np.dot(row, row))) for row in gradient]


def clip_to_norm(rows: Float32, norm: float, max_norm: float) -> None:
    """Cut rows whose common norm is ``norm`` to ``max_norm``, in place; as torch.nn.utils.clip_grad_norm_."""
    factor = max_norm / (norm + NORM_EPSILON)
    if factor < 1.0:
        rows *= factor
