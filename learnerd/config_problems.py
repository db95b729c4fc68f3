"""What is wrong with a configuration, said for the person who wrote it."""

import difflib
import json
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from learnerd.errors import ConfigProblem

MAX_VALUE_CHARACTERS = 120
UNITS = {
    "_s": "seconds",
    "_minutes": "minutes",
    "_days": "days",
    "_bytes": "bytes",
    "_episodes": "episodes",
    "_steps": "steps",
}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
KINDS: dict[Any, str] = {int: "an integer", float: "a number", str: "text", bool: "true or false"}


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant by ``name``."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return found[0] if found else None


def accepted(key: str, field: FieldInfo) -> str:
    """What ``key`` may be: type, unit and bounds, or the field's own description."""
    if field.description:
        return field.description
    options = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return " or ".join(_show(option) for option in options)
    kind = KINDS.get(field.annotation, "a value")
    unit = next((f" of {unit}" for suffix, unit in UNITS.items() if key.endswith(suffix)), "")
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(limit, name)
    ]
    return f"{kind}{unit}" + (f" {' and '.join(bounds)}" if bounds else "")


def explain(
    error: ValidationError,
    config: type[BaseModel],
    *,
    file: str,
    found: Mapping[str, Any],
    origins: Mapping[tuple[str, str], str],
) -> list[ConfigProblem]:
    """One problem a wrong key, in the order of the tables.

    Args:
        error: what pydantic found.
        config: the model that was validated; its fields are the tables.
        file: where the configuration was read.
        found: the values that were read.
        origins: which (table, key) came from which environment variable.
    """
    problems: dict[tuple[str, str], ConfigProblem] = {}
    for detail in error.errors(include_url=False):
        problem = _explain_one(detail, config, file, found, origins)
        problems.setdefault((problem.table, problem.key), problem)
    return list(problems.values())


def _explain_one(
    detail: Any,
    config: type[BaseModel],
    file: str,
    found: Mapping[str, Any],
    origins: Mapping[tuple[str, str], str],
) -> ConfigProblem:
    if detail["type"] == "across_tables":
        place = (detail["ctx"]["table"], detail["ctx"]["key"])
        return ConfigProblem(source=origins.get(place, file), **detail["ctx"])
    table, *rest = (str(part) for part in detail["loc"])
    tables: dict[str, Any] = {name: field.annotation for name, field in config.model_fields.items()}
    if not rest:
        return _explain_table(table, detail, tables, file)
    key, source = rest[0], origins.get((table, rest[0]), file)
    fields = tables[table].model_fields
    if key not in fields:
        return _unknown_key(source, table, key, detail["input"], tables)
    value = found[table][key]
    # The part of a list or of an inline table that is wrong; a union's branches have names that say nothing.
    within = ".".join(rest[1:]) if all(part.isalnum() for part in rest[1:]) else ""
    hint = f"{within}: {detail['msg']}" if within else ""
    return ConfigProblem(
        source=source,
        table=table,
        key=key,
        value=_show(value),
        accepted=accepted(key, fields[key]),
        hint=hint or _unit_hint(key, value),
    )


def _explain_table(table: str, detail: Any, tables: Mapping[str, Any], file: str) -> ConfigProblem:
    if table in tables:
        value, wanted = _show(detail["input"]), f"a table, [{table}]"
        return ConfigProblem(source=file, table=table, value=value, accepted=wanted)
    owner = next((name for name, model in tables.items() if table in model.model_fields), None)
    meant = closest(table, tables)
    if owner is not None:
        hint = f"{table} belongs under [{owner}]"
    else:
        hint = f"did you mean [{meant}]?" if meant else ""
    names = ", ".join(f"[{name}]" for name in tables)
    return ConfigProblem(
        source=file, key=table, value="no table of the configuration", accepted=names, hint=hint
    )


def _unknown_key(source: str, table: str, key: str, value: Any, tables: Mapping[str, Any]) -> ConfigProblem:
    keys = list(tables[table].model_fields)
    owner = next((name for name, model in tables.items() if key in model.model_fields), None)
    stem = key.rpartition("_")[0]
    same_stem = [known for known in keys if stem and known.rpartition("_")[0] == stem]
    meant = closest(key, keys) or next(iter(same_stem), None)
    if meant is not None:
        hint = f"did you mean {meant}, {accepted(meant, tables[table].model_fields[meant])}?"
    else:
        hint = f"{key} belongs under [{owner}]" if owner else ""
    return ConfigProblem(
        source=source,
        table=table,
        key=key,
        value=f"{_show(value)}, but there is no such key",
        accepted=f"one of {', '.join(keys)}",
        hint=hint,
    )


def _unit_hint(key: str, value: Any) -> str:
    unit = next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")
    if unit and isinstance(value, str):
        return f"a plain number, without quotes; {key} is in {unit}"
    return ""


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"
