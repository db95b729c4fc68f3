"""Space parsing: JSON, or objects of Gymnasium's, as spaces. Loads nothing but the standard library."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from experience.spaces import (
    ACTION_KINDS,
    MAX_COUNT,
    ActionSpace,
    BoxSpace,
    ContinuousSpace,
    DictSpace,
    DiscreteSpace,
    ImageSpace,
    LeafSpace,
    MultiBinarySpace,
    MultiDiscreteSpace,
    Space,
    TupleSpace,
)

MAX_DEPTH = 8
FROM_ZERO = "from_zero"
"""Beside a space with a ``start`` in a file: true where its numbers count from 0, and not from there."""

MAX_LEAVES = 256
MAX_EXACT = 2**24
"""Most values of one number in an observation: float32, as rows are stored, counts no further."""

ACCEPTED_ACTION_SPACES = (
    '{"kind": "discrete", "n": 2}, {"kind": "continuous", "shape": [1]}, '
    '{"kind": "multi_discrete", "nvec": [3, 2]} or {"kind": "multi_binary", "n": 4}'
)
ACCEPTED_SPACES = (
    '{"kind": "box", "shape": [4]}, {"kind": "image", "shape": [84, 84, 3]}, {"kind": "discrete", "n": 5}, '
    '{"kind": "multi_discrete", "nvec": [3, 2]}, {"kind": "multi_binary", "n": 4}, '
    '{"kind": "dict", "spaces": {"name": …}} or {"kind": "tuple", "spaces": […]}'
)


def action_space_from_json(data: Mapping[str, Any]) -> ActionSpace:
    """Read what ``to_json`` of an action space wrote.

    Raises:
        ValueError: naming what was found and what would be accepted.
    """
    space = _leaf(data)
    if not isinstance(space, ACTION_KINDS):
        raise ValueError(f"action space is {data!r}; accepted: {ACCEPTED_ACTION_SPACES}")  # noqa: TRY004 - bad content
    return space


def space_from_json(data: Any) -> Space:
    """Read what ``to_json`` of an observation's space wrote.

    Raises:
        ValueError: naming what was found and what would be accepted.
    """
    space = _parse(data, depth=1)
    if not 1 <= len(space.leaves) <= MAX_LEAVES:
        raise ValueError(f"a space of {len(space.leaves)} parts; accepted: 1 to {MAX_LEAVES}")
    return space


def row_space_json(space: Space) -> dict[str, Any]:
    """The JSON of a space beside rows that count from 0, whatever the client's own numbers begin with."""
    return space.to_json() | ({FROM_ZERO: True} if space != space.canonical() else {})


def space_of_rows(data: Any) -> Space:
    """Read ``row_space_json``, or a space beside a client's own numbers; raises as ``space_from_json``."""
    return space_from_json(_without_mark(data))


def action_space_of_rows(data: Any) -> ActionSpace:
    """Read ``row_space_json`` of actions; raises as ``action_space_from_json``."""
    return action_space_from_json(_without_mark(data))


def counts_from_zero(data: Any) -> bool:
    """Whether the numbers beside a space count from 0 already."""
    return isinstance(data, Mapping) and data.get(FROM_ZERO) is True


def _without_mark(data: Any) -> Any:
    return {k: v for k, v in data.items() if k != FROM_ZERO} if counts_from_zero(data) else data


def _parse(data: Any, *, depth: int) -> Space:
    if depth > MAX_DEPTH:
        raise ValueError(f"a space nested deeper than {MAX_DEPTH}; accepted: at most {MAX_DEPTH}")
    match data:
        case {"kind": "dict", "spaces": Mapping() as spaces, **rest} if not rest and spaces:
            return DictSpace({name: _parse(space, depth=depth + 1) for name, space in spaces.items()})
        case {"kind": "tuple", "spaces": [*spaces], **rest} if not rest and spaces:
            return TupleSpace(spaces=tuple(_parse(space, depth=depth + 1) for space in spaces))
    space = _leaf(data)
    if space is None or isinstance(space, ContinuousSpace) or max(space.counts, default=0) > MAX_EXACT:
        raise ValueError(f"space is {data!r}; accepted: {ACCEPTED_SPACES}")
    return space


def _leaf(data: Any) -> LeafSpace | None:  # noqa: PLR0911 - one a kind
    """Read a leaf of any kind; None when it is none."""
    match data:
        case {"kind": "box", "shape": [*shape], **rest} if not rest and _counts(shape):
            return BoxSpace(shape=tuple(shape))
        case {"kind": "image", "shape": [_, _, _] as shape, **rest} if not rest and _counts(shape):
            return ImageSpace(shape=cast(tuple[int, int, int], tuple(shape)))
        case {"kind": "discrete", "n": n, **rest} if rest.keys() <= {"start"} and _counts([n]):
            start = rest.get("start", 0)
            return DiscreteSpace(n=n, start=start) if type(start) is int and abs(start) < MAX_COUNT else None
        case {"kind": "multi_discrete", "nvec": [*nvec], **rest} if not rest and nvec and _counts(nvec):
            return MultiDiscreteSpace(nvec=tuple(nvec))
        case {"kind": "multi_binary", "n": n, **rest} if not rest and _counts([n]):
            return MultiBinarySpace(n=n)
        case {"kind": "continuous", "shape": [size], **rest} if not rest and _counts([size]):
            return ContinuousSpace(size=size)
    return None


def _counts(numbers: Sequence[Any]) -> bool:
    return all(type(number) is int and 1 <= number <= MAX_COUNT for number in numbers)


def space_of(given: Any) -> Space:
    """Return the space that ``given`` describes: one of ours, its JSON, or an object of Gymnasium's.

    Gymnasium's are known by the names of their classes and attributes; a Box of uint8 with three axes is an
    image [H, W, C].

    Raises:
        ValueError: it is none, or of a kind that there is no room for (graphs, text, sequences).
    """
    if isinstance(given, Space):
        return given
    return space_from_json(_to_json(given))


def action_space_of(given: Any) -> ActionSpace:
    """Return the action space that ``given`` describes, as ``space_of``; a Box [A] is continuous.

    Raises:
        ValueError: it is none.
    """
    if isinstance(given, ACTION_KINDS):
        return given
    data = _to_json(given)
    if data.get("kind") == "box":
        data = {"kind": "continuous", "shape": data["shape"] or [1]}
    return action_space_from_json(data)


def _to_json(given: Any) -> dict[str, Any]:
    """Gymnasium's Dict is a mapping too, but has its parts under ``spaces``."""
    if isinstance(given, Mapping) and not hasattr(given, "spaces"):
        plain: dict[str, Any] = json.loads(json.dumps(dict(given), default=_plain))
        return plain
    return _json_of(given)


def _plain(value: Any) -> Any:
    """Numbers of numpy's, as Gymnasium has them."""
    if not hasattr(value, "tolist"):
        raise ValueError(f"a space holds {value!r}; accepted: {ACCEPTED_SPACES}")
    return value.tolist()


def _json_of(given: Any) -> dict[str, Any]:
    """The JSON of an object of Gymnasium's."""
    names = {kind.__name__ for kind in type(given).__mro__}
    if "Dict" in names:
        return {"kind": "dict", "spaces": {name: _json_of(space) for name, space in given.spaces.items()}}
    if "Tuple" in names:
        return {"kind": "tuple", "spaces": [_json_of(space) for space in given.spaces]}
    if "Discrete" in names:
        return {"kind": "discrete", "n": int(given.n)} | ({"start": int(given.start)} if given.start else {})
    if "MultiDiscrete" in names and len(given.shape) == 1 and not any(getattr(given, "start", ())):
        return {"kind": "multi_discrete", "nvec": [int(n) for n in given.nvec]}
    if "MultiBinary" in names and len(given.shape) == 1:
        return {"kind": "multi_binary", "n": int(given.shape[0])}
    if "Box" in names:
        image = str(given.dtype) == "uint8" and len(given.shape) == 3  # noqa: PLR2004 - [H, W, C]
        return {"kind": "image" if image else "box", "shape": [int(size) for size in given.shape]}
    raise ValueError(f"space is {given!r}; accepted: {ACCEPTED_SPACES}, or such a space of Gymnasium's")
