"""Rebuilder: recorded versions made again, one after the other: from base, episodes, seed and settings.

A version that was learned from rows is learned again from the archive's; what another writer saved is added
again from the delta that was kept; rollbacks, promotions and merges repeat what the manifest says of them.
The next version is made from the recorded one where that is still there, so that a difference does not hide
those after it; else from the rebuilt one.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from learnerd.behavior import MOST_BYTES, BehaviorCache
from learnerd.config import Config
from learnerd.device import choose_device
from learnerd.errors import NotRebuilt
from learnerd.learn import learn
from learnerd.verify_rows import LearnedRows
from policies.checkpoint import ActingVersion, Checkpoint, Delta
from policies.errors import PolicyError, StoreError, VersionPruned
from policies.initial import initial_checkpoint
from policies.pruning import is_from_rows
from policies.rebuilding import base_of, rebuilt
from policies.recorded import RecordedVersions
from policies.settings import LearnerSettings
from policies.spec import PolicySpec
from policies.store import CheckpointStore


class Rebuilder:
    """Belongs to one thread; changes nothing on the disk.

    Args:
        config: for what a manifest of an earlier release does not say.
        recorded: manifests and deltas.
        rows: what was learned from.
    """

    def __init__(self, config: Config, recorded: RecordedVersions, rows: LearnedRows) -> None:
        self._config = config
        self._recorded = recorded
        self._rows = rows
        self._store = CheckpointStore(config.paths.state)
        self._chain: dict[int, Checkpoint] = {}
        self._lost: set[int] = set()
        self._behavior = _Behavior(self._store)

    def make(self, manifest: Mapping[str, Any]) -> Checkpoint:
        """Make a version again from those before it.

        Raises:
            NotRebuilt: something is missing or altered.
        """
        base_number, parents = base_of(manifest), manifest["parents"]
        head = self.at(parents[0]) if parents and parents[0] else None
        base = self.at(base_number) if base_number else _initial(manifest)
        try:
            return rebuilt(manifest, self._change(manifest, base), base=base, head=head)
        except (PolicyError, ValueError) as error:
            raise NotRebuilt(str(error)) from error

    def at(self, version: int) -> Checkpoint:
        """A version to go on from: the recorded one, or the rebuilt one.

        Raises:
            NotRebuilt: there is neither.
        """
        found = self._chain.get(version) or self.recorded(version)
        if found is None:
            reason = f"made from version {version}, which is gone and could not be rebuilt"
            raise NotRebuilt(reason, by_retention=version in self._lost)
        return found

    def lose(self, version: int) -> None:
        """What a version was made from was removed by retention."""
        self._lost.add(version)

    def recorded(self, version: int) -> Checkpoint | None:
        """A version as it was published; None when it is pruned or damaged."""
        try:
            return self._store.load(version)
        except StoreError:
            return None

    def go_on_from(self, checkpoint: Checkpoint, *, is_recorded: bool) -> None:
        """Have the next versions made from this one."""
        self._chain[checkpoint.version] = checkpoint
        if not is_recorded:
            self._behavior.add(checkpoint)

    def release(self, last_use: Mapping[int, int], *, after: int) -> None:
        """Forget versions that none after ``after`` is made from."""
        for version in [v for v in self._chain if last_use.get(v, v) <= after and v < after]:
            del self._chain[version]

    def settings(self, manifest: Mapping[str, Any]) -> LearnerSettings:
        """The learning rule of a version; today's where it was not recorded.

        Raises:
            NotRebuilt: this release knows another set of settings.
        """
        recorded = manifest["record"].get("settings")
        if recorded is None:
            return self._config.learner.settings()
        try:
            return LearnerSettings(**recorded)
        except (TypeError, ValueError) as error:
            raise NotRebuilt(f"its settings are not of this release: {error}") from error

    def _change(self, manifest: Mapping[str, Any], base: Checkpoint) -> Delta:
        if "rollback" in manifest:
            return Delta(weights={})
        if is_from_rows(manifest):
            return self._learn(manifest, base)
        return self._saved(manifest)

    def _learn(self, manifest: Mapping[str, Any], base: Checkpoint) -> Delta:
        record = manifest["record"]
        torch.set_num_threads(record["threads"])
        return learn(
            base,
            self._rows.chunks(manifest),
            settings=self.settings(manifest),
            seed=record["seed"],
            device=device_of(record),
            behavior=self._behavior.of(manifest),
            passes=self._rows.passes(manifest),
        ).delta

    def _saved(self, manifest: Mapping[str, Any]) -> Delta:
        """What another writer saved, as it was kept; nothing where nothing was changed."""
        version, counters = manifest["version"], dict(manifest["delta_counters"])
        try:
            delta = self._recorded.delta(version)
        except VersionPruned:
            delta = None
        except StoreError as error:
            raise NotRebuilt(str(error)) from error
        if delta is not None:
            return delta
        if manifest["keys"] or counters:
            raise NotRebuilt(f"the change that {manifest['writer']!r} saved was not kept")
        return Delta(weights={})


class _Behavior:
    """Looks up the version that acted: as it is kept, or as it was rebuilt."""

    def __init__(self, store: CheckpointStore) -> None:
        self._kept = BehaviorCache(store)
        self._rebuilt: OrderedDict[int, ActingVersion] = OrderedDict()
        self._bytes = 0

    def of(self, manifest: Mapping[str, Any]) -> "_Behavior | _Nobody":
        """For one version: where none acted that was known then, none is now."""
        return self if manifest["delta_counters"].get("logp_recovered") else _Nobody()

    def __call__(self, version: int) -> ActingVersion | None:
        return self._kept(version) or self._rebuilt.get(version)

    def add(self, checkpoint: Checkpoint) -> None:
        """Keep what a version acts with that the store does not have any more."""
        names = checkpoint.spec.actor_shapes()
        self._rebuilt[checkpoint.version] = ActingVersion(
            version=checkpoint.version,
            updates=checkpoint.counters.get("updates", 0),
            spec=checkpoint.spec,
            weights={name: checkpoint.weights[name] for name in names},
            normalizer=checkpoint.normalizer,
        )
        self._bytes += sum(checkpoint.weights[name].nbytes for name in names)
        while self._bytes > MOST_BYTES and len(self._rebuilt) > 1:
            _, oldest = self._rebuilt.popitem(last=False)
            self._bytes -= sum(array.nbytes for array in oldest.weights.values())


class _Nobody:
    def __call__(self, version: int) -> None:
        del version


def device_of(record: Mapping[str, Any]) -> str:
    """The device of then, where this machine has it."""
    return "cuda" if record.get("device") == "cuda" and choose_device("auto") == "cuda" else "cpu"


def _initial(manifest: Mapping[str, Any]) -> Checkpoint:
    seed = manifest["record"].get("seed")
    if seed is None:
        raise NotRebuilt(f"{manifest['writer']!r} began it with weights that were never published")
    return initial_checkpoint(PolicySpec.from_json(manifest["spec"]), seed=seed)
