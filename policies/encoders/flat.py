"""Flat: the numbers as they are, for boxes, binary numbers, and pixels of images too small to convolve."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from experience.spaces import DiscreteSpace, LeafSpace, MultiDiscreteSpace
from policies.encoders import Rows

if TYPE_CHECKING:
    from torch import Tensor


class Flat:
    """One feature a number; indices, whose order means nothing, are not for it."""

    def serves(self, space: LeafSpace) -> bool:
        """Everything but indices."""
        return not isinstance(space, DiscreteSpace | MultiDiscreteSpace)

    def width(self, space: LeafSpace) -> int:
        """Number of numbers."""
        return space.width

    def shapes(self, space: LeafSpace) -> dict[str, tuple[int, ...]]:  # noqa: ARG002 - see ``Encoder``
        """None."""
        return {}

    def forward(self, space: LeafSpace, weights: Sequence[NDArray[Any]], rows: Rows) -> Rows:  # noqa: ARG002
        """``rows``."""
        return rows

    def torch_forward(self, space: LeafSpace, weights: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":  # noqa: ARG002
        """``rows``."""
        return rows
