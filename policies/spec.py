"""PolicySpec: what a policy's shapes and spaces are, as plain data that travels in the manifest."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from experience.space_parsing import action_space_from_json, space_from_json
from experience.spaces import (
    ActionSpace,
    BoxSpace,
    ContinuousSpace,
    DiscreteSpace,
    Leaf,
    MultiBinarySpace,
    MultiDiscreteSpace,
    Space,
)
from policies.encoders import Encoder, chosen_encoders, create_encoder

__all__ = [
    "ActionSpace",
    "Activation",
    "ContinuousSpace",
    "DiscreteSpace",
    "MultiBinarySpace",
    "MultiDiscreteSpace",
    "Part",
    "PolicySpec",
    "action_space_from_json",
]

Activation = Literal["tanh", "relu"]
LAYER_NORM_EPSILON = 1e-5


class Part(NamedTuple):
    """How one leaf of an observation enters the first layer.

    Attributes:
        number: of the leaf, in the order of the flat row; names its weights.
        leaf: its space and columns.
        encoder: what turns its columns into features.
        features: how many it gives.
    """

    number: int
    leaf: Leaf
    encoder: Encoder
    features: int

    def shapes(self, network: str) -> dict[str, tuple[int, ...]]:
        """Its weights in "policy" or "value", by name."""
        shapes = self.encoder.shapes(self.leaf.space)
        return {f"{network}.encoders.{self.number}.{name}": shape for name, shape in shapes.items()}


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """An actor-critic of two separate multilayer perceptrons, each behind encoders of its own.

    Attributes:
        observation_shape: shape of one stored observation; flattened before the first layer.
        action: the action space.
        hidden: widths of the hidden layers, the same for policy and value.
        activation: between layers.
        normalize: whether real numbers are normalized with the statistics in the checkpoint.
        layer_norm: whether each hidden layer's sums are standardized over its units, before the activation.
        observation: the space that is observed; None: a box of ``observation_shape``.
        encoders: by name, one a leaf; () to choose them by the space.
    """

    observation_shape: tuple[int, ...]
    action: ActionSpace
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    normalize: bool = False
    layer_norm: bool = False
    observation: Space | None = None
    encoders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what follows; a plain box is always written as None, ()."""
        space = self.space
        if space.stored_shape != self.observation_shape:
            raise ValueError(f"observation_shape is {self.observation_shape}; accepted: {space.stored_shape}")
        encoders = self.encoders or chosen_encoders(space)
        if len(encoders) != len(space.leaves):
            raise ValueError(f"encoders are {encoders}; accepted: one a leaf of {space}")
        plain = isinstance(space, BoxSpace)
        object.__setattr__(self, "observation", None if plain else space)
        object.__setattr__(self, "encoders", () if plain else tuple(encoders))

    @classmethod
    def of(
        cls, observation: Space, action: ActionSpace, *, network: str = "auto", **others: Any
    ) -> "PolicySpec":
        """Return the spec for two spaces.

        Args:
            observation: what is observed.
            action: what is done.
            network: a choice of encoders, as ``[policy] network``.
            others: further fields.

        Raises:
            ValueError: there is no such network.
        """
        return cls(
            observation_shape=observation.stored_shape,
            action=action,
            observation=observation,
            encoders=chosen_encoders(observation, network),
            **others,
        )

    @property
    def space(self) -> Space:
        """What is observed."""
        return self.observation or BoxSpace(shape=self.observation_shape)

    @property
    def inputs(self) -> int:
        """Width of a flattened observation."""
        return math.prod(self.observation_shape)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """How the leaves enter the first layer, in the order of its columns: real numbers come first.

        Those are what the statistics of the observations are of.
        """
        parts = []
        for i, (leaf, name) in enumerate(zip(self.space.leaves, self.encoders or ("flat",), strict=True)):
            encoder = create_encoder(name)
            parts.append(Part(i, leaf, encoder, encoder.width(leaf.space)))
        return tuple(sorted(parts, key=lambda part: bool(part.leaf.space.counts)))

    @cached_property
    def statistics(self) -> int:
        """How many real numbers there are in an observation: the width of its statistics."""
        return sum(part.leaf.space.width for part in self.parts if not part.leaf.space.counts)

    @cached_property
    def features(self) -> int:
        """Width of what enters the first layer."""
        return sum(part.features for part in self.parts)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every named weight and its shape, in storage order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for network, outputs in (("policy", self.action.outputs), ("value", 1)):
            for part in self.parts:
                shapes |= part.shapes(network)
            widths = (self.features, *self.hidden, outputs)
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
                shapes[f"{network}.{i}.weight"] = (fan_out, fan_in)
                shapes[f"{network}.{i}.bias"] = (fan_out,)
        if isinstance(self.action, ContinuousSpace):
            shapes["log_std"] = (self.action.size,)
        return shapes

    def actor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of them that acting needs: the policy network and the log standard deviation."""
        return {name: shape for name, shape in self.shapes().items() if not name.startswith("value.")}

    def to_json(self) -> dict[str, Any]:
        """As in the manifest."""
        structured = {} if self.observation is None else {"observation": self.observation.to_json()}
        return {
            "observation_shape": list(self.observation_shape),
            "action": self.action.to_json(),
            "hidden": list(self.hidden),
            "activation": self.activation,
            "normalize": self.normalize,
            "layer_norm": self.layer_norm,
            **structured,
            **({"encoders": list(self.encoders)} if structured else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PolicySpec":
        """Read what ``to_json`` wrote."""
        return cls(
            observation_shape=tuple(data["observation_shape"]),
            action=action_space_from_json(data["action"]),
            hidden=tuple(data["hidden"]),
            activation=data["activation"],
            normalize=data["normalize"],
            layer_norm=data.get("layer_norm", False),  # manifests from before there was one
            observation=space_from_json(data["observation"]) if "observation" in data else None,
            encoders=tuple(data.get("encoders", ())),
        )
