"""Rebuilding: a version once more from its base, its head and its change, by the store's own arithmetic."""

from collections.abc import Mapping
from typing import Any

from policies.checkpoint import Checkpoint, Delta
from policies.manifest import checkpoint_of
from policies.merge import apply, merge, restore


def rebuilt(
    manifest: Mapping[str, Any], delta: Delta, *, base: Checkpoint, head: Checkpoint | None
) -> Checkpoint:
    """Make what ``publish`` made: what it decided then stands in the manifest, what it computed does not.

    Args:
        manifest: of the version.
        delta: the change; nothing for a rollback.
        base: what the change began with; what a rollback goes back to.
        head: the version that it succeeds; None for the first.
    """
    if "rollback" in manifest:
        assert head is not None
        merged = restore(base, head)
    elif head is None or not manifest["merge"]["rebased"]:
        merged = apply(base, delta)
    else:
        merged = merge(base, head, delta, weight=manifest["merge"]["weight"])
    counters = merged.counters
    counters["episodes"] = counters.get("episodes", 0) + len(manifest["keys"])
    return checkpoint_of(
        {**manifest, "counters": counters},
        spec=base.spec,
        weights=merged.weights,
        averages=merged.averages,
        normalizer=merged.normalizer,
    )


def base_of(manifest: Mapping[str, Any]) -> int:
    """The version whose weights the change, or the rollback, began with; 0: weights that nobody published."""
    if "rollback" in manifest:
        return int(manifest["rollback"]["to"])
    parents = manifest["parents"]
    if "base" in manifest:
        return int(manifest["base"])
    rebased = manifest["merge"]["rebased"]
    return int(parents[-1 if rebased else 0]) if parents else 0


def needs_of(manifest: Mapping[str, Any]) -> set[int]:
    """The versions without which one cannot be rebuilt; empty for one that begins with initial weights."""
    return {*manifest["parents"], base_of(manifest)} - {0}
