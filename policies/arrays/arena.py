"""Arena: memory of a training that has ended, kept for the next one of networks with the same layouts.

A small update takes less than two milliseconds, and took a quarter more with memory of its own: each fresh
4 kB are a page fault and lie in no cache, and the views that numpy and torch want cost more than the numbers.
"""

from collections.abc import Sequence

import torch

from policies.arrays.perceptrons import Block, Gradient, Perceptrons
from policies.networks import Layout
from policies.spec import Activation

ROOMS = 4
"""So many are kept: policy and value, the proximal policy, and those of another policy."""


class Room:
    """Where networks of these layouts are trained; what is in it belongs to whoever entered last.

    Args:
        layouts: of each network's flat vector.
        activation: of the perceptrons.

    Attributes:
        block: where the weights lie.
        weights, gradient, m, v: [S, P], with Adam's moments.
        rows: their rows: (weight, gradient, m, v) of each network, [P] each.
        gradients: the matrices of ``gradient``.
        perceptrons: passes with ``weights``.
    """

    def __init__(self, layouts: Sequence[Layout], activation: Activation) -> None:
        self.key = _key(layouts, activation)
        self.block = Block(layouts)
        self.weights, self.gradient, self.m, self.v = torch.zeros(4, *self.block.shape).unbind()
        self.rows = list(zip(self.weights, self.gradient, self.m, self.v, strict=True))
        self.gradients = Gradient(self.block, self.gradient)
        self.perceptrons = Perceptrons(self.block, self.weights, activation)


_Key = tuple[object, ...]
_empty: dict[_Key, Room] = {}


def enter(layouts: Sequence[Layout], activation: Activation) -> Room:
    """Return a room that nobody is in: the last one with these layouts that was left, or a new one."""
    return _empty.pop(_key(layouts, activation), None) or Room(layouts, activation)


def leave(room: Room) -> None:
    """Let others have the room. One in which something went wrong is better thrown away."""
    _empty[room.key] = room
    for key in list(_empty)[:-ROOMS]:
        _empty.pop(key, None)


def _key(layouts: Sequence[Layout], activation: Activation) -> _Key:
    return activation, *(tuple(layout.shapes.items()) for layout in layouts)
