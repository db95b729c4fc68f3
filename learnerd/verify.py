"""Verify: recorded versions are rebuilt and held against what was published, by the sha256 of their files.

On the same machine with the same libraries a rebuilt version is equal to the bit. Elsewhere the last digits
may differ; there, versions whose weights are still kept are compared with a tolerance.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from experience.archive_folder import first_version
from learnerd.archived import archive_folder
from learnerd.config import Config
from learnerd.errors import NotRebuilt
from learnerd.made_on import differences
from learnerd.rebuilder import Rebuilder, device_of
from learnerd.verify_plan import Plan, Planner
from learnerd.verify_rows import LearnedRows
from policies.checkpoint import Arrays, Checkpoint
from policies.errors import StoreError, VersionPruned
from policies.manifest import MODEL, OPTIMIZER, encode_arrays, encode_model
from policies.pruning import is_from_rows
from policies.rebuilding import needs_of
from policies.recorded import RecordedVersions
from policies.store import CheckpointStore

ATOL, RTOL = 1e-5, 1e-4
"""Elsewhere a weight may differ by ATOL + RTOL times its size, in a version made from the recorded one."""

WEIGHTS_AGREE = "its weights are the same, its optimizer's state is not"
RECOVERED = "logp_recovered"
NOTHING_TELLS = "nothing recorded tells why: rows, settings, seed, code, libraries and machine agree"

Outcome = Literal["same", "close", "differs", "unknown", "not_rebuilt"]
FAILED: tuple[Outcome, ...] = ("differs", "not_rebuilt")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One version, rebuilt and compared.

    Attributes:
        version: its number.
        made: "learned", "saved" (another writer's change), "rollback" or "published" (no change); "" when
            not even its manifest is left.
        parents: as in its manifest.
        writer: who published it.
        episodes: that it added.
        outcome: "same": equal to the bit. "close": computed elsewhere, and within the tolerance. "differs".
            "unknown": computed elsewhere, not equal to the bit, and nothing is left to measure it by; or
            made from what the archive's retention has removed.
            "not_rebuilt": something that it was made from is missing or altered.
        largest: largest absolute difference of a weight; None when there is nothing to compare with.
        why: what is known about why it is not the same.
        sha256: of ``model.safetensors`` as recorded; "" when not known.
        rebuilt_sha256: of the rebuilt one; "" when it could not be rebuilt.
    """

    version: int
    made: str = ""
    parents: tuple[int, ...] = ()
    writer: str = ""
    episodes: int = 0
    outcome: Outcome
    largest: float | None = None
    why: tuple[str, ...] = ()
    sha256: str = ""
    rebuilt_sha256: str = ""


def plan_of(config: Config, *, first: int | None = None, last: int | None = None) -> Plan:
    """Plan what can be verified; no versions when there is nothing."""
    head = CheckpointStore(config.paths.state).head()
    if head is None:
        return Plan(versions=(), judged_from=0, out_of_reach=(), last_use={})
    return Planner(config.paths.state, archive_folder(config), head).plan(first, last)


def missing_archive(config: Config, plan: Plan) -> str:
    """Say that the archive has no shard at all, where a plan needs one; "" when it has, or needs none."""
    archive = archive_folder(config)
    if first_version(archive) is not None or not _needs_rows(config, plan):
        return ""
    if not archive.is_dir():
        return f"the archive {archive} is not there; is its disk mounted?"
    return f"the archive {archive} is empty: its disk is not mounted, or its shards were removed"


def _needs_rows(config: Config, plan: Plan) -> bool:
    """Whether a version of the plan was learned from rows of the archive."""
    recorded = RecordedVersions(config.paths.state)
    for version in plan.versions:
        with contextlib.suppress(StoreError):
            if is_from_rows(recorded.manifest(version)):
                return True
    return False


def verify(config: Config, plan: Plan) -> Iterator[Judged]:
    """Rebuild the versions of a plan in order, and yield those that are to be judged.

    Nothing is written, and the daemon may go on meanwhile: what it prunes is found in the records.
    """
    verifier = _Verifier(config)
    threads = torch.get_num_threads()
    try:
        for version in plan.versions:
            judged = verifier.judge(version)
            verifier.release(plan.last_use, version)
            if version >= plan.judged_from:
                yield judged
    finally:
        torch.set_num_threads(threads)


class _Verifier:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._recorded = RecordedVersions(config.paths.state)
        self._rows = LearnedRows(archive_folder(config), self._recorded)
        self._rebuilder = Rebuilder(config, self._recorded, self._rows)
        self._inexact: dict[int, bool] = {}  # those that others are made from; whether by the machine alone

    def release(self, last_use: Mapping[int, int], after: int) -> None:
        self._rebuilder.release(last_use, after=after)

    def judge(self, version: int) -> Judged:
        """Rebuild one version, compare, and go on from the recorded one if it is there."""
        published = self._rebuilder.recorded(version)
        if published is not None:
            self._rebuilder.go_on_from(published, is_recorded=True)
        try:
            manifest = self._recorded.manifest(version)
        except StoreError as error:
            outcome: Outcome = "not_rebuilt"
            if isinstance(error, VersionPruned) and self._rows.are_removed(version):  # since it was planned
                outcome = "unknown"
                self._rebuilder.lose(version)
            return Judged(version=version, outcome=outcome, why=(f"its manifest: {error}",))
        try:
            made = self._rebuilder.make(manifest)
        except NotRebuilt as error:
            if error.by_retention:
                self._rebuilder.lose(version)
            return _judged(manifest, "unknown" if error.by_retention else "not_rebuilt", why=(str(error),))
        judged = self._compare(manifest, made, published)
        if published is None:
            self._rebuilder.go_on_from(made, is_recorded=False)
        return judged

    def _compare(self, manifest: Mapping[str, Any], made: Checkpoint, published: Checkpoint | None) -> Judged:
        digest = _sha256(encode_model(made.weights, made.normalizer))
        other = _other_files(manifest, made, published, digest)
        largest, within = (None, False) if published is None else _distance(made, published)
        if not other:
            return _judged(manifest, "same", largest=largest, rebuilt_sha256=digest)
        upstream = sorted(needs_of(manifest) & self._inexact.keys())
        elsewhere = self._elsewhere(manifest)
        why = [WEIGHTS_AGREE] if other == [OPTIMIZER] else []
        why += [f"made from version {version}, which is not the same" for version in upstream]
        why += elsewhere + self._settings(manifest) + _behavior(manifest, made)
        is_elsewhere = bool(elsewhere) or any(self._inexact[version] for version in upstream)
        outcome: Outcome = "differs"
        if is_elsewhere:
            outcome = "close" if within else "unknown" if published is None or upstream else "differs"
        if published is None:
            self._inexact[manifest["version"]] = is_elsewhere
        return _judged(
            manifest, outcome, largest=largest, why=tuple(why) or (NOTHING_TELLS,), rebuilt_sha256=digest
        )

    def _elsewhere(self, manifest: Mapping[str, Any]) -> list[str]:
        record = manifest["record"]
        if "libraries" not in record:
            return []
        return differences(record, device=device_of(record), threads=torch.get_num_threads())

    def _settings(self, manifest: Mapping[str, Any]) -> list[str]:
        """That today's settings were used, and may be others."""
        record = manifest["record"]
        if not is_from_rows(manifest) or "settings" in record:
            return []
        if record.get("config_digest") == self._config.digest():
            return []
        return ["its settings were not recorded, and config.toml has changed since"]


def _judged(manifest: Mapping[str, Any], outcome: Outcome, **found: Any) -> Judged:
    return Judged(
        version=manifest["version"],
        made=_made(manifest),
        parents=tuple(manifest["parents"]),
        writer=manifest["writer"],
        episodes=len(manifest["keys"]),
        outcome=outcome,
        sha256=manifest["files"][MODEL]["sha256"],
        **found,
    )


def _made(manifest: Mapping[str, Any]) -> str:
    if "rollback" in manifest:
        return "rollback"
    if is_from_rows(manifest):
        return "learned"
    return "saved" if manifest["keys"] or manifest["delta_counters"] else "published"


def _other_files(
    manifest: Mapping[str, Any], made: Checkpoint, published: Checkpoint | None, digest: str
) -> list[str]:
    """Which files are not as recorded; arrays that are there count more than how they were packed."""
    found = {MODEL: digest, OPTIMIZER: _sha256(encode_arrays(made.averages))}
    other = [name for name in found if found[name] != manifest["files"][name]["sha256"]]
    if published is None:
        return other
    equal = {
        MODEL: _equal(_model(made), _model(published)),
        OPTIMIZER: _equal(made.averages, published.averages),
    }
    return [name for name in other if not equal[name]]


def _distance(made: Checkpoint, published: Checkpoint) -> tuple[float, bool]:
    """Largest absolute difference of a weight, and whether all are within the tolerance."""
    pairs = [
        (np.asarray(made.weights[name], np.float64), np.asarray(weight, np.float64))
        for name, weight in published.weights.items()
    ]
    largest = max(float(np.abs(ours - theirs).max(initial=0.0)) for ours, theirs in pairs)
    return largest, all(np.allclose(ours, theirs, rtol=RTOL, atol=ATOL) for ours, theirs in pairs)


def _behavior(manifest: Mapping[str, Any], made: Checkpoint) -> list[str]:
    """That fewer log-probabilities could be computed than then, or more."""
    lost = manifest["counters"].get(RECOVERED, 0) - made.counters.get(RECOVERED, 0)
    if lost > 0:
        return [f"the versions that acted in {lost} episodes without log-probabilities are gone"]
    return [f"log-probabilities of {-lost} episodes can be computed that could not then"] if lost else []


def _model(checkpoint: Checkpoint) -> Arrays:
    normalizer = checkpoint.normalizer
    return {
        **checkpoint.weights,
        "normalizer.count": np.array(normalizer.count),
        "normalizer.mean": normalizer.mean,
        "normalizer.m2": normalizer.m2,
    }


def _equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
