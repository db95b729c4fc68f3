"""The newest versions as rows for people: the list's fields, and what rollbacks and pins make of each."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learnerd import versions

NEWEST = 50


def newest_rows(state: Path, most: int = NEWEST) -> list[dict[str, Any]]:
    """Rows of the newest versions, newest first; ``standing`` says what became of each.

    "current", "damaged", "rejected" (a rollback went behind it), "pinned" (retention never takes it), or "".
    """
    numbers = versions.numbers(state)[-most:]
    rejected = _ranges(_manifest(state, numbers[-1]).get("rejected")) if numbers else []
    pinned = _pinned(state)
    rows = []
    for number in reversed(numbers):
        row = versions.summary(state, number)
        is_rejected = any(number in one for one in rejected)
        row["standing"] = _standing(row, is_rejected=is_rejected, is_pinned=number in pinned)
        row["rollback_to"] = _rollback_to(_manifest(state, number).get("rollback"))
        rows.append(row)
    return rows


def _standing(row: dict[str, Any], *, is_rejected: bool, is_pinned: bool) -> str:
    if row["damage"]:
        return "damaged"
    if row["current"]:
        return "current"
    return "rejected" if is_rejected else "pinned" if is_pinned else ""


def _manifest(state: Path, version: int) -> dict[str, Any]:
    try:
        found = json.loads((state / "checkpoints" / f"{version:08d}" / versions.MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ranges(found: Any) -> list[range]:
    pairs = found if isinstance(found, list) else []
    return [
        range(pair[0], pair[1] + 1)
        for pair in pairs
        if isinstance(pair, list) and [type(end) for end in pair] == [int, int]
    ]


def _rollback_to(found: Any) -> int | None:
    to = found.get("to") if isinstance(found, dict) else None
    return to if isinstance(to, int) else None


def _pinned(state: Path) -> set[int]:
    return {int(name) for name in _names(state / "pins") if re.fullmatch(versions.DIRECTORY_NAME, name)}


def _names(folder: Path) -> Iterator[str]:
    try:
        yield from (path.name for path in folder.iterdir())
    except OSError:
        return
