"""Views: the documents that the dashboard shows, each read at most once in a while, however many look."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from learnerd import status_file
from learnerd.config import Config
from learnerd.dashboard.metrics import prometheus
from learnerd.history import AHEAD_S, DAY_S, HOUR_S, read_or_explain
from learnerd.version_rows import newest_rows

RANGES_S = {"1h": HOUR_S, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "all": None}
POINTS = 400
FRESH_S = {"1h": 1.0, "24h": 5.0}
SLOW_S = 20.0

JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"


class Views:
    """Reads files of the daemon; safe to call from many threads.

    Args:
        config: where they are.
        clock: UTC seconds.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._cache: dict[str, tuple[float, bytes]] = {}
        self._locks: dict[str, threading.Lock] = {}

    def find(self, path: str, query: dict[str, list[str]]) -> tuple[str, bytes] | None:
        """Type and body of the document at ``path``; None when there is none."""
        if path == "/status.json":
            return JSON, self._cached("status", 1.0, lambda: _json(self._status()))
        if path == "/metrics":
            return TEXT, self._cached("metrics", 1.0, lambda: prometheus(self._status(), self._clock()))
        if path == "/versions.json":
            return JSON, self._cached("versions", 2.0, lambda: _json(newest_rows(self._config.paths.state)))
        if path == "/history.json":
            span = query.get("range", ["24h"])[-1]
            if span in RANGES_S:
                fresh_s = FRESH_S.get(span, SLOW_S)
                return JSON, self._cached(f"history {span}", fresh_s, lambda: _json(self._history(span)))
        return None

    def _status(self) -> dict[str, Any]:
        """The document of ``status --json``, and ``process``: when the daemon wrote last."""
        return status_file.live_document(self._config, now=None)

    def _history(self, span: str) -> dict[str, Any]:
        now, length_s = self._clock(), RANGES_S[span]
        since = 0.0 if length_s is None else now - length_s
        columns, problem = read_or_explain(
            self._config.paths.state, since=since, until=now + AHEAD_S, points=POINTS
        )
        rounded = {name: _rounded(name, values) for name, values in columns.items()}
        return {"range": span, "since": since, "until": now, "problem": problem, "columns": rounded}

    def _cached(self, name: str, fresh_s: float, build: Callable[[], bytes]) -> bytes:
        with self._locks.setdefault(name, threading.Lock()):
            found = self._cache.get(name)
            if found is None or time.monotonic() - found[0] > fresh_s:
                found = (time.monotonic(), build())
                self._cache[name] = found
            return found[1]


def _rounded(name: str, values: list[Any]) -> list[Any]:
    """Six digits are more than a curve shows."""
    if name == "at":
        return [round(value, 2) for value in values]
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), default=str).encode()
