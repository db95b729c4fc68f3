"""Published versions as plain JSON: manifests, returns, and whether files are whole. Loads no NumPy."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnerd.live_returns import LiveReturns, read_live

DIRECTORY_NAME = re.compile(r"[0-9]{8}")
MANIFEST = "manifest.json"
SCHEMA = 1
OTHER_RELEASE = "another release wrote it"
RECORDS = "records.sqlite"
LOOK_AHEAD = 1000
"""Versions within which one was decided about."""
COPIED = ("parents", "writer", "saved_at", "episodes_total", "updates_total", "return_mean")


def numbers(state: Path) -> list[int]:
    """Every version that has a directory, whole or damaged, oldest first."""
    try:
        names = [entry.name for entry in (state / "checkpoints").iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if DIRECTORY_NAME.fullmatch(name))


def summaries(state: Path, *, newest: int | None = None) -> list[dict[str, Any]]:
    """The list, oldest first; ``damage`` names what is missing or of the wrong size (hashes: ``details``).

    Args:
        state: the state folder.
        newest: how many at most; None: all.
    """
    rejected, live = _rejected(state), read_live(state)
    wanted = numbers(state)[-newest if newest else None :]
    return [_summary(state, number, rejected=rejected, live=live) for number in wanted]


def _summary(state: Path, version: int, *, rejected: list[list[int]], live: LiveReturns) -> dict[str, Any]:
    manifest, damage = _manifest(state, version)
    damage += [
        f"{name}: {_size(_directory(state, version) / name)} bytes, {expected.get('bytes')} in the manifest"
        for name, expected in _files(manifest).items()
        if _size(_directory(state, version) / name) != expected.get("bytes")
    ]
    copied = {key: manifest.get(key) for key in COPIED}
    return {**_standing(state, version, manifest, rejected, live), **copied, "damage": damage}


def _standing(
    state: Path,
    version: int,
    manifest: Mapping[str, Any],
    rejected: list[list[int]],
    live: LiveReturns,
) -> dict[str, Any]:
    """What became of a version: acted with, earned, pinned, rolled back."""
    rollback = manifest.get("rollback")
    return {
        "version": version,
        "current": current(state) == version,
        "live": live.of(version),
        "held": manifest.get("acting", version) < version and version > (current(state) or 0),
        "pinned": (state / "pins" / f"{version:08d}").exists(),
        "rollback_to": rollback.get("to") if isinstance(rollback, dict) else None,
        "rejected_by": next((last + 1 for first, last in rejected if first <= version <= last), None),
    }


def _rejected(state: Path) -> list[list[int]]:
    """The rejected ranges as the newest version that can be read knows them."""
    for version in reversed(numbers(state)):
        manifest, damage = _manifest(state, version)
        if not damage:
            return _ranges(manifest.get("rejected"))
    return []


def _ranges(found: Any) -> list[list[int]]:
    """Pairs of numbers, from a manifest that another release may have written."""
    pairs = found if isinstance(found, list) else []
    return [pair for pair in pairs if isinstance(pair, list) and [type(end) for end in pair] == [int, int]]


def details(state: Path, version: int) -> dict[str, Any]:
    """The whole manifest, a summary of the ledger, and each file's hash checked.

    Of a pruned version what its record says: the manifest, and no files.
    """
    pruned = not _directory(state, version).exists()
    manifest, damage = _recorded(state, version) if pruned else _manifest(state, version)
    files = {} if pruned else _checked_files(state, version, manifest)
    return {
        **_standing(state, version, manifest, _rejected(state), read_live(state)),
        "gate": _verdict_on(state, version),
        "pruned": pruned,
        "ledger": _ledger(manifest),
        "manifest": manifest or None,
        "files": files,
        "damage": [*damage, *_wrong(files)],
    }


def damage(state: Path, version: int) -> list[str]:
    """What is wrong with a version that is not pruned, every byte of it read; [] when nothing is."""
    manifest, found = _manifest(state, version)
    return [*found, *_wrong(_checked_files(state, version, manifest))]


def _checked_files(state: Path, version: int, manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> size, hash and state of each file that the manifest names."""
    files = {}
    for name, expected in _files(manifest).items():
        path = _directory(state, version) / name
        found = _sha256(path)
        good = found is not None and found == expected.get("sha256")
        files[name] = {
            "bytes": _size(path),
            "sha256": found,
            "state": "ok" if good else "missing" if found is None else "wrong",
        }
    return files


def _wrong(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{name}: sha256 is {file['sha256'] or 'unknown, it cannot be read'}"
        for name, file in files.items()
        if file["state"] != "ok"
    ]


def is_recorded(state: Path, version: int) -> bool:
    """Whether a pruned version has a record."""
    return bool(_recorded(state, version)[0])


def _recorded(state: Path, version: int) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a pruned version by its record, and what is wrong with it; {} when there is none."""
    if not (state / RECORDS).exists():
        return {}, []
    from policies.records import Records  # noqa: PLC0415 - its package loads NumPy

    try:
        found = Records(state).read(version)
        document = {} if found is None else json.loads(found.manifest)
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"{RECORDS}: {error}"]
    if found is None or not isinstance(document, dict):
        return {}, []
    return document, [] if _is_sealed(document) else [f"{RECORDS}: it does not match its own sha256"]


def _verdict_on(state: Path, version: int) -> dict[str, Any] | None:
    """The last verdict on a version; it is in the manifest of one that came later."""
    found = None
    for later in numbers(state):
        if version < later <= version + LOOK_AHEAD:
            record = _manifest(state, later)[0].get("record")
            gate = record.get("gate") if isinstance(record, dict) else None
            if isinstance(gate, dict) and gate.get("candidate") == version:
                found = {**gate, "in_version": later}
    return found


def manifest(state: Path, version: int) -> dict[str, Any]:
    """The manifest as it is; {} when it cannot be read."""
    return _manifest(state, version)[0]


def recorded_threads(state: Path) -> int | None:
    """How many threads BLAS had for the newest version that tells; None when none does."""
    for version in reversed(numbers(state)):
        record = _manifest(state, version)[0].get("record")
        machine = record.get("machine") if isinstance(record, dict) else None
        found = machine.get("blas_threads") if isinstance(machine, dict) else None
        if isinstance(found, str) and found.isdecimal():
            return int(found)
    return None


def _ledger(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How many episodes a version added, of which clients, and what these returned in the mean."""
    clients = Counter(str(key[0]) for key in manifest.get("keys", []))
    return {
        "episodes": sum(clients.values()),
        "clients": dict(clients.most_common()),
        "return_mean": manifest.get("return_mean"),
    }


def current(state: Path) -> int | None:
    """What ``CURRENT`` names; None when it is missing or names no version."""
    try:
        name = (state / "CURRENT").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(name) if DIRECTORY_NAME.fullmatch(name) else None


def _directory(state: Path, version: int) -> Path:
    return state / "checkpoints" / f"{version:08d}"


def _manifest(state: Path, version: int) -> tuple[dict[str, Any], list[str]]:
    """The manifest and what is wrong with it; {} when it cannot be read."""
    try:
        data = (_directory(state, version) / MANIFEST).read_bytes()
        manifest = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"{MANIFEST}: {error}"]
    if not isinstance(manifest, dict) or not _files(manifest):
        return {}, [f"{MANIFEST}: names no files"]
    if not _is_sealed(manifest):
        return manifest, [f"{MANIFEST}: does not match its own sha256"]
    schema = manifest.get("schema", SCHEMA)
    text = f"{MANIFEST}: schema is {schema!r}; accepted: {SCHEMA} ({OTHER_RELEASE})"
    return manifest, [] if schema == SCHEMA else [text]


def _is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether ``self_sha256`` is the hash of everything else, in the store's canonical JSON."""
    plain = {name: value for name, value in manifest.items() if name != "self_sha256"}
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return manifest.get("self_sha256") == hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _files(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """File name -> {sha256, bytes}; only plain names: a manifest must not point outside its directory."""
    files = manifest.get("files")
    if not isinstance(files, dict):
        return {}
    return {
        name: entry
        for name, entry in files.items()
        if isinstance(entry, dict) and "/" not in name and name not in ("", ".", "..")
    }


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
