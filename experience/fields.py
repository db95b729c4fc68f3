"""The one table of names that files may use, and the conversion of header values to Episode fields.

Every reader resolves names here, so that npz, JSONL and the other forms accept the same words.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from experience.episode import MAX_ID_CHARACTERS, SCHEMA_VERSION
from experience.errors import reject
from experience.space_parsing import (
    ACCEPTED_ACTION_SPACES,
    ACCEPTED_SPACES,
    action_space_of_rows,
    counts_from_zero,
    row_space_json,
    space_of_rows,
)
from experience.spaces import Space
from experience.strict_json import canonical_json, parse_json

STEP_FIELDS: Mapping[str, tuple[str, ...]] = {
    "obs": ("observation", "observations", "state", "states"),
    "action": ("actions",),
    "reward": ("rewards",),
    "logp": ("logps", "logprob", "logprobs", "log_prob", "log_probs", "action_logp"),
    "mask": ("masks", "action_mask", "action_masks"),
    "policy_version_step": ("policy_version_steps", "policy_versions"),
}
"""Field of every step -> its synonyms. Gymnasium and RLlib spell them in these ways."""

END_FIELDS: Mapping[str, tuple[str, ...]] = {
    "terminated": ("terminateds", "terminations"),
    "truncated": ("truncateds", "truncations"),
    "done": ("dones",),
    "final_obs": ("final_observation", "last_obs"),
}
"""Field of an episode's end -> its synonyms. ``done`` counts only where the first two are left out."""

FLAGS = ("terminated", "truncated", "done")
"""How an episode ended: the first two, or the third alone."""

HEADER_FIELDS: Mapping[str, tuple[str, ...]] = {
    "schema_version": (),
    "episode_id": ("eps_id",),
    "segment": (),
    "client_id": (),
    "agent_id": (),
    "env_id": ("env",),
    "seed": (),
    "tags": (),
    "policy_version": (),
    "policy_digest": (),
    "started_at": (),
    "ended_at": (),
    "incomplete": (),
    "info": (),
    "info_json": (),
    "action_space": (),
    "observation_space": (),
    "observation_shape": (),
}
"""Field of a header (JSONL's first line, npz's ``meta``) -> its synonyms. Others become extensions."""

CANONICAL: Mapping[str, str] = {
    name: canonical
    for table in (STEP_FIELDS, END_FIELDS, HEADER_FIELDS)
    for canonical, synonyms in table.items()
    for name in (canonical, *synonyms)
}
"""Every accepted name -> its canonical one."""

_CANONICAL_NAMES = frozenset(CANONICAL.values())

ACCEPTED_OUTCOMES = (
    "terminated (the environment ended the episode) true or false, and truncated (it was cut) true or false; "
    "dones alone counts as terminated; terminated may be left out only where truncated is true"
)
_ACCEPTED_TIME = (
    'seconds since 1970 in UTC, such as 1767225600.5, or ISO 8601 with a zone: "2026-01-01T00:00:00Z"'
)
_MAX_EPOCH_S = 1e11
"""Year 5138; a time in milliseconds is above it, and is refused rather than misread."""
_INT64_MAX = 2**63 - 1


def accepted_names(canonical: str) -> str:
    """The names that a field may have, for error messages: ``obs (or observations, …)``."""
    for table in (STEP_FIELDS, END_FIELDS, HEADER_FIELDS):
        if table.get(canonical):
            return f"{canonical} (or {', '.join(table[canonical])})"
    return canonical


def resolve_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name of a file to its canonical one (unknown names to themselves).

    Raises:
        InputError: two names mean the same field.
    """
    resolved: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name in names:
        canonical = CANONICAL.get(name) or _part(name)
        if canonical in seen:
            raise reject("bad_value", canonical, f"given as {seen[canonical]} and as {name}", "one of them")
        seen[canonical] = name
        resolved[name] = canonical
    return resolved


def _part(name: str) -> str:
    """Part of an observation, ``observations.camera``, by its canonical name; else ``name``."""
    field, dot, path = name.partition(".")
    field = CANONICAL.get(field, field)
    return f"{field}.{path}" if dot and field in ("obs", "final_obs") else name


def rename(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` under canonical names."""
    if values.keys() <= _CANONICAL_NAMES:
        return dict(values)
    return {canonical: values[name] for name, canonical in resolve_names(values).items()}


def merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Add fields that stand elsewhere in the file; null adds nothing.

    Raises:
        InputError: the same field with another value.
    """
    for name, value in values.items():
        if value is None:
            continue
        if into.get(name) is not None and into[name] != value:
            raise reject("bad_value", name, f"{into[name]!r} and {value!r}", "one value, wherever it stands")
        into[name] = value


def header_values(header: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a header under canonical names to arguments of ``Episode``; null counts as left out.

    Raises:
        InputError: naming the field, its value and what would be accepted.
    """
    values: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    for name, value in header.items():
        converter = _CONVERTERS.get(name)
        if converter is None:
            canonical_json(name, value)
            extensions[name] = value
        elif value is not None:
            values[name] = converter(name, value)
    values.pop("schema_version", None)
    if "info" in values:
        if "info_json" in values:
            raise reject("bad_value", "info", "given as info and as info_json", "one of them")
        values["info_json"] = values.pop("info")
    values["extensions"] = extensions
    return values


def convert(name: str, value: Any) -> Any:
    """Convert one header field, as ``header_values`` does.

    Raises:
        InputError: as it does.
    """
    return _CONVERTERS[name](name, value)


def outcome(flags: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return (terminated, truncated) as the client said; ``flags`` holds canonical names, null is left out.

    Raises:
        InputError: ``terminated`` is not known. It is never inferred.
    """
    given = {name: to_flag(name, flags[name]) for name in FLAGS if flags.get(name) is not None}
    if "terminated" not in given and "truncated" not in given and "done" in given:
        return given["done"], False
    truncated = given.get("truncated", False)
    if "terminated" not in given and not truncated:
        value = "left out, and truncated is false" if "truncated" in given else "left out"
        raise reject("missing_field", "terminated", value, ACCEPTED_OUTCOMES)
    return given.get("terminated", False), truncated


def to_flag(name: str, value: Any) -> bool:
    """Accept true, false, 1 and 0."""
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise reject("bad_value", name, value, "true or false")


def _to_text(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise reject("bad_value", name, value, f"printable text of at most {MAX_ID_CHARACTERS} characters")


def _to_integer(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -_INT64_MAX <= value <= _INT64_MAX:
        return value
    raise reject("bad_value", name, value, "an integer of at most 64 bits")


def _to_count(name: str, value: Any) -> int:
    count = _to_integer(name, value)
    if count < 0:
        raise reject("bad_value", name, value, "an integer >= 0")
    return count


def _to_tags(name: str, value: Any) -> tuple[str, ...]:
    tags = [value] if isinstance(value, str) else value
    if not isinstance(tags, list):
        raise reject("bad_value", name, value, 'a list of texts, such as ["warm-up"]')
    return tuple(_to_text(f"{name}[{i}]", tag) for i, tag in enumerate(tags))


def _to_time_s(name: str, value: Any) -> float:
    seconds = math.nan
    if isinstance(value, str):
        seconds = _parse_time_s(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if not 0 <= seconds < _MAX_EPOCH_S:
        raise reject("bad_value", name, value, _ACCEPTED_TIME)
    return seconds


def _parse_time_s(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return math.nan if moment.tzinfo is None else moment.timestamp()


def _to_info(name: str, value: Any) -> str:
    return canonical_json(name, value)


def _to_info_json(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise reject("bad_value", name, value, "JSON as text; an object goes under info")
    return canonical_json(name, parse_json(value.encode(errors="surrogatepass"), field=name))


def _to_action_space(name: str, value: Any) -> dict[str, Any]:
    match value:
        case {"kind": "discrete", "n": int(n), **rest} if not rest and n is not True and 1 <= n <= _INT64_MAX:
            return {"kind": "discrete", "n": n}  # by far the most frequent
    try:
        return _as_declared(action_space_of_rows(value), value)
    except (ValueError, TypeError) as error:
        raise reject("bad_value", name, value, ACCEPTED_ACTION_SPACES) from error


def _as_declared(space: Space, value: Any) -> dict[str, Any]:
    return row_space_json(space) if counts_from_zero(value) else space.to_json()


def _to_observation_space(name: str, value: Any) -> dict[str, Any]:
    try:
        return _as_declared(space_of_rows(value), value)
    except ValueError as error:
        raise reject("bad_value", name, value, ACCEPTED_SPACES) from error


def _to_shape(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(size) is int and 1 <= size <= _INT64_MAX for size in value):
        return tuple(value)
    raise reject("bad_value", name, value, "a list of integers >= 1, such as [4]")


def _to_schema_version(name: str, value: Any) -> int:
    if value == SCHEMA_VERSION and not isinstance(value, bool):
        return SCHEMA_VERSION
    raise reject("bad_value", name, value, str(SCHEMA_VERSION))


_CONVERTERS: Mapping[str, Callable[[str, Any], Any]] = {
    "schema_version": _to_schema_version,
    "episode_id": _to_text,
    "segment": _to_count,
    "client_id": _to_text,
    "agent_id": _to_text,
    "env_id": _to_text,
    "seed": _to_integer,
    "tags": _to_tags,
    "policy_version": _to_count,
    "policy_digest": _to_text,
    "started_at": _to_time_s,
    "ended_at": _to_time_s,
    "incomplete": to_flag,
    "info": _to_info,
    "info_json": _to_info_json,
    "action_space": _to_action_space,
    "observation_space": _to_observation_space,
    "observation_shape": _to_shape,
}
