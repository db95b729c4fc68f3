"""state/status.json: what the daemon last said of itself, and what ``learnerd status`` makes of it.

Loads neither torch, numpy nor pyarrow. The file holds the document of ``status --json`` and, under
``process``, who wrote it and when, so that a daemon that died is told from one that runs.
"""

import contextlib
import copy
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learnerd.config import Config
from learnerd.pause import boot_id, boot_s, read_pause

SCHEMA = 1
FILE_NAME = "status.json"
STALE_AFTER_S = 60.0
"""The daemon writes several times a minute; a minute of silence is a hang."""

_BLOCK_BYTES = 4096
_SPARE_BYTES = 2048
"""The file is filled up with spaces, so that a few alarms more fit into the blocks that it has."""
_READS = 3
"""A file that is being written over may be read half new, half old."""

SECTIONS: dict[str, dict[str, Any]] = {
    "daemon": {**dict.fromkeys(("state", "pid", "uptime_s", "device", "config_digest")), "holds": []},
    "policy": dict.fromkeys(("version", "parents", "published_at", "algorithm", "parameters")),
    "episodes": {
        "learned": 0,
        "refused": {},
        "quarantined": {},
        "pending": None,
        "oldest_pending_age_s": None,
    },
    "learning": dict.fromkeys(
        (
            "updates",
            "steps",
            "return_mean_100",
            "return_last",
            "loss",
            "entropy",
            "kl",
            "ess_fraction",
            "staleness_mean",
            "lr",
            "batch_episodes",
            "batch_steps",
            "unlogged_steps",
            "policy_updates",
            "noise_scale_steps",
            "value_loss",
            "grad_norm",
            "value_grad_norm",
            "ratio_max",
            "plasticity",
            "reuse",
            "logp",
        )
    ),
    "latency": dict.fromkeys(("drop_to_publish_p50_s", "drop_to_publish_p99_s", "update_s", "publish_s")),
    "disk": dict.fromkeys(("spool_bytes", "archive_bytes", "free_bytes")),
    "gate": dict.fromkeys(
        (
            *("mode", "acting", "candidate", "against", "outcome", "reason", "episodes"),
            *("value", "low", "high", "margin", "ess_fraction", "probabilities"),
        )
    ),
}
FILE_ONLY = {"learning": {"recent_returns", "return_drift"}}
"""What the daemon keeps in the file for its own next start; ``status`` does not show it."""

ALIVE = ("starting", "running", "draining")
ALARM_KEYS = {"id", "since", "message", "remedy"}


def new_document(
    *, alarms: list[dict[str, Any]] | None = None, **sections: Mapping[str, Any]
) -> dict[str, Any]:
    """A document of schema 1: ``sections`` over nulls.

    An alarm is ``{id, since, message, remedy}``; ``level: "notice"`` means that nothing is wrong.

    Raises:
        ValueError: a section or a key that schema 1 does not have.
    """
    document: dict[str, Any] = {"schema": SCHEMA, **copy.deepcopy(SECTIONS), "alarms": list(alarms or [])}
    for name, values in sections.items():
        known = SECTIONS.get(name, {}).keys() | FILE_ONLY.get(name, set())
        unknown = values.keys() - known if name in SECTIONS else {name}
        if unknown:
            raise ValueError(f"the status document has no {name}: {', '.join(sorted(unknown))}")
        document[name].update(values)
    for alarm in document["alarms"]:
        if not alarm.keys() >= ALARM_KEYS:
            raise ValueError(f"an alarm needs {sorted(ALARM_KEYS)}; got {sorted(alarm)}")
    return document


def write_status(state: Path, document: Mapping[str, Any], *, now: float | None = None) -> None:
    """Replace ``state/status.json``; ``daemon.state`` is one of ``ALIVE``, or "stopped".

    Not fsynced: after a power cut the next daemon writes it anew. On a full disk the old file is written
    over, so that ``status`` can say that the disk is full.

    Raises:
        OSError: neither was possible; the old file is as it was.
    """
    process = {
        "pid": os.getpid(),
        "written_at": time.time() if now is None else now,
        "monotonic_s": time.monotonic() if now is None else None,
        "identity": _identity(os.getpid()),
    }
    text = _without_nan(json.dumps({**document, "process": process}, allow_nan=True, default=_plain))
    data = text.encode()
    data += b" " * (-(len(data) + _SPARE_BYTES) % _BLOCK_BYTES + _SPARE_BYTES)
    aside = state / f".tmp-{FILE_NAME}.{os.getpid()}"
    try:
        aside.write_bytes(data)
        aside.replace(state / FILE_NAME)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        _write_over(state / FILE_NAME, text.encode())


def _write_over(path: Path, data: bytes) -> None:
    """Write into the blocks that a file has already, in one call."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        room_bytes = os.fstat(file).st_size
        if len(data) > room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.pwrite(file, data.ljust(room_bytes), 0)
    finally:
        os.close(file)


def read_status(state: Path) -> dict[str, Any] | None:
    """The document as it was written, None when there is none or it is no status document."""
    document = None
    for _ in range(_READS):
        try:
            document = json.loads((state / FILE_NAME).read_bytes())
            break
        except (OSError, RecursionError):
            return None
        except ValueError:
            continue
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return None
    for name, empty in SECTIONS.items():
        found = document.get(name)
        document[name] = copy.deepcopy(empty) | (found if isinstance(found, dict) else {})
    alarms = document.get("alarms")
    whole = [alarm for alarm in alarms if isinstance(alarm, dict)] if isinstance(alarms, list) else []
    document["alarms"] = [dict.fromkeys(ALARM_KEYS) | alarm for alarm in whole]
    return document


def live_document(config: Config, *, now: float | None = None) -> dict[str, Any]:
    """The document of ``status --json``: the daemon's last one, with what can be seen now put in.

    State, uptime, waiting files and free space are of this moment. One more entry, ``process``, is not
    part of the contract: ``written_at`` and ``silent_s`` say when the daemon wrote last, None for never.
    """
    monotonic_s = time.monotonic() if now is None else None
    now = time.time() if now is None else now
    written = read_status(config.paths.state)
    document = new_document() if written is None else written
    process = document.get("process")
    process = process if isinstance(process, dict) else {}
    state = _state(document, process) if written is not None else "never"
    alive = state in ALIVE
    document["daemon"]["state"] = state
    if not alive:
        document["daemon"].update(pid=None, uptime_s=None, holds=_pause_at_rest(config.paths.state, now))
    document["episodes"].update(_pending(config.paths.spool, now))
    document["disk"]["free_bytes"] = _free_bytes(config.paths.spool)
    written_at = process.get("written_at")
    silent_s = _silent_s(process, now, monotonic_s if alive else None)
    if alive and silent_s is not None:
        if isinstance(document["daemon"]["uptime_s"], int | float):
            document["daemon"]["uptime_s"] += silent_s
        if silent_s > STALE_AFTER_S:
            document["alarms"].append(_silence(now, silent_s))
    for name, keys in FILE_ONLY.items():
        for key in keys:
            document[name].pop(key, None)
    document["process"] = {"written_at": written_at, "silent_s": silent_s}
    return document


def is_alive(document: Mapping[str, Any]) -> bool:
    """Whether the daemon of a live document runs."""
    return document["daemon"]["state"] in ALIVE


def is_healthy(document: Mapping[str, Any]) -> bool:
    """Whether it runs and no alarm is worse than a notice."""
    return is_alive(document) and all(alarm.get("level") == "notice" for alarm in document["alarms"])


def _pause_at_rest(state: Path, now: float) -> list[dict[str, Any]]:
    """The pause with which a daemon would start now."""
    with contextlib.suppress(OSError, ValueError):
        pause = read_pause(state)
        if pause is not None and (left_s := pause.left_s(wall_s=now, boot=boot_id(), boot_s=boot_s())):
            until = None if math.isinf(left_s) else now + left_s
            return [{"why": "paused", "message": pause.message, "since": pause.since, "until": until}]
    return []


def _silent_s(process: Mapping[str, Any], now: float, monotonic_s: float | None) -> float | None:
    """Seconds since the daemon wrote; by the monotonic clock, which nobody sets, while it runs."""
    written_s, written_at = process.get("monotonic_s"), process.get("written_at")
    if monotonic_s is not None and isinstance(written_s, int | float):
        return max(0.0, monotonic_s - written_s)
    return max(0.0, now - written_at) if isinstance(written_at, int | float) else None


def _silence(now: float, silent_s: float) -> dict[str, Any]:
    return {
        "id": "status_stale",
        "since": now - silent_s,
        "message": f"the daemon runs but has not reported for {silent_s:.0f} s",
        "remedy": "look at its log; if it hangs, restart it: nothing that was deposited is lost",
    }


def _state(document: Mapping[str, Any], process: Mapping[str, Any]) -> str:
    state, pid = document["daemon"].get("state"), process.get("pid")
    if state == "stopped":
        return "stopped"
    alive = isinstance(pid, int) and process.get("identity") == _identity(pid) is not None
    return str(state) if alive and state in ALIVE else "dead"


def _identity(pid: int) -> str | None:
    """Boot and start time: tells a process from a later one with the same number. None: not running."""
    try:
        boot = boot_id()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Fields are counted after the command's name, which may hold spaces and parentheses (proc(5): 3 and 22).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else f"{boot}/{fields[19]}"


def _pending(spool: Path, now: float) -> dict[str, Any]:
    """Files that wait in ``in`` or are claimed, and the oldest one's age; nulls if they cannot be listed."""
    try:
        times = list(_modified(spool / "in"))
        for writer in _folders(spool / "claimed"):
            times.extend(_modified(writer))
    except OSError:
        return {"pending": None, "oldest_pending_age_s": None}
    oldest_s = max(0.0, now - min(times)) if times else None
    return {"pending": len(times), "oldest_pending_age_s": oldest_s}


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _modified(folder: Path) -> Iterator[float]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_mtime


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _plain(value: Any) -> Any:
    """NumPy numbers, paths and sets, without importing NumPy."""
    if hasattr(value, "item"):
        return value.item()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _without_nan(text: str) -> str:
    """JSON has no NaN: unknown is null."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None))
