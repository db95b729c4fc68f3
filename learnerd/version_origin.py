"""Version origin: what made a version, as lines for people, from its manifest alone. Loads no NumPy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from learnerd.config_tables import Learner

TOLD = ("record", "merge", "parents", "parents_saved_at", "base", "delta_counters", "save_id", "schema")
"""Keys of a manifest that these lines tell of."""
MOST_UPDATES = 8
LIBRARIES = ("python", "numpy", "torch", "safetensors", "learnerd", "code")
MACHINE = ("cuda", "cpu", "simd", "cpu_flags", "blas", "blas_threads")


def origin(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, what) in the order in which they matter; only what the manifest says."""
    record = _mapping(manifest.get("record"))
    lines = [
        ("made from", _parents(manifest)),
        ("added", ", ".join(f"{n} {name}" for name, n in _mapping(manifest.get("delta_counters")).items())),
        *_updates(record.get("updates")),
        ("seed", _text(record.get("seed"))),
        ("settings", _settings(record.get("settings"))),
        ("config digest", _text(record.get("config_digest"))),
        ("made on", _machine(record)),
        ("libraries", _libraries(_mapping(record.get("libraries")))),
    ]
    known = {"updates", "seed", "settings", "config_digest", "device", "threads", "machine", "libraries"}
    lines += [(name, str(value)) for name, value in record.items() if name not in known]
    return [(name, what) for name, what in lines if what]


def _parents(manifest: Mapping[str, Any]) -> str:
    parents, merge = _list(manifest.get("parents")), _mapping(manifest.get("merge"))
    if not parents:
        return "initial weights"
    if "rollback" in manifest:
        return f"the weights of version {parents[-1]}, after version {parents[0]}"
    if not merge.get("rebased"):
        return f"version {parents[0]}"
    drift = merge.get("drift")
    moved = f", which had drifted by {drift:.3g}" if isinstance(drift, float) else ""
    since = manifest.get("base", parents[-1])
    weight = f"weight {merge.get('weight')}"
    return f"version {parents[0]}, with a change since version {since} merged into it ({weight}{moved})"


def _updates(updates: Any) -> Iterator[tuple[str, str]]:
    """A line an update: sizes, seed and learning rate."""
    found = [update for update in _list(updates) if isinstance(update, dict)]
    for i, update in enumerate(found[:MOST_UPDATES]):
        again = len(_list(update.get("replayed")))
        new = int(update.get("episodes") or 0) - again
        size = f"{new} episodes" + (f" and {again} learned again" if again else "")
        rate = update.get("learning_rate")
        step = f", learning rate {rate:.6g}" if isinstance(rate, float) else ""
        yield f"update {i + 1}", f"{size}, {update.get('steps')} steps, seed {update.get('seed')}{step}"
    if len(found) > MOST_UPDATES:
        yield "updates", f"{len(found)} in all; --json has the others"


def _settings(settings: Any) -> str:
    """Those that are not the defaults."""
    if not isinstance(settings, dict):
        return ""
    defaults = {name: field.default for name, field in Learner.model_fields.items()}
    other = [f"{name} {value}" for name, value in settings.items() if value != defaults.get(name, value)]
    return f"{', '.join(other)}; the rest as by default" if other else "as by default"


def _machine(record: Mapping[str, Any]) -> str:
    machine = _mapping(record.get("machine"))
    device, threads = record.get("device"), record.get("threads")
    parts = [_text(device), "" if threads is None else f"threads {threads}"]
    if device != "cpu":
        parts.insert(1, _text(machine.get("device_name")))
    parts += [f"{name} {machine[name]}" for name in MACHINE if name in machine]
    return ", ".join(filter(None, parts))


def _libraries(libraries: Mapping[str, Any]) -> str:
    names = [*LIBRARIES, *(name for name in libraries if name not in LIBRARIES)]
    return ", ".join(f"{name} {libraries[name]}" for name in names if name in libraries)


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _list(found: Any) -> Sequence[Any]:
    return found if isinstance(found, list) else ()


def _text(found: Any) -> str:
    return "" if found is None else str(found)
