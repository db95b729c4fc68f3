"""Rescue: brings back what a damaged version had learned of which the archive has no shard.

An online learner's version is kept as its delta, which is added to the head again; a rollback is made again.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policies.checkpoint import Checkpoint, Delta
from policies.errors import BaseRejected, NothingToRollBack, StoreError
from policies.ledger import Lineage
from policies.rollback import Rejected
from policies.store import CheckpointStore


class Rescue:
    """Brings back versions by what was kept with them, as far as it is whole.

    Args:
        state: the store's folder: each call reads it afresh.
        store: what it is published to; its memory may hold what the disk has lost.
    """

    def __init__(self, state: Path, *, store: CheckpointStore) -> None:
        self._state = state
        self._store = store

    def bring_back(self, version: int) -> str:
        """How what a version had learned is in the head; "" when it is not, and cannot be brought back."""
        fresh = CheckpointStore(self._state)
        try:
            if _is_brought_back(fresh, version):
                return "what it learned had been brought back"
            manifest = fresh.manifest(version)
            return (self._roll_back if "rollback" in manifest else self._add)(fresh, version, manifest)
        except BaseRejected as error:
            return f"it is not brought back: {error}"
        except StoreError:
            return ""

    def _add(self, fresh: CheckpointStore, version: int, manifest: Mapping[str, Any]) -> str:
        """Publish the delta that was kept with a version, unless its episodes are learned already."""
        entries, delta = fresh.episodes(version), fresh.delta(version)
        hits = fresh.lookup(entry.key for entry in entries)
        if entries and len(hits) == len(entries):
            return "its episodes had been learned again"
        if delta is None or hits:
            learned = entries or manifest["delta_counters"].get("updates")
            return "" if learned else "it had learned nothing"
        delta, base = self._base_for(delta, manifest)
        self._store.publish(
            delta,
            base=base,
            writer=manifest["writer"],
            episodes=entries,
            saved_at=manifest["saved_at"],
            record={**manifest["record"], "rescued": version},
        )
        return "the delta that was kept with it has been added again"

    def _roll_back(self, fresh: CheckpointStore, version: int, manifest: Mapping[str, Any]) -> str:
        """Make a rollback again whose version is damaged, so that the rejected head does not come back."""
        wanted = manifest["rollback"]
        if Rejected.of(fresh.head()).find(version):
            return "a later rollback has taken its place"
        with contextlib.suppress(NothingToRollBack):
            self._store.rollback(wanted["to"], writer=manifest["writer"], reason=wanted["reason"])
        return f"the rollback to {wanted['to']} has been made again"

    def _base_for(self, delta: Delta, manifest: Mapping[str, Any]) -> tuple[Delta, Checkpoint]:
        """What a kept delta is relative to; where that is gone, its weights and counts go onto the head."""
        with contextlib.suppress(StoreError, IndexError):
            return delta, self._store.load(manifest["parents"][-1])
        head = self._store.head()
        if head is None:
            raise StoreError("there is no version to add it to")
        return replace(delta, averages={}), head


def relearned_claim_id(version: int) -> str:
    """The claim's id, in ledgers, of episodes that were learned again from the shard of a damaged version."""
    return f"relearn-{version:08d}"


def _is_brought_back(store: CheckpointStore, version: int) -> bool:
    """Whether a later version says so: a crash kept us from removing the damaged one."""
    claim_id = relearned_claim_id(version)
    for number in sorted(Lineage.of(store.head()).numbers(version + 1)):
        with contextlib.suppress(StoreError):
            if store.manifest(number)["record"].get("rescued") == version:
                return True
            if any(entry.claim_id == claim_id for entry in store.episodes(number)):
                return True
    return False
