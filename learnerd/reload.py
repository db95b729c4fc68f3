"""Reload: what a running daemon takes over from a changed configuration, and what waits for a restart."""

from collections.abc import Mapping
from dataclasses import dataclass

from learnerd.config import Config, load_config
from learnerd.config_tables import Policy

RESTART_NEEDED: Mapping[str, frozenset[str]] = {
    "paths": frozenset({"spool", "state"}),  # the lock is held there, and clients know them
    "policy": frozenset(Policy.model_fields),  # a state folder holds one policy
    "learner": frozenset({"device", "threads"}),  # libraries read them when they are loaded
    "daemon": frozenset({"name"}),  # claims carry it
}
"""Table -> keys that a running daemon cannot change; all others it can."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A configuration that was read again.

    Attributes:
        config: what is in force from now on.
        applied: "[table] key" of each that has another value now.
        kept: of each that has another value in the file, and keeps the old one until the next start.
    """

    config: Config
    applied: tuple[str, ...]
    kept: tuple[str, ...]


def reread(config: Config, env: Mapping[str, str]) -> Change:
    """Read the file of ``config`` again.

    Raises:
        ConfigError: it cannot be used as it is; ``config`` stays in force.
    """
    found = load_config(config.file, env)
    applied, kept, tables = [], [], {}
    for name in Config.model_fields:
        old, new = getattr(config, name), getattr(found, name)
        fixed = RESTART_NEEDED.get(name, frozenset())
        differing = [key for key in type(new).model_fields if getattr(old, key) != getattr(new, key)]
        applied += [f"[{name}] {key}" for key in differing if key not in fixed]
        kept += [f"[{name}] {key}" for key in differing if key in fixed]
        tables[name] = new.model_copy(update={key: getattr(old, key) for key in fixed})
    return Change(config=found.model_copy(update=tables), applied=tuple(applied), kept=tuple(kept))
