"""JSON as files may hold it: limits come before parsing; NaN, duplicate keys, lone surrogates are refused."""

import functools
import json
import re
from typing import Any, NoReturn

import numpy as np

from experience.errors import reject

MAX_DEPTH = 16
MAX_NUMBER_CHARACTERS = 64

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NUMBER_BYTES = b"-+.0123456789eE"
_DIGITS_ALIKE = bytes(ord("0") if byte in _NUMBER_BYTES else ord(" ") for byte in range(256))
"""Translates what numbers are written with to one digit: a long run of it is found at the speed of memory."""


def parse_json(
    data: bytes,
    *,
    field: str,
    max_depth: int = MAX_DEPTH,
    max_number_characters: int = MAX_NUMBER_CHARACTERS,
) -> Any:
    """Parse one JSON value; ``field`` names it in errors.

    Raises:
        InputError: ``malformed``, ``too_large`` (depth, length of a number), ``not_finite`` (NaN and
            Infinity literals) or ``bad_value`` (duplicate keys, text that is no Unicode).
    """
    _check_depth(data, field, max_depth)
    _check_numbers(data, field, max_number_characters)
    try:
        value = _decoded(data.decode())
    except UnicodeDecodeError as error:
        raise reject("malformed", field, f"byte {error.start} is no UTF-8", "JSON in UTF-8") from error
    except json.JSONDecodeError as error:
        raise reject("malformed", field, f"{error.msg} at character {error.pos}", "valid JSON") from error
    except _RefusedError as error:
        raise reject(error.reason, field, error.value, error.accepted) from error
    if b"\\u" in data:
        canonical_json(field, value)
    return value


def canonical_json(field: str, value: Any) -> str:
    """Return JSON text with sorted keys and no spaces.

    Raises:
        InputError: ``not_finite`` for an infinite number, ``bad_value`` for text that is no Unicode.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError as error:
        raise reject("bad_value", field, "text with half of a surrogate pair", "Unicode text") from error
    except ValueError as error:
        raise reject("not_finite", field, "a number beyond float64", "finite numbers") from error
    return text


def _decoded(text: str) -> Any:
    """What ``decode`` returns, which spends a third of a short text's time on blanks before and after it."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)


class _RefusedError(ValueError):
    """Carries a verdict out of the parser's hooks."""

    def __init__(self, reason: str, value: str, accepted: str) -> None:
        super().__init__(value)
        self.reason, self.value, self.accepted = reason, value, accepted


def _refuse_constant(literal: str) -> NoReturn:
    raise _RefusedError("not_finite", literal, "finite numbers; JSON has no NaN and no Infinity")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError("bad_value", f"key {twice!r} given twice", "each key once")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)


def _check_depth(data: bytes, field: str, max_depth: int) -> None:
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    brackets = np.frombuffer(_STRING.sub(b"", data).translate(None, _NO_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    depth = int(np.cumsum(np.where(opening, 1, -1)).max(initial=0))
    if depth > max_depth:
        raise reject("too_large", field, f"nested {depth} deep", f"at most {max_depth} levels of [ and {{")


def _check_numbers(data: bytes, field: str, max_characters: int) -> None:
    if b"0" * (max_characters + 1) not in data.translate(_DIGITS_ALIKE):
        return
    match = _long_number(max_characters).search(_STRING.sub(b'""', data))
    if match is not None:
        value = f"a number of more than {max_characters} characters: {match[0][:32].decode()}..."
        raise reject("too_large", field, value, f"numbers of at most {max_characters} characters")


@functools.cache
def _long_number(max_characters: int) -> re.Pattern[bytes]:
    return re.compile(rb"[-+.0-9eE]{%d}" % (max_characters + 1))
