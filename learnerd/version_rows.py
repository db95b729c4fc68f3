"""The newest versions as rows for people: the list's fields, and in one word what became of each."""

from pathlib import Path
from typing import Any

from learnerd.versions import summaries

NEWEST = 50


def newest_rows(state: Path, most: int = NEWEST) -> list[dict[str, Any]]:
    """Rows of the newest versions, newest first; ``standing`` says what became of each.

    "current", "damaged", "rejected" (a rollback went behind it), "pinned" (retention never takes it), or "".
    """
    return [{**row, "standing": _standing(row)} for row in reversed(summaries(state, newest=most))]


def _standing(row: dict[str, Any]) -> str:
    if row["damage"]:
        return "damaged"
    if row["current"]:
        return "current"
    return "rejected" if row["rejected_by"] else "pinned" if row["pinned"] else ""
