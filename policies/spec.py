"""PolicySpec: what a policy's shapes and spaces are, as plain data that travels in the manifest."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["tanh", "relu"]
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class DiscreteSpace:
    """Actions 0 … n - 1."""

    n: int

    @property
    def outputs(self) -> int:
        """Width of the policy head: one logit an action."""
        return self.n

    def to_json(self) -> dict[str, Any]:
        """As in the manifest and the config."""
        return {"kind": "discrete", "n": self.n}


@dataclass(frozen=True, kw_only=True)
class ContinuousSpace:
    """Actions of ``size`` real numbers, from a Gaussian whose log standard deviation is one vector."""

    size: int

    @property
    def outputs(self) -> int:
        """Width of the policy head: one mean a dimension."""
        return self.size

    def to_json(self) -> dict[str, Any]:
        """As in the manifest and the config."""
        return {"kind": "continuous", "shape": [self.size]}


ActionSpace = DiscreteSpace | ContinuousSpace
ACCEPTED_ACTION_SPACES = '{"kind": "discrete", "n": 2} or {"kind": "continuous", "shape": [1]}'


def action_space_from_json(data: Mapping[str, Any]) -> ActionSpace:
    """Read ``{"kind": "discrete", "n": 2}`` or ``{"kind": "continuous", "shape": [1]}``.

    Raises:
        ValueError: naming what was found and what would be accepted.
    """
    match dict(data):
        case {"kind": "discrete", "n": int(n), **rest} if not rest and n >= 1 and n is not True:
            return DiscreteSpace(n=n)
        case {"kind": "continuous", "shape": [int(size)], **rest} if (
            not rest and size >= 1 and size is not True
        ):
            return ContinuousSpace(size=size)
    raise ValueError(f"action space is {dict(data)!r}; accepted: {ACCEPTED_ACTION_SPACES}")


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """An actor-critic of two separate multilayer perceptrons.

    Attributes:
        observation_shape: shape of one observation; flattened before the first layer.
        action: the action space.
        hidden: widths of the hidden layers, the same for policy and value.
        activation: between layers.
        normalize: whether observations are normalized with the statistics in the checkpoint.
        layer_norm: whether each hidden layer's sums are standardized over its units, before the activation.
    """

    observation_shape: tuple[int, ...]
    action: ActionSpace
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    normalize: bool = False
    layer_norm: bool = False

    @property
    def inputs(self) -> int:
        """Width of a flattened observation."""
        return math.prod(self.observation_shape)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every named weight and its shape, in storage order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for network, outputs in (("policy", self.action.outputs), ("value", 1)):
            widths = (self.inputs, *self.hidden, outputs)
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
        return {
            "observation_shape": list(self.observation_shape),
            "action": self.action.to_json(),
            "hidden": list(self.hidden),
            "activation": self.activation,
            "normalize": self.normalize,
            "layer_norm": self.layer_norm,
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
        )
