"""Spaces in the config: what ``[policy] observation`` and ``action`` may be.

They are those of ``experience.spaces``, written out again, as reading a config loads no numpy.
"""

from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

ACCEPTED_ACTION = (
    '{ kind = "discrete", n = 2 } or { kind = "continuous", shape = [1] } or '
    '{ kind = "multi_discrete", nvec = [3, 2] } or { kind = "multi_binary", n = 4 }'
)
ACCEPTED_OBSERVATION = (
    '{ kind = "box", shape = [4] }, { kind = "image", shape = [84, 84, 3] }, { kind = "discrete", n = 5 }, '
    '{ kind = "multi_discrete", nvec = [3, 2] }, { kind = "multi_binary", n = 4 }, '
    '{ kind = "dict", spaces = { name = … } } or { kind = "tuple", spaces = […] }'
)


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Count = Annotated[int, Field(ge=1)]
Values = Annotated[int, Field(ge=1, le=2**24)]
Counts = Annotated[tuple[Values, ...], BeforeValidator(_to_tuple), Field(min_length=1)]
Shape = Annotated[tuple[Count, ...], BeforeValidator(_to_tuple)]
PartName = Annotated[str, Field(pattern=r"^[^./\\]+$")]


class _Space(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Discrete(_Space):
    """One of start … start + n - 1."""

    kind: Literal["discrete"]
    n: Count
    start: int = 0

    @model_serializer(mode="wrap")
    def _as_published(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a start of 0: so it stands in manifests, with which it is compared."""
        found: dict[str, Any] = plain(self)
        return {name: value for name, value in found.items() if name != "start" or value}


class Continuous(_Space):
    """Actions of ``shape[0]`` real numbers."""

    kind: Literal["continuous"]
    shape: Annotated[tuple[Count], BeforeValidator(_to_tuple)]


class MultiDiscrete(_Space):
    """Several choices at once."""

    kind: Literal["multi_discrete"]
    nvec: Counts


class MultiBinary(_Space):
    """Numbers that are 0 or 1."""

    kind: Literal["multi_binary"]
    n: Values


class Box(_Space):
    """Real numbers."""

    kind: Literal["box"]
    shape: Shape


class Image(_Space):
    """Bytes [H, W, C]."""

    kind: Literal["image"]
    shape: Annotated[tuple[Count, Count, Count], BeforeValidator(_to_tuple)]


class Dict(_Space):
    """Parts with names."""

    kind: Literal["dict"]
    spaces: Annotated[dict[PartName, "Observation"], Field(min_length=1)]


class Tuple(_Space):
    """Parts with positions."""

    kind: Literal["tuple"]
    spaces: Annotated[tuple["Observation", ...], BeforeValidator(_to_tuple), Field(min_length=1)]


Observation = Annotated[
    Union[Box, Image, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple],  # noqa: UP007 - refers to itself
    Field(discriminator="kind"),
]
Action = Discrete | Continuous | MultiDiscrete | MultiBinary

LEAVES_OF = {"conv": {"image"}, "embedding": {"discrete", "multi_discrete"}}
"""``[policy] network`` -> the kinds that it is for."""


def kinds_of(observation: Observation) -> set[str]:
    """Every kind in a space."""
    parts: list[Observation] = []
    if isinstance(observation, Dict):
        parts = list(observation.spaces.values())
    elif isinstance(observation, Tuple):
        parts = list(observation.spaces)
    return {observation.kind}.union(*map(kinds_of, parts))


Dict.model_rebuild()
Tuple.model_rebuild()
