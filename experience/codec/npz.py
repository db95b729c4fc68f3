"""npz: one episode a file, as ``numpy.savez`` writes it, with ``meta`` as JSON text."""

from typing import Any

import numpy as np

from experience.codec.arrays import Array, last_flag
from experience.codec.assemble import REQUIRED, assemble
from experience.codec.contract import Decoded, Source
from experience.codec.header_plan import HeaderPlans
from experience.codec.npy import read_array
from experience.codec.npz_plan import Plans
from experience.codec.parts import PREFIXES
from experience.codec.pending import Pending
from experience.codec.zip_members import read_members
from experience.episode import Episode
from experience.errors import reject
from experience.fields import FLAGS, HEADER_FIELDS, STEP_FIELDS, merge, outcome, rename
from experience.in_step import Steps, finish
from experience.strict_json import parse_json

META = "meta"
_REQUIRED = frozenset(REQUIRED)
_PLANS = Plans()
_HEADERS = HeaderPlans()


def read(data: bytes, source: Source) -> Decoded:
    """Read one episode.

    Raises:
        InputError: naming the field, its value and what would be accepted.
    """
    return finish(reading(data, source))


def reading(data: bytes, source: Source) -> Steps[Decoded]:
    """Do the same in steps: arrays, ``meta``, and the episode that they make."""
    arrays = _arrays(data, source)
    yield None
    meta = arrays.pop(META, None)
    text = None if meta is None else _text(META, meta)
    planned = _HEADERS.read(text, source.limits) if text and _only_steps(arrays) else None
    if planned is not None:
        made = yield Pending(arrays, planned, source=source, data=data)
        return Decoded(episodes=(made,))
    episode = yield from _unplanned(arrays, text, source, data)
    return Decoded(episodes=(episode,))


def _only_steps(arrays: dict[str, Array]) -> bool:
    """Whether everything else about the episode stands in ``meta``."""
    return arrays.keys() <= STEP_FIELDS.keys() and arrays.keys() >= _REQUIRED


def _unplanned(arrays: dict[str, Array], text: str | None, source: Source, data: bytes) -> Steps[Episode]:
    given = {} if text is None else _parsed_meta(text, source)
    plain = bool(text) and _only_steps(arrays)
    header = rename(given)
    yield None
    arrays = rename(arrays)
    flags = {name: last_flag(name, arrays.pop(name)) for name in FLAGS if name in arrays}
    merge(flags, {name: header.pop(name) for name in FLAGS if name in header})
    stepped = [name for name in arrays if name in STEP_FIELDS or name.startswith(PREFIXES)]
    columns = {name: arrays.pop(name) for name in stepped}
    final_obs = arrays.pop("final_obs", None)
    merge(header, {name: _json_value(name, array) for name, array in arrays.items()})
    incomplete = header.get("incomplete") in (True, 1)
    terminated, truncated = (False, False) if incomplete and not flags else outcome(flags)
    yield None
    episode = assemble(
        columns,
        header=header,
        terminated=terminated,
        truncated=truncated,
        final_obs=final_obs,
        source=source,
        data=data,
    )
    if text and plain:
        ends = {"terminated": terminated, "truncated": truncated}
        _HEADERS.learn(text, given, ends, source.limits)
    return episode


def _arrays(data: bytes, source: Source) -> dict[str, Array]:
    arrays = _PLANS.read(data, source.limits)
    if arrays is None:
        arrays = _parsed(data, source)
        _PLANS.learn(data)
    return arrays


def _parsed(data: bytes, source: Source) -> dict[str, Array]:
    arrays = {}
    for member, content in read_members(data, source.limits).items():
        if not member.endswith(".npy"):
            raise reject("malformed", "member name", member, "names that end with .npy")
        name = member.removesuffix(".npy")
        arrays[name] = read_array(content, name)
    return arrays


def _parsed_meta(text: str, source: Source) -> dict[str, Any]:
    limits = source.limits
    value = parse_json(
        text.encode(errors="surrogatepass"),
        field=META,
        max_depth=limits.max_json_depth,
        max_number_characters=limits.max_number_characters,
    )
    if not isinstance(value, dict):
        raise reject("bad_value", META, value, "a JSON object")
    return value


def _text(field: str, array: Array) -> str:
    """Text of a str array, a bytes array, or an array of UTF-8 bytes."""
    accepted = "JSON text: a str array, or UTF-8 as bytes or uint8"
    try:
        if array.dtype.kind == "U" and array.size == 1:
            # NumPy makes Python text of any four bytes; the codec refuses what is no Unicode.
            raw = array if array.dtype.str[0] == "<" else array.astype(array.dtype.newbyteorder("<"))
            return raw.tobytes().decode("utf-32-le").rstrip("\0")
        if array.dtype.kind == "S" and array.size == 1:
            return bytes(array.reshape(-1)[0]).decode()
        if array.dtype == np.uint8:
            return array.tobytes().decode()
    except UnicodeDecodeError as error:
        raise reject("malformed", field, f"no Unicode text: {error}", accepted) from error
    raise reject("bad_dtype", field, f"dtype {array.dtype}, shape {list(array.shape)}", accepted)


def _json_value(name: str, array: Array) -> Any:
    """Header fields as arrays of their own, and arrays with other names, as JSON values."""
    if array.dtype.kind in "US" and array.size == 1:
        return _text(name, array)
    if array.dtype.kind not in "biuf" or (array.size == 0 and name not in HEADER_FIELDS):
        found = f"dtype {array.dtype}, shape {list(array.shape)}"
        raise reject("bad_dtype", name, found, "numbers that are there")
    if not np.isfinite(array).all():
        raise reject("not_finite", name, str(array[~np.isfinite(array)][0]), "finite numbers")
    return array.tolist()
