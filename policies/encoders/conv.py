"""Conv: a small convolutional network for images, 3x3 throughout, from 5x5 pixels to a game's screen.

Each layer is y = relu(W * x + b), without padding. While the shorter side is 12 pixels or more a layer takes
every second position; one or two layers at full resolution follow. 84x84 becomes 41, 20, 9, 7; 10x10, as in
MinAtar (Young & Tian 2019), becomes 8, 6; 5x5 becomes 3, 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from experience.spaces import ImageSpace, LeafSpace
from policies.encoders import Rows

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = 3
HALVED_FROM = 12
FIRST_CHANNELS, CHANNELS = 16, 32


class Layer(NamedTuple):
    """One layer: what it puts out, and the distance of its positions."""

    channels: int
    height: int
    width: int
    stride: int


class Conv:
    """Features are the last layer's outputs [channels, height, width], flattened in that order."""

    def serves(self, space: LeafSpace) -> bool:
        """Images of at least 3x3 pixels."""
        return isinstance(space, ImageSpace) and min(space.shape[:2]) >= KERNEL

    def width(self, space: LeafSpace) -> int:
        """What the last layer puts out."""
        last = layers(space)[-1]
        return last.channels * last.height * last.width

    def shapes(self, space: LeafSpace) -> dict[str, tuple[int, ...]]:
        """Weights [out, in, 3, 3] and biases [out] of each layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = [space.natural_shape[2], *(layer.channels for layer in layers(space))]
        for i, (into, out) in enumerate(pairwise(channels)):
            shapes[f"{i}.weight"] = (out, into, KERNEL, KERNEL)
            shapes[f"{i}.bias"] = (out,)
        return shapes

    def forward(self, space: LeafSpace, weights: Sequence[NDArray[Any]], rows: Rows) -> Rows:
        """[B, width] of pixels [B, H · W · C]: windows as rows of a matrix, one product a layer."""
        x = rows.reshape(len(rows), *space.natural_shape)
        for layer, weight, bias in zip(layers(space), weights[::2], weights[1::2], strict=True):
            windows = sliding_window_view(x, (KERNEL, KERNEL), axis=(1, 2))  # [B, H', W', C, 3, 3]
            windows = windows[:, :: layer.stride, :: layer.stride]
            columns = windows.reshape(-1, weight[0].size) @ weight.reshape(len(weight), -1).T
            columns += bias
            np.maximum(columns, np.float32(0), out=columns)
            x = columns.reshape(len(rows), layer.height, layer.width, layer.channels)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(rows), -1)

    def torch_forward(self, space: LeafSpace, weights: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":
        """The same in torch."""
        from torch.nn import functional  # noqa: PLC0415 - clients have none

        x = rows.view(len(rows), *space.natural_shape).permute(0, 3, 1, 2)
        for layer, weight, bias in zip(layers(space), weights[::2], weights[1::2], strict=True):
            x = functional.conv2d(x, weight, bias, stride=layer.stride).relu()
        return x.flatten(1)


def layers(space: LeafSpace) -> list[Layer]:
    """Return the layers for an image [H, W, C]."""
    height, width, _ = space.natural_shape
    found: list[Layer] = []
    full = 0
    while min(height, width) >= KERNEL and (full == 0 or len(found) < 2):  # noqa: PLR2004 - two in all, if there is room
        stride = 2 if min(height, width) >= HALVED_FROM else 1
        full += stride == 1
        height, width = ((side - KERNEL) // stride + 1 for side in (height, width))
        found.append(Layer(CHANNELS if found else FIRST_CHANNELS, height, width, stride))
    return found
