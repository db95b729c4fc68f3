"""Encoders: what turns each leaf of an observation into features for the first layer; one module each.

An encoder is named in the manifest, so that a policy keeps its own whatever is chosen for new ones later.
Each has a forward pass in numpy, for clients, and one in torch, for the learner; importing loads no torch.
"""

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from experience.spaces import ImageSpace, LeafSpace, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Rows = NDArray[np.float32]
PIXEL_MAX = np.float32(255)


class Encoder(Protocol):
    """Features of one leaf.

    Every method's ``space`` is that leaf's. ``weights`` are in the order of ``shapes``.
    """

    def serves(self, space: LeafSpace) -> bool:
        """Whether it can encode such a leaf."""

    def width(self, space: LeafSpace) -> int:
        """Number of features."""

    def shapes(self, space: LeafSpace) -> dict[str, tuple[int, ...]]:
        """Its weights by name: ``….weight`` starts orthogonal, ``….table`` normal, ``….bias`` at zero."""

    def forward(self, space: LeafSpace, weights: "Sequence[NDArray[Any]]", rows: Rows) -> Rows:
        """Features [B, width] of ``rows`` [B, space.width], pixels already from 0 to 1."""

    def torch_forward(self, space: LeafSpace, weights: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":
        """The same in torch, differentiable in the weights."""


def scaled(space: LeafSpace, rows: NDArray[Any]) -> Rows:
    """Return a leaf's columns as encoders take them: float32; bytes of a picture become 0 … 1, here alone."""
    columns: Rows = rows.astype(np.float32, copy=False)
    return columns / PIXEL_MAX if isinstance(space, ImageSpace) else columns


def torch_scaled(space: LeafSpace, rows: "Tensor") -> "Tensor":
    """The same in torch."""
    columns = rows.float()
    return columns / float(PIXEL_MAX) if isinstance(space, ImageSpace) else columns


ENCODERS = {
    "flat": "policies.encoders.flat:Flat",
    "onehot": "policies.encoders.onehot:OneHot",
    "embedding": "policies.encoders.embedding:Embedding",
    "conv": "policies.encoders.conv:Conv",
}
"""Name -> "module:class"."""

NETWORKS = {
    "auto": ("conv", "onehot", "embedding", "flat"),
    "mlp": ("onehot", "flat"),
    "conv": ("conv", "onehot", "embedding", "flat"),
    "embedding": ("embedding", "conv", "flat"),
}
"""``[policy] network`` -> the encoders that are tried for each leaf: the first that suits it is taken."""

ONEHOT_MOST = 32
"""Widest choice that "auto" gives a feature each: a table of what each means pays off beyond."""


@cache
def create_encoder(name: str) -> Encoder:
    """Return the encoder of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder is {name!r}; accepted: {', '.join(ENCODERS)}")
    module, _, attribute = ENCODERS[name].partition(":")
    encoder: Encoder = getattr(importlib.import_module(module), attribute)()
    return encoder


def chosen_encoders(space: Space, network: str = "auto") -> tuple[str, ...]:
    """Return the name of an encoder for each leaf of ``space``.

    Args:
        space: of the observations.
        network: a name of ``NETWORKS``.

    Raises:
        ValueError: there is no such network.
    """
    if network not in NETWORKS:
        raise ValueError(f"network is {network!r}; accepted: {', '.join(NETWORKS)}")
    return tuple(_choose(leaf.space, network) for leaf in space.leaves)


def _choose(space: LeafSpace, network: str) -> str:
    for name in NETWORKS[network]:
        too_wide = name == "onehot" and network != "mlp" and max(space.counts, default=0) > ONEHOT_MOST
        if create_encoder(name).serves(space) and not too_wide:
            return name
    raise AssertionError(f"no encoder for {space}")  # "flat" and "onehot" serve every kind between them
