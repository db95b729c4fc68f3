"""Successor: the next version as files, made of a head and one writer's delta."""

import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.acting import Acting, Promotion, acting_entry, is_held
from policies.checkpoint import Checkpoint, Delta, LedgerEntry
from policies.delta import check_delta, encode_delta
from policies.errors import BadDelta, BaseRejected, DriftTooLarge
from policies.ledger import manifest_keys
from policies.manifest import (
    DELTA,
    LEDGER,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    SCHEMA_VERSION,
    checkpoint_of,
    describe,
    encode_arrays,
    encode_manifest,
    encode_model,
)
from policies.merge import (
    Merged,
    MergeSettings,
    age_weight,
    apply,
    drift,
    episodes_weight,
    merge,
    restore,
)
from policies.rollback import MANIFEST_KEY, Rejected, Rollback

ROW_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Save:
    """What one call of ``publish`` asks for.

    Attributes:
        delta, base, writer, episodes, saved_at, record: as given to ``publish``.
        rollback: that the base's weights replace the head's; None: that the delta is added to them.
        acting: what clients are to act with; None: as the head says.
        promotion: that a version is let act that was held back.
        save_id: unique; by it a version is recognized as this very save.
    """

    delta: Delta
    base: Checkpoint
    writer: str
    saved_at: float
    episodes: tuple[LedgerEntry, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    rollback: Rollback | None = None
    acting: Acting | None = None
    promotion: Promotion | None = None
    save_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check(self) -> None:
        """Check what can be checked without the store.

        Raises:
            BadDelta: naming field, value and what would be accepted.
        """
        if not self.writer or not self.writer.isprintable():
            raise BadDelta(field="writer", value=repr(self.writer), accepted="a printable name")
        if not math.isfinite(self.saved_at):
            raise BadDelta(field="saved_at", value=self.saved_at, accepted="UTC seconds")
        for i, entry in enumerate(self.episodes):
            if ROW_SHA256.fullmatch(entry.row_sha256) is None:
                field = f"episodes[{i}].row_sha256"
                raise BadDelta(field=field, value=repr(entry.row_sha256), accepted="64 hexadecimal digits")
        if len({entry.key for entry in self.episodes}) < len(self.episodes):
            raise BadDelta(field="episodes", value="the same key twice", accepted="each key once")
        check_delta(self.delta, self.base)

    def check_against(self, head: Checkpoint | None) -> None:
        """Check that the head may be succeeded by this.

        Raises:
            BaseRejected: the base was rolled back since. NothingToRollBack: as ``Rollback.check``.
            NothingToPromote: as ``Promotion.check``.
        """
        if head is None:
            return
        if self.promotion is not None:
            self.promotion.check(head)
        if self.rollback is not None:
            self.rollback.check(self.base, head)
        elif rejection := Rejected.of(head).find(self.base.version):
            raise BaseRejected(base=self.base.version, head=head.version, to=rejection.to, by=rejection.by)

    def acting_after(self, head: Checkpoint | None) -> Acting | None:
        """What clients are to act with: a rollback's own weights, or what was asked for."""
        if self.rollback is not None:
            return Acting(held=head is not None and is_held(head.manifest))
        return self.acting if self.promotion is None else self.promotion.asked(head)

    def is_rebased_on(self, head: Checkpoint | None) -> bool:
        """Whether publishing after this head needs a merge: it is not what the writer began with."""
        if head is None:
            return False
        same = head.version == self.base.version
        return not (same and head.manifest.get("save_id") == self.base.manifest.get("save_id"))


def successor(
    save: Save, head: Checkpoint | None, number: int, settings: MergeSettings, *, published_at: float
) -> tuple[Checkpoint, dict[str, bytes]]:
    """The version after ``head``, in memory and as its files.

    Raises:
        BadDelta: the head has another spec, or the sum is not finite, or the record is no JSON.
        DriftTooLarge: the settings forbid so long a rebase.
    """
    merged, how = _combine(save, head, settings)
    counters = merged.counters
    counters["episodes"] = counters.get("episodes", 0) + len(save.episodes)
    files = {
        MODEL: encode_model(merged.weights, merged.normalizer),
        OPTIMIZER: encode_arrays(merged.averages),
        LEDGER: _encode_ledger(save.episodes),
    }
    if save.rollback is None and (save.is_rebased_on(head) or save.writer != settings.daemon):
        files[DELTA] = encode_delta(save.delta)
    manifest = {
        "schema": SCHEMA_VERSION,
        "version": number,
        **_lineage(save, head, number),
        "writer": save.writer,
        "save_id": save.save_id,
        "saved_at": save.saved_at,
        "published_at": published_at,
        "spec": save.base.spec.to_json(),
        "counters": counters,
        "episodes_total": counters["episodes"],
        "updates_total": counters.get("updates", 0),
        "adam_steps": {name: counters.get(f"adam_{name}", 0) for name in ("policy", "value")},
        "delta_counters": dict(save.delta.counters),
        "merge": how,
        "keys": manifest_keys(save.episodes),
        "return_mean": _to_json(_return_mean(save.episodes)),
        "files": describe(files),
        "record": _to_json(save.record),
    }
    try:
        files[MANIFEST] = encode_manifest(manifest)
    except (TypeError, ValueError) as error:
        raise BadDelta(field="record", value=str(error), accepted="what JSON can hold") from error
    checkpoint = checkpoint_of(
        manifest,
        spec=save.base.spec,
        weights=merged.weights,
        averages=merged.averages,
        normalizer=merged.normalizer,
    )
    return checkpoint, files


def _combine(
    save: Save, head: Checkpoint | None, settings: MergeSettings
) -> tuple[Merged, dict[str, bool | int | float]]:
    """The sum, and how it came about, for the manifest."""
    if head is None or not save.is_rebased_on(head):
        return apply(save.base, save.delta), {"rebased": False, "weight": 1.0}
    if head.spec != save.base.spec:
        raise BadDelta(field="base.spec", value=save.base.spec, accepted=f"the head's, {head.spec}")
    if save.rollback is not None:
        return restore(save.base, head), {"rebased": False, "weight": 1.0}
    moved = drift(save.base, head)
    if 0 < settings.drift_limit < moved:
        raise DriftTooLarge(
            base=save.base.version, head=head.version, drift=moved, limit=settings.drift_limit
        )
    theirs = max(0, head.counters.get("episodes", 0) - save.base.counters.get("episodes", 0))
    weight = _weight(save, head, settings, theirs=theirs)
    how = {
        "rebased": True,
        "weight": weight,
        "drift": moved,
        "ours_episodes": len(save.episodes),
        "theirs_episodes": theirs,
        "ours_saved_at": save.saved_at,
        "theirs_saved_at": head.saved_at,
    }
    return merge(save.base, head, save.delta, weight=weight), how


def _weight(save: Save, head: Checkpoint, settings: MergeSettings, *, theirs: int) -> float:
    """The factor on a rebased change of the weights, as ``MergeSettings`` says."""
    if save.writer == settings.daemon:
        return 1.0
    factors = {
        "none": 1.0,
        "episodes": episodes_weight(len(save.episodes), theirs),
        "age": age_weight(head.saved_at - save.saved_at, settings.half_life_s),
    }
    return settings.online_weight * factors[settings.weighting]


def _lineage(save: Save, head: Checkpoint | None, number: int) -> dict[str, Any]:
    """Parents, and ranges of numbers: those that are no ancestors (damaged by then), and those rejected."""
    parent = 0 if head is None else head.version
    before = [] if head is None else head.manifest.get("skipped", [])
    parents = [] if head is None else [head]
    if save.is_rebased_on(head):
        parents.append(save.base)
    return {
        "parents": [checkpoint.version for checkpoint in parents],
        "base": save.base.version,
        "parents_saved_at": [checkpoint.saved_at for checkpoint in parents],
        "skipped": [*before, *([[parent + 1, number - 1]] if parent + 1 < number else [])],
        MANIFEST_KEY: Rejected.of(head or save.base).to_json(),
        **({} if save.rollback is None else save.rollback.entries(save.base, number)),
        **acting_entry(save.acting_after(head), head or save.base, number),
    }


def _return_mean(episodes: Sequence[LedgerEntry]) -> float | None:
    return sum(entry.total_reward for entry in episodes) / len(episodes) if episodes else None


def _encode_ledger(episodes: Sequence[LedgerEntry]) -> bytes:
    from policies.ledger_file import encode_entries  # noqa: PLC0415 - loads pyarrow

    return encode_entries(episodes)


def _to_json(value: Any) -> Any:
    """Plain JSON values; a number that is not finite becomes null: a metric must not stop a publish."""
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
