"""Spaces: what an observation or an action is, as plain data that config, files and manifests share.

Names and order are Gymnasium's. ``experience.space_parsing`` reads them, ``experience.flattening`` lays an
observation out as one row of numbers. This loads nothing but the standard library.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

MAX_COUNT = 2**63 - 1


class Leaf(NamedTuple):
    """One part of an observation that is not made of others.

    Attributes:
        path: its keys and positions, joined with dots: "arm.angles", "0.1"; "" when it is the whole.
        space: what it is.
        start, stop: its columns in a flat row.
    """

    path: str
    space: "LeafSpace"
    start: int
    stop: int


class Space:
    """What all kinds share."""

    kind: ClassVar[str]

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Every leaf in the order of the flat row: depth first, keys sorted, positions in order."""
        start, leaves = 0, []
        for path, leaf in self.walk(""):
            leaves.append(Leaf(path, leaf, start, start + leaf.width))
            start += leaf.width
        return tuple(leaves)

    @property
    def width(self) -> int:
        """Numbers in a flat row."""
        return self.leaves[-1].stop

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one stored observation: that of a single leaf; [width] of a dict or tuple."""
        return (self.width,)

    @cached_property
    def stored_dtype(self) -> str:
        """Text "uint8" when every number is whole and at most 255, else "float32"."""
        counts = [max(leaf.space.counts, default=MAX_COUNT) for leaf in self.leaves]
        return "uint8" if max(counts) <= 256 else "float32"  # noqa: PLR2004 - values of a byte

    def canonical(self) -> "Space":
        """The same with every ``start`` at 0, as stored rows have it."""
        return self

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        raise NotImplementedError

    def __str__(self) -> str:
        return json.dumps(self.to_json())

    def walk(self, path: str) -> Iterator[tuple[str, "LeafSpace"]]:
        """Yield (path, leaf) in order; ``path`` is that of this one."""
        raise NotImplementedError


class LeafSpace(Space):
    """A kind that is not made of others."""

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """Shape of one value as the client has it; () is one number."""
        raise NotImplementedError

    @property
    def counts(self) -> tuple[int, ...]:
        """How many values each number may take, from 0 on; one entry for all, () for real numbers."""
        return ()

    @property
    def first(self) -> int:
        """What the client has for a stored 0."""
        return 0

    @property
    def width(self) -> int:
        """Numbers in a flat row."""
        return math.prod(self.natural_shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Its own shape; (1,) for one number."""
        return self.natural_shape or (1,)

    def walk(self, path: str) -> Iterator[tuple[str, "LeafSpace"]]:
        """Yield itself."""
        yield path, self


@dataclass(frozen=True, kw_only=True)
class BoxSpace(LeafSpace):
    """Real numbers of any shape."""

    kind: ClassVar[str] = "box"
    shape: tuple[int, ...]

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """As given."""
        return self.shape

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "box", "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class ImageSpace(LeafSpace):
    """Bytes [H, W, C]; stored as they are, and divided by 255 once, before a network sees them."""

    kind: ClassVar[str] = "image"
    shape: tuple[int, int, int]

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """As given."""
        return self.shape

    @property
    def counts(self) -> tuple[int, ...]:
        """0 … 255."""
        return (256,)

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "image", "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class DiscreteSpace(LeafSpace):
    """One of ``start`` … ``start + n - 1``; stored from 0 on."""

    kind: ClassVar[str] = "discrete"
    n: int
    start: int = 0

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """One number."""
        return ()

    @property
    def counts(self) -> tuple[int, ...]:
        """One entry: n."""
        return (self.n,)

    @property
    def first(self) -> int:
        """What the client has for a stored 0."""
        return self.start

    @property
    def factors(self) -> tuple[int, ...]:
        """Choices of each independent part of an action."""
        return (self.n,)

    @property
    def outputs(self) -> int:
        """Width of the policy head: one logit an action."""
        return self.n

    def canonical(self) -> "DiscreteSpace":
        """The same from 0 on."""
        return DiscreteSpace(n=self.n)

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "discrete", "n": self.n} | ({"start": self.start} if self.start else {})


@dataclass(frozen=True, kw_only=True)
class MultiDiscreteSpace(LeafSpace):
    """Several choices at once: number i is one of 0 … ``nvec[i] - 1``."""

    kind: ClassVar[str] = "multi_discrete"
    nvec: tuple[int, ...]

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """(number of choices,)."""
        return (len(self.nvec),)

    @property
    def counts(self) -> tuple[int, ...]:
        """The choices of each."""
        return self.nvec

    @property
    def factors(self) -> tuple[int, ...]:
        """Choices of each independent part of an action."""
        return self.nvec

    @property
    def outputs(self) -> int:
        """Width of the policy head: the logits of each choice, one after the other."""
        return sum(self.nvec)

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "multi_discrete", "nvec": list(self.nvec)}


@dataclass(frozen=True, kw_only=True)
class MultiBinarySpace(LeafSpace):
    """``n`` numbers that are 0 or 1."""

    kind: ClassVar[str] = "multi_binary"
    n: int

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """(n,)."""
        return (self.n,)

    @property
    def counts(self) -> tuple[int, ...]:
        """0 and 1."""
        return (2,)

    @property
    def factors(self) -> tuple[int, ...]:
        """Choices of each independent part of an action."""
        return (2,) * self.n

    @property
    def outputs(self) -> int:
        """Width of the policy head: one logit a number, of its being 1."""
        return self.n

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "multi_binary", "n": self.n}


@dataclass(frozen=True, kw_only=True)
class ContinuousSpace(LeafSpace):
    """Actions of ``size`` real numbers, from a Gaussian whose log standard deviation is one vector."""

    kind: ClassVar[str] = "continuous"
    size: int

    @property
    def natural_shape(self) -> tuple[int, ...]:
        """(size,)."""
        return (self.size,)

    @property
    def factors(self) -> tuple[int, ...]:
        """None of the kind that has choices."""
        return ()

    @property
    def outputs(self) -> int:
        """Width of the policy head: one mean a dimension."""
        return self.size

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "continuous", "shape": [self.size]}


@dataclass(frozen=True)
class DictSpace(Space):
    """Observations with names; the order of the names is the sorted one.

    Args:
        spaces: by name; names have no dots, slashes or control characters, as they become paths.
    """

    kind: ClassVar[str] = "dict"
    items: tuple[tuple[str, Space], ...]

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        for name in spaces:
            _check_name(name)
        object.__setattr__(self, "items", tuple(sorted(spaces.items())))

    def canonical(self) -> "DictSpace":
        """The same with every ``start`` at 0."""
        return DictSpace({name: space.canonical() for name, space in self.items})

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "dict", "spaces": {name: space.to_json() for name, space in self.items}}

    def walk(self, path: str) -> Iterator[tuple[str, LeafSpace]]:
        """Yield the leaves of each name."""
        for name, space in self.items:
            yield from space.walk(f"{path}.{name}" if path else name)


@dataclass(frozen=True, kw_only=True)
class TupleSpace(Space):
    """Observations with positions."""

    kind: ClassVar[str] = "tuple"
    spaces: tuple[Space, ...]

    def canonical(self) -> "TupleSpace":
        """The same with every ``start`` at 0."""
        return TupleSpace(spaces=tuple(space.canonical() for space in self.spaces))

    def to_json(self) -> dict[str, Any]:
        """As in headers, manifests and the config."""
        return {"kind": "tuple", "spaces": [space.to_json() for space in self.spaces]}

    def walk(self, path: str) -> Iterator[tuple[str, LeafSpace]]:
        """Yield the leaves of each position."""
        for i, space in enumerate(self.spaces):
            yield from space.walk(f"{path}.{i}" if path else str(i))


ActionSpace = DiscreteSpace | ContinuousSpace | MultiDiscreteSpace | MultiBinarySpace
ACTION_KINDS = (DiscreteSpace, ContinuousSpace, MultiDiscreteSpace, MultiBinarySpace)


def _check_name(name: object) -> None:
    good = isinstance(name, str) and name and name.isprintable() and not set(name) & set("./\\")
    if not good:
        raise ValueError(f"a part is named {name!r}; accepted: printable text without '.', '/' and '\\'")
