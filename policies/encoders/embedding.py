"""Embedding: a learned vector for each value of an index."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experience.spaces import DiscreteSpace, LeafSpace, MultiDiscreteSpace
from policies.encoders import Rows

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 16
"""Numbers in a vector: two of 64 values differ in many of them, and 500 values still fit 8,000 weights."""


class Embedding:
    """A table [count, 16] for each index; its rows are the features, one after another."""

    def serves(self, space: LeafSpace) -> bool:
        """Indices, one or several."""
        return isinstance(space, DiscreteSpace | MultiDiscreteSpace)

    def width(self, space: LeafSpace) -> int:
        """16 an index."""
        return SIZE * len(space.counts)

    def shapes(self, space: LeafSpace) -> dict[str, tuple[int, ...]]:
        """One table an index."""
        return {f"{i}.table": (count, SIZE) for i, count in enumerate(space.counts)}

    def forward(self, space: LeafSpace, weights: Sequence[NDArray[Any]], rows: Rows) -> Rows:  # noqa: ARG002 - see ``Encoder``
        """[B, 16 · indices] of indices [B, width]."""
        index = rows.astype(np.intp)
        return np.concatenate([table[index[:, i]] for i, table in enumerate(weights)], axis=1)

    def torch_forward(self, space: LeafSpace, weights: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":  # noqa: ARG002
        """The same in torch."""
        import torch  # noqa: PLC0415 - clients have none

        index = rows.long()
        return torch.cat([table[index[:, i]] for i, table in enumerate(weights)], dim=1)
