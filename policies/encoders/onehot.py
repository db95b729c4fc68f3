"""OneHot: a feature for each value of an index, 1 for the one that it has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experience.spaces import DiscreteSpace, LeafSpace, MultiDiscreteSpace
from policies.encoders import Rows

if TYPE_CHECKING:
    from torch import Tensor


class OneHot:
    """Sum of the counts of features; without weights."""

    def serves(self, space: LeafSpace) -> bool:
        """Indices, one or several."""
        return isinstance(space, DiscreteSpace | MultiDiscreteSpace)

    def width(self, space: LeafSpace) -> int:
        """One a value of each index."""
        return sum(space.counts)

    def shapes(self, space: LeafSpace) -> dict[str, tuple[int, ...]]:  # noqa: ARG002 - see ``Encoder``
        """None."""
        return {}

    def forward(self, space: LeafSpace, weights: Sequence[NDArray[Any]], rows: Rows) -> Rows:  # noqa: ARG002
        """[B, sum of counts] of indices [B, width]."""
        parts = [rows[:, i, None] == np.arange(count) for i, count in enumerate(space.counts)]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def torch_forward(self, space: LeafSpace, weights: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":  # noqa: ARG002
        """The same in torch."""
        import torch  # noqa: PLC0415 - clients have none

        values = [torch.arange(count, device=rows.device, dtype=rows.dtype) for count in space.counts]
        return torch.cat([rows[:, i, None] == value for i, value in enumerate(values)], dim=1).to(rows.dtype)
